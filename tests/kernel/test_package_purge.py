"""A purge of the Debian package: its rules go from iptables, those of other programs stay."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_programs import Variant, programs_of
from nfagent.nftables.objects import ABSENT, Ruleset
from tests.properties.strategies import desired
from tests.support.own_namespace import own_namespace
from tests.support.two_node_cluster import DECODERS, labelled, namespace, node, pod, policy

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

POSTRM = Path(__file__).parents[2] / "packaging" / "deb" / "nfagent.postrm"
# What a purge deletes is, for this process alone, in empty folders, and /etc is a copy without a service.
PURGE = f"""
set -e
for each in /run /var; do mount -t tmpfs none $each; done
mkdir /run/changed /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/changed,workdir=/run/work none /etc
mount -t tmpfs none /etc/systemd/system
exec sh {POSTRM} purge
"""
OTHERS = """*mangle
:others - [0:0]
-A FORWARD -m comment --comment "it says -j nfa-x" -j others
-A others -m set --match-set others src -j RETURN
COMMIT
*filter
-A INPUT -p tcp --dport 22 -j ACCEPT
COMMIT
"""


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; the lock of iptables is this test's own."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with own_namespace("purge"):
        yield


def run(*command: str, stdin: str = "") -> str:
    return subprocess.run(command, text=True, check=True, capture_output=True, input=stdin).stdout


def without_counts(saved: str) -> list[str]:
    return [line.partition("[")[0] for line in saved.splitlines() if not line.startswith("#")]


def shop() -> Ruleset:
    documents = (
        node("a"),
        namespace("shop"),
        pod("shop/web", "a", 10, app="web"),
        policy("shop/web", labelled(app="web"), ingress=[{"from": [{"podSelector": labelled(app="db")}]}]),
    )
    return desired("a", [item for each in documents if (item := DECODERS[each["kind"]](each)) is not None]).ruleset()


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_it_removes_chains_and_sets_and_leaves_those_of_other_programs(variant: Variant) -> None:
    run("ipset", "create", "others", "hash:ip")
    saves = [f"{program}-{variant}-save" for program in ("iptables", "ip6tables")]
    kernel = XtClient(XtKernel(programs_of(variant), (4, 6), IpSetSocket(), NfacctSocket()), lambda: ABSENT)
    try:
        transaction = asyncio.run(kernel.difference(shop()))
        asyncio.run(kernel.apply(transaction))
    finally:
        kernel.close()
    ours = [run(save) for save in saves]
    run(f"iptables-{variant}-restore", "--noflush", stdin=OTHERS)
    run("unshare", "--mount", "sh", "-c", PURGE)
    assert all("-j nfa-" in each for each in ours)
    left = [without_counts(run(save)) for save in saves]
    assert [line for save in left for line in save if "nfa-" in line] == [
        '-A FORWARD -m comment --comment "it says -j nfa-x" -j others'
    ]
    assert "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT" in left[0]
    assert run("ipset", "list", "-name").split() == ["others"]
