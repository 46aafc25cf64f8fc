"""The commands of `dump diff` put back what sets lack that are there."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.model.netaddr import Family
from nfagent.xtables.commands import shell_commands
from nfagent.xtables.dispatch import all_set, group_of, group_set, target_set
from nfagent.xtables.options import LoweringOptions
from tests.kernel.test_xt_client import SHOP, client, converge, run
from tests.support.own_namespace import own_iptables

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]
((ADDRESS, TARGET),) = SHOP.maps["ingress4"].elements.items()
SETS = {
    "all addresses": all_set("ingress4", 4),
    "a group": group_set("ingress4", 4, group_of(ADDRESS)),
    "a chain": target_set("ingress4", 4, TARGET),
}


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; the lock of iptables is this test's own."""
    with own_iptables("xtdiff", tmp_path, monkeypatch):
        yield


@pytest.mark.parametrize("name", SETS.values(), ids=list(SETS))
def test_the_commands_put_an_address_back_into_the_set_that_lacks_it(name: str) -> None:
    with client("legacy", lambda: SHOP) as kernel:
        asyncio.run(converge(kernel, SHOP))
        run("ipset", "del", name, ADDRESS)
        found = asyncio.run(kernel.read())
        assert found.maps["ingress4"].elements == {}

        restore: dict[Family, str] = {4: "iptables-legacy-restore", 6: "ip6tables-legacy-restore"}
        script = "\n".join(shell_commands(found, SHOP, LoweringOptions(), restore))
        subprocess.run(["sh", "-e", "-c", script], check=True)

        assert asyncio.run(kernel.difference(SHOP)) == ()
