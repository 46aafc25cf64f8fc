"""What discards packets of other nodes' Pods, by the sysctls of an interface."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.kernel.reverse_path import discards
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with own_namespace("reverse"):
        yield


@pytest.mark.parametrize(("name", "shown"), [(b"up0", "up0"), (b"\xff0", "\ufffd0")], ids=["text", "no text"])
def test_an_interface_with_a_strict_filter_is_named_in_words_that_can_be_written(name: bytes, shown: str) -> None:
    subprocess.run([b"ip", b"link", b"add", name, b"type", b"bridge"], check=True)
    filters = Path("/proc/sys/net/ipv4/conf") / os.fsdecode(name) / "rp_filter"
    filters.write_text("1")
    (problem,) = (text for text in discards([socket.if_nametoindex(os.fsdecode(name))]) if "strict" in text)
    assert f"come in by {shown} are dropped" in problem
    assert problem.encode()
