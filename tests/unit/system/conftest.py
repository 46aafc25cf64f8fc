"""A socket in the place of systemd's."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Return the states sent since the last call."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.bind(path)
        opened.settimeout(0)

        def so_far() -> list[str]:
            found = []
            while True:
                try:
                    found.append(opened.recv(4096).decode())
                except BlockingIOError:
                    return found

        yield so_far
