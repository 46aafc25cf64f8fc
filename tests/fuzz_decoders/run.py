"""Runs the worker of one target, and reads libFuzzer's lines."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.fuzz_decoders.targets import module_of

_PROGRESS = re.compile(r"^#(?P<inputs>\d+)\s.* cov: (?P<coverage>\d+) .*exec/s: (?P<speed>\d+) rss: (?P<rss>\d+)Mb")
_STATISTIC = re.compile(r"^stat::(?P<name>\w+):\s+(?P<value>\d+)")
_DONE = re.compile(r"^Done (?P<inputs>\d+) runs in (?P<seconds>\d+) second")
_FOUND = re.compile(r"Test unit written to (?P<path>.+)$")
_NOISE = ("INFO: Instrumenting", "WARNING: Failed to find function")
_INPUT_SECONDS = 60
_MOST_MEMORY_MB = 1024


class FuzzResult(msgspec.Struct):
    """The result of a target.

    coverage: branches of nfagent that inputs have taken
    peak_mb:  largest RSS of the process, with all of nfagent, in MiB
    found:    the file of the input that failed; '' for none
    lines:    the last lines of the worker, where it failed
    """

    name: str
    inputs: int = 0
    seconds: int = 0
    coverage: int = 0
    peak_mb: int = 0
    found: str = ""
    lines: list[str] = []
    code: int = 0

    @property
    def failed(self) -> bool:
        """Whether an input failed, or the worker ended before it was done."""
        return bool(self.found) or self.code != 0


def run_target(name: str, inputs: int, folder: Path, report: Callable[[FuzzResult], None]) -> FuzzResult:
    """Fuzz a target with so many inputs; `report` gets each stage of the result."""
    folder.mkdir(parents=True, exist_ok=True)
    options = [
        f"-runs={inputs}",
        f"-timeout={_INPUT_SECONDS}",
        f"-rss_limit_mb={_MOST_MEMORY_MB}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "-m", "tests.fuzz_decoders.worker", module_of(name), name, str(folder), *options]
    result = FuzzResult(name)
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    try:
        for line in worker.stderr or ():
            if not line.startswith(_NOISE):
                _add(result, line.rstrip())
                report(result)
        result.code = worker.wait()
    finally:
        worker.kill()
        worker.wait()
        if worker.stderr is not None:
            worker.stderr.close()
    return result


def _add(result: FuzzResult, line: str) -> None:
    result.lines = [*result.lines[-40:], line]
    if found := _PROGRESS.match(line):
        result.inputs, result.coverage = int(found["inputs"]), int(found["coverage"])
        result.peak_mb = max(result.peak_mb, int(found["rss"]))
    elif found := _DONE.match(line):
        result.inputs, result.seconds = int(found["inputs"]), int(found["seconds"])
    elif (found := _STATISTIC.match(line)) and found["name"] == "peak_rss_mb":
        result.peak_mb = int(found["value"])
    elif found := _FOUND.search(line):
        result.found = found["path"]
