"""What is told to systemd, and that nobody minds when it isn't there."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.edge.systemd import PATIENCE_SECONDS, let_the_node_start, notify

UNIT = Path(__file__).parents[3] / "systemd" / "nfagent.service"

DEADLINE = 10


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


@pytest.mark.parametrize("address", [None, "", "relative/notify", "vsock:2:1234"])
def test_where_nobody_asked_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("READY=1")


@pytest.mark.parametrize("length", [10, 200])
def test_a_socket_that_is_gone_or_can_not_be_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, length: int
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / ("x" * length)))
    assert not notify("READY=1")


class Waits:
    """A clock by which everything that isn't there comes too late."""

    def __init__(self) -> None:
        self.waited = 0.0

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.waited = seconds
        return event.is_set()


@pytest.mark.parametrize("gathered", [True, False], ids=["a cluster that was read", "one that can't be read"])
def test_the_node_starts_without_rules_only_where_the_cluster_is_read_too_late(
    listener: socket.socket,
    gathered: bool,  # noqa: FBT001 - a table's column
) -> None:
    async def body() -> float:
        event, clock = asyncio.Event(), Waits()
        if gathered:
            event.set()
        await let_the_node_start(event, clock)
        return clock.waited

    assert asyncio.run(body()) == PATIENCE_SECONDS
    notify("END=1")
    said = listener.recv(4096)
    assert said.startswith(b"END=1" if gathered else b"READY=1\nSTATUS=waiting to read the cluster")


def test_kubelet_waits_longer_than_the_agent_does() -> None:
    found = re.search(r"^TimeoutStartSec=(\d+)$", UNIT.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    assert int(found[1]) > PATIENCE_SECONDS
