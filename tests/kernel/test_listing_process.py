"""A process that lists other programs' tables: it crashes, is stopped, can't be started, or finds nothing to list."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nfagent.errors import KernelError, UnlistableError
from nfagent.kernel.listing_process import ListingProcess
from nfagent.netlink.nft_messages import NFPROTO_INET
from tests.support.own_namespace import own_namespace
from tests.support.raw_rules import UNLISTABLE, add_rule

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]


@pytest.fixture(autouse=True)
def _table() -> Iterator[None]:
    with own_namespace("listed"):
        text = 'table inet t {\n chain bad { }\n chain good { counter comment "né"; }\n}'
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        yield


def nft(*arguments: str) -> str:
    return subprocess.run(["nft", *arguments], capture_output=True, text=True, check=True).stdout


def test_it_lists_what_nft_lists_as_json_and_as_text() -> None:
    with closing(ListingProcess()) as listing:
        assert listing.listed("list table inet t") == nft("--json", "list table inet t")
        assert listing.listed("list chain inet t good", as_text=True) == nft("--handle", "list chain inet t good")
        assert listing.listed("list table inet t") == nft("--json", "list table inet t")


def test_of_what_does_not_exist_it_lists_nothing() -> None:
    with closing(ListingProcess()) as listing:
        assert listing.listed("list chain inet t absent") is None


def test_what_nft_refuses_is_an_error_with_its_words() -> None:
    with closing(ListingProcess()) as listing:
        with pytest.raises(KernelError, match="syntax error"):
            listing.listed("list nonsense")
        assert "good" in (listing.listed("list table inet t") or "")


def test_after_a_crash_the_next_command_is_answered() -> None:
    add_rule(NFPROTO_INET, "t", "bad", *UNLISTABLE)
    with closing(ListingProcess()) as listing:
        assert "good" in (listing.listed("list chain inet t good") or "")
        for _ in range(2):
            with pytest.raises(UnlistableError, match=r"`nft --json list chain inet t bad` was ended by SIGABRT: .+"):
                listing.listed("list chain inet t bad")
        assert "good" in (listing.listed("list chain inet t good") or "")


def test_a_command_that_is_not_answered_in_time_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "silent.py"
    silent.write_text("import time; time.sleep(300)")
    monkeypatch.setattr("nfagent.kernel.listing_process._CHILD", silent)
    with (
        closing(ListingProcess(seconds=0.2)) as listing,
        pytest.raises(KernelError, match=r"`nft --json list tables` has not ended after 0\.2 s"),
    ):
        listing.listed("list tables")


def test_a_process_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/program")
    with (
        closing(ListingProcess()) as listing,
        pytest.raises(KernelError, match="no process can be started to list tables: No"),
    ):
        listing.listed("list tables")
