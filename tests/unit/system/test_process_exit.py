"""The exit of a process with a thread that hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nfagent.system.process_exit import exit_within
from tests.support.disk_images import hung

HANGING = """
import asyncio, os, sys
from nfagent.system.own_log import OwnLog
from nfagent.system.process_exit import exit_within
OwnLog().start("info", "text")

async def main():
    asyncio.get_running_loop().run_in_executor(None, os.stat, sys.argv[1])
    exit_within(0.5)

asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a disk that never answers")
def test_a_process_ends_while_a_thread_of_an_executor_waits_for_a_disk(tmp_path: Path) -> None:
    with hung(tmp_path / "disk"):
        command = [sys.executable, "-c", HANGING, str(tmp_path / "disk" / "file")]
        # Without the limit it never ends.
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert "stopped: threads did not end in time" in done.stderr


def test_a_stop_without_a_thread_has_no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    exit_within(60)
