"""The agent's threads share malloc's arenas: what one of them has freed is used by the others, and returns."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from tests.kernel.test_cli import AgentSite, site
from tests.support.packet_labs import wait_until

__all__ = ["site"]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

_HEAP_BYTES = 64 * 1024 * 1024
"""glibc's HEAP_MAX_SIZE on 64-bit machines: the address space of an arena of threads, and what it is aligned to."""


def steady_maps(pid: int) -> str:
    """Return the mappings of a process; read again where they change meanwhile: each is read by itself."""
    maps = Path(f"/proc/{pid}/maps")
    text, before = maps.read_text("ascii"), ""
    while text != before:
        text, before = maps.read_text("ascii"), text
    return text


def arenas_of_threads(pid: int) -> int:
    """Return how many arenas a process has beside the main one: aligned, in use up to a place, reserved from there."""
    mappings = []
    for line in steady_maps(pid).splitlines():
        addresses, permissions, _, _, inode = line.split()[:5]
        begin, end = (int(address, 16) for address in addresses.split("-"))
        mappings.append((begin, end, permissions, inode))
    return sum(
        used[0] % _HEAP_BYTES == 0
        and used[2:] == ("rw-p", "0")
        and reserved[0] == used[1]
        and reserved[1] >= used[0] + _HEAP_BYTES  # more, where what follows is reserved too
        and reserved[2:] == ("---p", "0")
        for used, reserved in pairwise(mappings)
    )


def test_an_agent_s_threads_share_one_malloc_arena_beside_the_main_one(site: AgentSite) -> None:
    with site.agent() as agent:
        pid = agent.process.pid
        wait_until(lambda: len(list(Path(f"/proc/{pid}/task").iterdir())) > 8)
        assert arenas_of_threads(pid) == 1
        agent.stop()
