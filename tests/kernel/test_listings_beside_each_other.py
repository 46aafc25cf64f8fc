"""Listings by several threads at once are each whole, also where no process can be started for them.

They are made in the agent's process then, by libnftables, which keeps state that all its contexts share.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nfagent.kernel.nft_listing import NftListing
from nfagent.nftables.objects import TABLE, TABLE_FAMILY
from tests.support.own_namespace import own_namespace
from tests.support.programs import unstartable

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

_MAPS, _THREADS, _TIMES = 200, 3, 40
_MAP = "add map {table} m{number} {{ type ipv4_addr . inet_proto . inet_service : verdict; }}"


@pytest.fixture
def table() -> Iterator[str]:
    """Return the listing of a table whose maps have keys of several types."""
    with own_namespace("beside"):
        table = f"{TABLE_FAMILY} {TABLE}"
        maps = "\n".join(_MAP.format(table=table, number=number) for number in range(_MAPS))
        text = f"add table {table}\n{maps}\n"
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        yield _listed()


def _listed() -> str:
    listing = NftListing()
    try:
        return listing.table(TABLE_FAMILY) or ""
    finally:
        listing.close()


@pytest.mark.parametrize("program", [True, False], ids=["by the program nft", "in the process itself"])
def test_listings_of_several_threads_are_those_of_one(
    *, program: bool, table: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not program:
        monkeypatch.setenv("PATH", unstartable(tmp_path))
    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(lambda _: _listed(), range(_THREADS * _TIMES)))
    assert table.count('"inet_service"') == _MAPS
    assert [listing for listing in found if listing != table] == []
