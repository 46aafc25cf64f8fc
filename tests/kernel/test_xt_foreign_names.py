"""Chains and sets of other programs that have names of nfagent's are named before they go."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.kernel.xt_extensions import PROBE
from nfagent.xtables.lowering import lower
from nfagent.xtables.names import is_made, temporary
from nfagent.xtables.options import LoweringOptions
from tests.kernel.test_xt_client import SHOP, client, converge, run
from tests.support.own_namespace import own_iptables

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; the lock of iptables is this test's own."""
    with own_iptables("xtforeign", tmp_path, monkeypatch):
        yield


def test_a_chain_and_a_set_of_another_program_are_named_once_with_what_keeps_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run("ip6tables-legacy", "-t", "mangle", "-N", "nfa-theirs")
    run("ip6tables-legacy", "-t", "mangle", "-N", PROBE)  # of an agent that was killed
    run("ipset", "create", "nfx-theirs", "hash:ip")

    async def body() -> None:
        await converge(kernel, SHOP)
        await kernel.difference(SHOP)

    with caplog.at_level(logging.WARNING), client("legacy") as kernel:
        asyncio.run(body())

    assert [record.message.partition(" is another program's; ")[0] for record in caplog.records] == [
        "chain nfa-theirs of table mangle, IPv6,",
        "set nfx-theirs",
    ]
    assert [record.message.rpartition("by another name it stays: ")[2] for record in caplog.records] == [
        "`ip6tables-legacy -t mangle -N my-theirs`",
        "`ipset rename nfx-theirs my-theirs`",
    ]


def test_all_names_that_are_made_are_known_as_ours() -> None:
    made = lower(SHOP, LoweringOptions())[0]
    names = {*made.sets, *made.accounts, *(key[2] for key in made.chains)}
    assert all(map(is_made, (*names, *map(temporary, made.sets), *(temporary(name, 1) for name in made.sets))))


_REMOVAL = "from nfagent.kernel.backend_switch import remove_xt_rules; print(remove_xt_rules())"


def test_a_service_without_the_right_of_iptables_legacy_knows_that_nothing_there_is_ours() -> None:
    """The agent by nftables asks at each start; its unit has CAP_NET_ADMIN alone."""
    run("iptables-legacy", "-t", "mangle", "-A", "FORWARD", "-j", "ACCEPT")
    without = ("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw")

    assert run(*without, sys.executable, "-c", _REMOVAL).startswith("RemovedRules(chains=0, rules=0, sets=0")
