"""A real systemd-journald for a test, in mounts of its own thread; the machine's journal sees nothing of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nfagent.verdicts.journal_entry import MESSAGE_ID
from tests.support.packet_labs import wait_until
from tests.support.tmpfs_mounts import in_own_mounts, mount_empty

_DAEMON = Path("/lib/systemd/systemd-journald")
_FOLDERS = (Path("/run/systemd"), Path("/run/log"), Path("/var/log"))
_NAMESPACE = "nfagent-test"


def with_journald(body: Callable[[], None]) -> None:
    """Call a function while a journald listens where the machine's would; skips the test where there is none."""
    if not _DAEMON.exists() or shutil.which("journalctl") is None:
        pytest.skip("systemd-journald isn't installed")
    with ExitStack() as made:
        for folder in _FOLDERS:
            if not folder.exists():
                folder.mkdir()
                made.callback(folder.rmdir)

        def within() -> None:
            for folder in _FOLDERS:
                mount_empty(folder, "size=64m,mode=755")
            with _running():
                body()

        in_own_mounts(within)


@contextmanager
def _running() -> Iterator[None]:
    # As the journal of a namespace it leaves the kernel's messages and audit alone.
    socket = Path(f"/run/systemd/journal.{_NAMESPACE}/socket")
    with subprocess.Popen([_DAEMON, _NAMESPACE]) as process:
        try:
            wait_until(socket.exists)
            Path("/run/systemd/journal").mkdir()
            Path("/run/systemd/journal/socket").symlink_to(socket)
            yield
        finally:
            process.terminate()
            process.wait(30)


def journal_records() -> list[dict[str, Any]]:
    """Return the entries of records that the journal holds, as `journalctl -o json` shows them."""
    folders = [f"--directory={folder}" for folder in Path("/var/log/journal").glob(f"*.{_NAMESPACE}")]
    command = ["journalctl", *folders, "-o", "json", "--all", f"MESSAGE_ID={MESSAGE_ID}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]
