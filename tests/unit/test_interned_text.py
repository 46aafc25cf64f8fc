"""What an agent does again and again interns no new text.

CPython has one table of all interned strings. Each that is interned anew uses up a place in it, also after it is gone,
and once all are used the table is made anew, at twice its size or more. `pathlib` interns every part of a path.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from nfagent.checkpoint.kept_text import KeptText
from nfagent.clock import SystemClock
from nfagent.controllers.ip_masq_file import IpMasqFile
from nfagent.kernel.conntrack_usage import read_conntrack_usage
from nfagent.manifests.follower import follow
from nfagent.manifests.index import ManifestIndex

_NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {turn: '%d'}}\n"
_WITHIN_SECONDS = 20


@pytest.fixture
def interned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the texts that take a new place in the table, as pathlib interns them."""
    made: list[str] = []
    intern = sys.intern

    def note(text: str) -> str:
        copy = f"{text} "[:-1]
        if intern(copy) is copy:  # neither the text nor an equal one was in the table
            made.append(text)
        del copy
        return intern(text)

    monkeypatch.setattr(sys, "intern", note)
    return made


def _write(path: str, text: str) -> None:
    """Write a file and rename it into place, without a Path, which would intern its name."""
    folder, name = os.path.split(path)
    beside = f"{folder}/.{name}.new"
    with open(beside, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(text)
    os.rename(beside, path)  # noqa: PTH104


def test_reading_how_full_conntrack_is(interned: list[str]) -> None:
    read_conntrack_usage()
    interned.clear()
    read_conntrack_usage()
    assert interned == []


def test_writing_the_text_of_a_file_of_the_state_folder(tmp_path: Path, interned: list[str]) -> None:
    kept = KeptText(tmp_path / "packet-counts")
    interned.clear()
    for number in range(3):
        kept.write(b"%d" % number)
    assert kept.read() == b"2"
    assert interned == []


def test_reading_the_ip_masq_agent_file(tmp_path: Path, interned: list[str]) -> None:
    path = f"{tmp_path}/ip-masq-agent"
    _write(path, "masqLinkLocal: true\n")
    read: list[object] = []
    file = IpMasqFile(path, tmp_path / "state", SystemClock(), 1.0, read.append)
    asyncio.run(file.read())
    interned.clear()
    asyncio.run(file.read())
    assert read
    assert "ip-masq-agent" not in interned


def test_manifests_that_are_renamed_into_place_by_turns(tmp_path: Path, interned: list[str]) -> None:
    # Names that no other test of this process may hold.
    files = [f"written-by-turns-{name}.yaml" for name in ("db", "shop", "web")]
    names = {*files, *(f".{file}.new" for file in files)}

    async def body() -> None:
        batches = follow(tmp_path, ManifestIndex(), asyncio.Event())
        for turn in range(3):
            if turn == 2:
                assert names <= set(interned)
                interned.clear()
            for file in files:
                _write(f"{tmp_path}/{file}", _NAMESPACE % (file.removesuffix(".yaml"), turn))
                while f"'{turn}'" not in str(list(await anext(batches))):
                    continue
        assert not names & set(interned)

    asyncio.run(asyncio.wait_for(body(), _WITHIN_SECONDS))
