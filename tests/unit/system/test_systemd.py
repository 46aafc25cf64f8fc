"""States sent to systemd, and that its absence is no error."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.system.systemd import notify
from tests.support.packet_labs import wait_until

DEADLINE = 60.0


@pytest.fixture(params=["a path", "an abstract address"])
def listener(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    path = str(tmp_path / "notify")
    abstract = request.param == "an abstract address"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{path}" if abstract else path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.settimeout(DEADLINE)
        opened.bind(f"\0{path}" if abstract else path)
        yield opened


def test_a_state_is_one_datagram(listener: socket.socket) -> None:
    assert notify("READY=1\nSTATUS=enforcing")
    assert notify("STOPPING=1")
    assert [listener.recv(4096), listener.recv(4096)] == [b"READY=1\nSTATUS=enforcing", b"STOPPING=1"]


def test_a_state_with_what_is_no_text_is_sent_with_escapes(listener: socket.socket) -> None:
    assert notify("STATUS=interface \udcff0")
    assert listener.recv(4096) == rb"STATUS=interface \udcff0"


@pytest.mark.parametrize("address", [None, "", "relative/notify", "vsock:2:1234"])
def test_without_a_listener_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("READY=1")


@pytest.mark.parametrize("length", [10, 200])
def test_a_missing_or_invalid_socket_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, length: int) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / ("x" * length)))
    assert not notify("READY=1")


def test_a_listener_that_does_not_read_blocks_no_caller_and_gets_all_states_later(listener: socket.socket) -> None:
    target = listener.getsockname()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as others:
        filled = 0
        try:
            while True:
                others.sendto(b"x", target)
                filled += 1
        except BlockingIOError:
            pass
    states = [f"STATUS={number}" for number in range(20)]
    assert all(notify(state) for state in states)
    assert [listener.recv(4096) for _ in range(filled)] == [b"x"] * filled
    assert [listener.recv(4096).decode() for _ in states] == states
    # While its thread runs, later states of this process are queued: the next test would find them late.
    wait_until(lambda: "sd-notify" not in {thread.name for thread in threading.enumerate()}, DEADLINE)
