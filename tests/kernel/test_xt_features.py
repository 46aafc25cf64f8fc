"""What a kernel lacks of iptables is named, and the rest works."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.backend_parts import BackendParts, RulesetClient
from nfagent.clock import SystemClock
from nfagent.config import Settings
from nfagent.kernel.nft_monitor import NftMonitor
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_features import open_xt_kernel
from nfagent.kernel.xt_programs import XtPrograms, programs_of
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Ruleset
from tests.support.own_namespace import own_namespace
from tests.support.two_node_cluster import TwoNodeCluster, namespace, pod, policy

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

# Stands for ip6tables-restore in a kernel without ip6table_nat.
WITHOUT_NAT = """#!/bin/sh
given=$(cat)
case $given in
*'*nat'*)
    echo "ip6tables-restore v1.8.9 (legacy): ip6tables-restore: unable to initialize table 'nat'" >&2
    exit 3
esac
printf '%s\\n' "$given" | exec {real} "$@"
"""


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with own_namespace("features"):
        yield


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> XtPrograms:
    """Return the programs of a kernel without table nat of IPv6."""
    name = "ip6tables-legacy-restore"
    program = tmp_path / name
    program.write_text(WITHOUT_NAT.format(real=shutil.which(name)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return programs_of("legacy")


def saved(command: str) -> str:
    return subprocess.run([f"{command}-legacy-save"], text=True, check=True, capture_output=True).stdout


def test_a_table_that_one_family_lacks_takes_no_other_along(programs: XtPrograms) -> None:
    view = TwoNodeCluster(namespace("shop"), pod("shop/db", "a", 1), policy("shop/db", types=["Ingress"])).views["a"]
    wanted = view.ruleset()
    kernel, features = open_xt_kernel(programs)
    client = XtClient(kernel, lambda: wanted)

    async def body() -> None:
        assert await client.difference(wanted) == diff(ABSENT, wanted)
        await client.apply(diff(ABSENT, wanted))
        assert await client.difference(wanted) == ()

    try:
        asyncio.run(body())
    finally:
        client.close()

    assert features.families == (4, 6)
    lost = (
        "IPv6: nothing is masqueraded or translated: ip6tables-legacy-restore: ip6tables-restore: unable to initialize "
        "table 'nat'; modprobe ip6table_nat, or run a kernel with CONFIG_IP6_NF_NAT"
    )
    assert lost in features.problems
    assert "-A POSTROUTING -j nfa-" in saved("iptables").partition("*nat")[2].partition("COMMIT")[0]
    assert "-A FORWARD -j nfa-" in saved("ip6tables")


def test_what_is_tried_leaves_nothing(programs: XtPrograms) -> None:
    kernel, _ = open_xt_kernel(programs)
    try:
        assert kernel.sets.names() == []
        assert kernel.accounts is None or list(kernel.accounts.read()) == []
    finally:
        kernel.close()
    assert "nfx-" not in saved("iptables") + saved("ip6tables")


def test_rules_that_an_earlier_agent_left_in_iptables_are_known_at_the_start() -> None:
    view = TwoNodeCluster(namespace("shop"), pod("shop/db", "a", 1), policy("shop/db", types=["Ingress"])).views["a"]
    parts = BackendParts(
        Settings(backend="iptables"), view.ruleset, SystemClock(), NftMonitor(others_changed=lambda: None)
    )
    try:
        assert not parts.has_rules()
        asyncio.run(write(parts.client, view.ruleset()))
        assert parts.has_rules()
    finally:
        parts.close()


async def write(client: RulesetClient, wanted: Ruleset) -> None:
    await client.apply(await client.difference(wanted))
