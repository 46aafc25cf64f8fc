"""A verdict log on a disk that stalls: policies take effect all the same, and a stop isn't held up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfagent.cli.client import ask
from tests.kernel.test_cli import CLUSTER, DEADLINE, Site, nft, site

__all__ = ["site"]
STOP_SECONDS = 10.0

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]


@contextmanager
def stalled(path: Path) -> Iterator[None]:
    """Put a FIFO there that is full, and that nobody reads."""
    path.parent.mkdir()
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        while True:
            os.write(end, b"x" * 4096)
    except BlockingIOError:
        yield
    finally:
        os.close(end)


def test_while_the_disk_stalls_a_policy_takes_effect_and_a_stop_is_not_held_up(site: Site) -> None:
    with stalled(site.folder / "log" / "policy_action.log"), site.agent() as agent:
        site.drop_a_packet()
        end = time.monotonic() + DEADLINE
        while not ask(site.socket, "/v1/dump/state", {})["agent"]["verdict_log"]["queued_lines"]:
            assert time.monotonic() < end, "the record never came"
        (site.manifests / "cluster.yaml").write_text(CLUSTER.replace("5432", "5433"))
        while "5433" not in nft("list", "table", "inet", "nfagent"):
            assert time.monotonic() < end, "the change was never enforced"
        began = time.monotonic()
        said = agent.stop()
        assert time.monotonic() - began < STOP_SECONDS
    assert "the disk doesn't take the verdict log; lines lost at this stop: 1" in said
