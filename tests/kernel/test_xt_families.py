"""What is refused of one family stops nothing of the other: no object of one waits for the other's."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nfagent.errors import KernelError
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_listing import XtKernel, XtReader
from nfagent.kernel.xt_programs import programs_of
from nfagent.model.netaddr import Family
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.xtables.lowering import lower
from nfagent.xtables.objects import XtRuleset
from nfagent.xtables.options import LoweringOptions
from tests.support.own_namespace import own_iptables
from tests.support.two_node_cluster import TwoNodeCluster, labelled, namespace, pod, policy

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

COMMANDS: dict[Family, str] = {4: "iptables", 6: "ip6tables"}
REFUSING = """#!/bin/sh
if [ -e {switch} ]; then
    echo "{name} v1.8.9 (legacy): line 2: this kernel refuses it" >&2
    exit 2
fi
exec {real} "$@"
"""


def shop(*peers: str) -> Ruleset:
    return (
        TwoNodeCluster(
            namespace("shop"),
            pod("shop/web", "a", 10, app="web"),
            pod("shop/db", "a", 11, app="db"),
            policy("shop/web", labelled(app="web"), ingress=[{"from": [{"podSelector": labelled(app="db")}]}]),
            *(policy(f"shop/{peer}", labelled(app="db"), types=["Ingress"]) for peer in peers),
        )
        .views["a"]
        .ruleset()
    )


BEFORE, AFTER, LATER = shop(), shop("isolated"), shop("isolated", "again")


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with own_iptables("families", tmp_path, monkeypatch):
        yield


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> XtKernel:
    """Return a kernel that refuses all restores of a family while a file of its name is there."""
    for family, command in COMMANDS.items():
        name = f"{command}-legacy-restore"
        program = tmp_path / name
        program.write_text(REFUSING.format(switch=tmp_path / str(family), name=name, real=shutil.which(name)))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return XtKernel(programs_of("legacy"), (4, 6), IpSetSocket(), NfacctSocket())


def of_family(ruleset: XtRuleset, family: Family) -> XtRuleset:
    """Return the objects of one family."""
    return XtRuleset(
        {name: item for name, item in ruleset.sets.items() if item.family == family},
        {key: chain for key, chain in ruleset.chains.items() if key[0] == family},
        {key: name for key, name in ruleset.hooks.items() if key[0] == family},
    )


def found(kernel: XtKernel, wanted: Ruleset, family: Family) -> tuple[XtRuleset, XtRuleset]:
    """Return what the kernel has of a family, and what it should have of a ruleset."""
    lowered, _ = lower(wanted, LoweringOptions())
    return of_family(XtReader(kernel).read(lowered).ruleset, family), of_family(lowered, family)


@pytest.mark.parametrize(("refused", "other"), [(4, 6), (6, 4)])
def test_a_family_whose_change_is_refused_keeps_its_rules_and_the_other_gets_its_own(
    kernel: XtKernel, tmp_path: Path, refused: Family, other: Family
) -> None:
    switch = tmp_path / str(refused)

    async def body(client: XtClient) -> None:
        await client.apply(await client.difference(BEFORE))
        switch.touch()
        with pytest.raises(KernelError, match=f"{COMMANDS[refused]}-legacy-restore"):
            await client.apply(diff(BEFORE, AFTER))
        has, should = found(kernel, AFTER, other)
        assert has == should
        has, should = found(kernel, BEFORE, refused)
        assert (has.chains, has.hooks) == (should.chains, should.hooks)

        with pytest.raises(KernelError):  # a later change, and it goes on
            await client.apply(await client.difference(LATER))
        has, should = found(kernel, LATER, other)
        assert has == should

        switch.unlink()
        await client.apply(await client.difference(AFTER))
        assert await client.difference(AFTER) == ()

    with closing(XtClient(kernel, lambda: BEFORE)) as client:
        asyncio.run(body(client))


@pytest.mark.parametrize(("refused", "other"), [(4, 6), (6, 4)])
def test_at_the_start_too(kernel: XtKernel, tmp_path: Path, refused: Family, other: Family) -> None:
    (tmp_path / str(refused)).touch()

    async def body(client: XtClient) -> None:
        assert await client.difference(AFTER) == diff(ABSENT, AFTER)
        with pytest.raises(KernelError):
            await client.apply(diff(ABSENT, AFTER))

    with closing(XtClient(kernel, lambda: AFTER)) as client:
        asyncio.run(body(client))
        has, should = found(kernel, AFTER, other)
        assert has == should
