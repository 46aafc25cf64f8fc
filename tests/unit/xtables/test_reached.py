"""Which chains packets can come to, from one change to the next."""

from __future__ import annotations

import random

import pytest

from nfagent.xtables.lowering import lower
from nfagent.xtables.objects import ChainKey, HookKey, XtChain, XtRule
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.reached import ReachedChains, reached
from tests.support.two_node_cluster import Document, TwoNodeCluster, namespace, pod, policy

HOOK: HookKey = (4, "mangle", "FORWARD")
NAMES = [f"nfa-{letter}" for letter in "abcdefgh"]


def leading(*names: str) -> XtChain:
    return XtChain(tuple(XtRule((), ("-g", name)) for name in names))


def keys(*letters: str) -> set[ChainKey]:
    return {(4, "mangle", f"nfa-{letter}") for letter in letters}


def test_a_chain_is_reached_by_others_from_a_built_in_chain() -> None:
    chains = dict(zip(sorted(keys(*"abc")), (leading("nfa-b"), leading("nfa-c"), leading()), strict=True))
    assert reached(chains, {HOOK: "nfa-a"}).keys() == keys(*"abc")
    assert reached(chains, {HOOK: "nfa-b"}).keys() == keys(*"bc")
    assert reached(chains, {}) == {}


def test_only_rules_of_the_same_table_lead_to_a_chain() -> None:
    chains: dict[ChainKey, XtChain] = {(4, "mangle", "nfa-a"): leading("nfa-b"), (6, "mangle", "nfa-b"): leading()}
    assert reached(chains, {HOOK: "nfa-a"}).keys() == keys("a")


def test_a_chain_goes_with_the_last_rule_that_leads_to_it_and_comes_back_with_the_next() -> None:
    a, b, c = sorted(keys(*"abc"))
    found = ReachedChains()
    found.change({a: leading("nfa-b", "nfa-c"), b: leading("nfa-c"), c: leading()}, {}, {HOOK: "nfa-a"})
    found.change({a: leading("nfa-b")}, {}, {})
    assert found.chains.keys() == keys(*"abc")
    found.change({b: leading()}, {}, {})
    assert found.chains.keys() == keys(*"ab")
    found.change({a: leading("nfa-c"), b: None}, {}, {})
    assert found.chains.keys() == keys(*"ac")


def test_without_a_difference_the_chains_are_the_same_object() -> None:
    (a,) = keys("a")
    chain, found = leading(), ReachedChains()
    found.change({a: chain}, {}, {HOOK: "nfa-a"})
    before = found.chains
    found.change({a: chain}, {HOOK: "nfa-a"}, {HOOK: "nfa-a"})
    assert found.chains is before


@pytest.mark.parametrize("seed", range(40))
def test_after_any_changes_it_is_as_if_all_had_been_read_at_once(seed: int) -> None:
    drawn = random.Random(seed)  # noqa: S311 - any chains
    found, chains, hooks = ReachedChains(), dict[ChainKey, XtChain](), dict[HookKey, str]()
    for _ in range(30):
        changed: dict[ChainKey, XtChain | None] = {}
        for place, name in enumerate(NAMES):
            if drawn.random() < 0.3:
                key: ChainKey = (4, "mangle", name)
                # Chains lead to later ones: the kernel takes no loops.
                later = [one for one in NAMES[place + 1 :] if drawn.random() < 0.4]
                changed[key] = None if key in chains and drawn.random() < 0.3 else leading(*later)
        before, hooks = hooks, {HOOK: drawn.choice(NAMES)} if drawn.random() < 0.8 else {}
        found.change(changed, before, hooks)
        for key, chain in changed.items():
            if chain is None:
                del chains[key]
            else:
                chains[key] = chain
        assert found.chains == reached(chains, hooks)


@pytest.mark.parametrize("families", [(4,), (6,), (4, 6)], ids=["IPv4", "IPv6", "both"])
def test_a_policy_of_pods_of_one_family_has_no_chain_of_the_other(families: tuple[int, ...]) -> None:
    shop: list[Document] = [namespace("shop"), pod("shop/db", "a", 1)]
    shop[1]["status"]["podIPs"] = [
        ip for ip in shop[1]["status"]["podIPs"] if (6 if ":" in ip["ip"] else 4) in families
    ]
    chains = [
        lower(TwoNodeCluster(*shop, *more).views["a"].ruleset(), LoweringOptions())[0].chains
        for more in ((), (policy("shop/db", types=["Ingress"]),))
    ]
    changed = {key[0] for key in chains[0].keys() | chains[1].keys() if chains[0].get(key) != chains[1].get(key)}
    assert changed == set(families)
