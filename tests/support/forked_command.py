"""Commands of nfagent in processes of their own that are forked, not started: without a Python's start, 0.6 s of CPU.

A command has its own arguments, environment, exit code and output, and is in the network namespace of the calling
thread. Its modules were imported by the server that it is forked from, so a test of imports starts `python -m nfagent`.
The server ends with the tests.
"""

from __future__ import annotations

import os
import pkgutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, get_context
from pathlib import Path

from pyroute2 import netns

import nfagent.cli

_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        __name__,
        "nfagent.agent",
        *(f"nfagent.cli.{module.name}" for module in pkgutil.iter_modules(nfagent.cli.__path__)),
    ]
)


def start_server() -> None:
    """Start the server, if it doesn't run: before a test enters a namespace, which would stay as long as the server."""
    forkserver.ensure_running()


def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run `nfagent` with these arguments. It is killed after so many seconds; raises TimeoutExpired then."""
    namespace = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
    with tempfile.TemporaryDirectory(prefix="nfagent-command-") as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        given = (list(arguments), dict(environment), namespace, [str(path) for path in outputs])
        process = _SERVER.Process(target=_run, args=given)
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["nfagent", *arguments], seconds)
        stdout, stderr = (path.read_text("utf-8") for path in outputs)
        return subprocess.CompletedProcess(["nfagent", *arguments], process.exitcode, stdout, stderr)


def _run(arguments: list[str], environment: dict[str, str], namespace: str, outputs: list[str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate(outputs, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    netns.setns(namespace, flags=0)
    nfagent.cli.main(arguments)
