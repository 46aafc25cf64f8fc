"""Runs the worker of one target, and reads its lines: libFuzzer's, and its own of the longest input."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.fuzz_decoders.targets import module_of

_PROGRESS = re.compile(
    r"^#(?P<inputs>\d+)\s.* cov: (?P<coverage>\d+) ft: (?P<features>\d+) .*exec/s: \d+ rss: (?P<rss>\d+)Mb"
)
_DONE = re.compile(r"^Done (?P<inputs>\d+) runs in ")
_LONGEST = re.compile(r"^longest: (?P<ms>[\d.]+) ms$")
_FOUND = re.compile(r"Test unit written to (?P<path>.+)$")
_NOISE = ("INFO: Instrumenting", "WARNING: Failed to find function")
_INTERRUPTED = 72
"""libFuzzer's code where SIGTERM or SIGINT ended it between two inputs."""
_SLOW = "slow-unit-"
_INPUT_SECONDS = 60
_MOST_MEMORY_MB = 1024


class FuzzResult(msgspec.Struct):
    """The result of a target; of a worker that was told to end, as far as it came.

    coverage:   branches of nfagent that inputs have taken
    features:   those, told apart by how often an input takes them, and comparisons
    seconds:    of CPU, of the whole process
    longest_ms: CPU of the input that took most
    peak_mb:    largest RSS of the process, with all of nfagent, in MiB
    found:      the file of the input that failed; '' for none
    lines:      the last lines of the worker, where it failed
    """

    name: str
    inputs: int = 0
    coverage: int = 0
    features: int = 0
    seconds: float = 0.0
    longest_ms: float = 0.0
    peak_mb: int = 0
    found: str = ""
    lines: list[str] = []
    code: int = 0

    @property
    def failed(self) -> bool:
        """Whether an input failed, or the worker ended by itself before it was done.

        libFuzzer keeps an input that was slow by the clock on the wall, too, which on a busy machine any may be.
        """
        failing = bool(self.found) and not Path(self.found).name.startswith(_SLOW)
        return failing or self.code not in {0, _INTERRUPTED}


def run_target(
    name: str, inputs: int, folder: Path, report: Callable[[FuzzResult], None], seconds: int = 0
) -> FuzzResult:
    """Fuzz a target with so many inputs, or for so many seconds; `report` gets each stage of the result."""
    folder.mkdir(parents=True, exist_ok=True)
    options = [
        f"-runs={inputs}",
        f"-timeout={_INPUT_SECONDS}",
        # By the clock on the wall: on a busy machine any input is slow. The longest one is known by its CPU time.
        f"-report_slow_units={_INPUT_SECONDS}",
        f"-rss_limit_mb={_MOST_MEMORY_MB}",
        f"-artifact_prefix={folder}/",
        f"-max_total_time={seconds}",
    ]
    command = [sys.executable, "-m", "tests.fuzz_decoders.worker", module_of(name), name, str(folder), *options]
    result = FuzzResult(name)
    # libFuzzer ends the worker without Python's clean-up: its temporary files are removed here.
    with tempfile.TemporaryDirectory(prefix="nfagent-fuzz-") as scratch:
        environment = {**os.environ, "TMPDIR": scratch}
        worker = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        try:
            for line in worker.stderr or ():
                if not line.startswith(_NOISE):
                    add_line(result, line.rstrip())
                    report(result)
            _add_usage(result, worker)
        finally:
            worker.kill()
            worker.wait()
            if worker.stderr is not None:
                worker.stderr.close()
    return result


def _add_usage(result: FuzzResult, worker: subprocess.Popen[str]) -> None:
    """Wait for the end of the worker, and add what it used."""
    _, status, usage = os.wait4(worker.pid, 0)
    worker.returncode = result.code = os.waitstatus_to_exitcode(status)
    result.seconds = usage.ru_utime + usage.ru_stime
    result.peak_mb = max(result.peak_mb, usage.ru_maxrss // 1024)


def add_line(result: FuzzResult, line: str) -> None:
    """Add a line of the worker to a result."""
    result.lines = [*result.lines[-40:], line]
    if found := _PROGRESS.match(line):
        result.inputs = int(found["inputs"])
        result.coverage, result.features = int(found["coverage"]), int(found["features"])
        result.peak_mb = max(result.peak_mb, int(found["rss"]))
    elif found := _DONE.match(line):
        result.inputs = int(found["inputs"])
    elif found := _LONGEST.match(line):
        result.longest_ms = float(found["ms"])
    elif found := _FOUND.search(line):
        result.found = found["path"]
