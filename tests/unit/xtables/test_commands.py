"""The commands of a shell from one ruleset to another."""

from __future__ import annotations

import msgspec

from nfagent.model.netaddr import Family
from nfagent.nftables.objects import ABSENT, Chain
from nfagent.xtables.commands import shell_commands
from nfagent.xtables.found import UNKNOWN_RULE
from nfagent.xtables.options import LoweringOptions
from tests.support.two_node_cluster import TwoNodeCluster, namespace, pod, policy

SHOP = (
    TwoNodeCluster(namespace("shop"), pod("shop/db", "a", 1), policy("shop/db", types=["Ingress"])).views["a"].ruleset()
)
OPTIONS = LoweringOptions()
RESTORE: dict[Family, str] = {4: "iptables-legacy-restore", 6: "ip6tables-restore"}


def test_equal_rulesets_need_no_command() -> None:
    assert list(shell_commands(SHOP, SHOP, OPTIONS, RESTORE)) == []


def test_without_rules_sets_come_before_the_chains_of_both_families() -> None:
    found = list(shell_commands(ABSENT, SHOP, OPTIONS, RESTORE))
    kinds = [
        line.split()[0] for line in found if line.startswith(("ipset ", *(f"{name} " for name in RESTORE.values())))
    ]
    assert list(dict.fromkeys(kinds)) == ["ipset", "iptables-legacy-restore", "ip6tables-restore"]
    assert found.count("END") == 2


def test_an_element_that_is_missing_is_added_by_ipset() -> None:
    pods = SHOP.sets["cluster4"]
    without = msgspec.structs.replace(
        SHOP, sets={**SHOP.sets, "cluster4": msgspec.structs.replace(pods, elements=frozenset())}
    )
    assert any(
        line.startswith("ipset ") and " add nf" in line for line in shell_commands(without, SHOP, OPTIONS, RESTORE)
    )


def test_a_chain_that_is_listed_otherwise_is_written_again() -> None:
    name, chain = next((name, chain) for name, chain in SHOP.chains.items() if name.startswith("ingress/"))
    changed = Chain((*chain.rules, UNKNOWN_RULE), chain.hook)
    found = list(
        shell_commands(msgspec.structs.replace(SHOP, chains={**SHOP.chains, name: changed}), SHOP, OPTIONS, RESTORE)
    )
    assert any(line.startswith("iptables-legacy-restore --noflush") for line in found)
    assert any(line.startswith("-A nfa-") for line in found)
