"""A network namespace for a test's own thread, and the threads that it starts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from pyroute2 import netns

from tests.support.packet_labs import wait_until


@contextmanager
def own_namespace(word: str) -> Iterator[None]:
    """Enter a new network namespace with this word in its name, and delete it afterwards."""
    name = f"nfagent-{word}-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        netns.pushns(name)
        try:
            yield
        finally:
            netns.popns()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def await_own_addresses(*addresses: str) -> None:
    """Wait until the kernel takes packets to IPv6 addresses: their local routes come a moment after them."""

    def are_local() -> bool:
        command = ["ip", "-6", "-json", "route", "show", "table", "local"]
        listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return {route["dst"] for route in listed} >= set(addresses)

    wait_until(are_local)


@contextmanager
def own_iptables(word: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace, with a lock of iptables of its own in a folder."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(folder / "xtables.lock"))
    with own_namespace(word):
        yield
