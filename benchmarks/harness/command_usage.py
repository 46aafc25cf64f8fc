"""What a command of nfagent takes: seconds, CPU time, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

_MEASURE = """
import json, resource, subprocess, sys, time
with open(sys.argv[1], "wb") as output:
    began = time.monotonic()
    done = subprocess.run(sys.argv[2:], stdout=output, stderr=subprocess.PIPE, text=True)
    took = time.monotonic() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stderr, took, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
"""Runs a command: the memory of a child begins with that of the process that it was forked from: a small one."""


class CommandUsage(msgspec.Struct, frozen=True, array_like=True):
    """Exit code and stderr of a command; its seconds, its CPU seconds, and its memory in MiB at most."""

    code: int
    said: str
    seconds: float
    cpu: float
    mib: float


def run_measured(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path = Path(os.devnull)
) -> CommandUsage:
    """Run a command of nfagent whose agent has its folders in `folder`; output: where its stdout is written."""
    settings = {"NFAGENT_RUNTIME_DIR": str(folder), "NFAGENT_LOG_DIR": str(folder), "NFAGENT_STATE_DIR": str(folder)}
    measured = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-S", "-c", _MEASURE, str(output), sys.executable, "-m", "nfagent", *arguments],
        env={**os.environ, **settings, **environment},
        capture_output=True,
        check=True,
    )
    return msgspec.json.decode(measured.stdout, type=CommandUsage)
