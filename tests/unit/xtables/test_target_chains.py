"""What it does to be judged by another chain."""

from __future__ import annotations

import pytest

from nfagent.xtables.objects import ChainKey, XtChain, XtRule, XtRuleset
from nfagent.xtables.target_chains import Way, way_between

WEB, DNS = (("-p", "tcp"), ("-m", "tcp", "--dport", "80")), (("-p", "udp"), ("-m", "udp", "--dport", "53"))
STRAY = XtRule((("-m", "conntrack", "--ctstate", "INVALID"),), ("-g", "nfa-stray"))
ORIGINS = {
    "nfa-allow": "allow/ingress/shop/a",
    "nfa-allow-2": "allow/ingress/shop/b",
    "nfa-audit": "audit-deny/ingress/shop/b",
    "nfa-deny": "deny/ingress/shop/a",
    "nfa-deny-2": "deny/ingress/shop/a_b",
    "nfa-tier": "admin/ingress",
}


def rule(target: str, matches: tuple[tuple[str, ...], ...] = ()) -> XtRule:
    return XtRule(matches, ("-g", target), comment=f"to {target}")


def ruleset(rules: tuple[XtRule, ...], strays: tuple[XtRule, ...] = ()) -> XtRuleset:
    chains: dict[ChainKey, XtChain] = {(4, "mangle", name): XtChain((), origin) for name, origin in ORIGINS.items()}
    chains[4, "mangle", "nfa-x"] = XtChain(rules, "ingress/shop/x")
    chains[4, "mangle", "nfa-stray"] = XtChain(strays, "stray/ingress/shop/x")
    return XtRuleset(chains=chains)


ALLOWS, DENIES = rule("nfa-allow", WEB), rule("nfa-deny")
MORE = rule("nfa-allow-2", DNS)


@pytest.mark.parametrize(
    ("after", "way"),
    [
        ((ALLOWS, DENIES), "none"),
        ((rule("nfa-allow-2", WEB), rule("nfa-deny-2")), "none"),
        ((MORE, ALLOWS, DENIES), "gives"),
        ((ALLOWS, MORE, rule("nfa-deny-2")), "gives"),
        ((ALLOWS, rule("nfa-audit", DNS), DENIES), "gives"),
        ((DENIES,), "takes"),
        ((MORE, DENIES), "both"),
        ((ALLOWS, rule("nfa-deny", DNS), DENIES), "both"),
        ((ALLOWS, rule("nfa-tier", DNS), DENIES), "both"),
        ((ALLOWS, XtRule(DNS, ("-j", "RETURN")), DENIES), "both"),
        ((ALLOWS, XtRule(DNS), DENIES), "both"),
        ((ALLOWS,), "both"),
        ((DENIES, ALLOWS), "both"),
        ((STRAY, ALLOWS, DENIES), "both"),
    ],
    ids=[
        "the same rules",
        "the same by another policy",
        "one more that allows, before",
        "one more that allows, behind",
        "one more that would deny, audited",
        "one less",
        "another one",
        "one more that denies",
        "one more that goes elsewhere",
        "one more that ends",
        "one more that counts",
        "nothing denies",
        "another order",
        "another chain for strays",
    ],
)
def test_rules_of_one_chain_in_place_of_another(after: tuple[XtRule, ...], way: Way) -> None:
    key: ChainKey = (4, "mangle", "nfa-x")
    opposite: dict[Way, Way] = {"gives": "takes", "takes": "gives"}
    old, new = ruleset((ALLOWS, DENIES)), ruleset(after)

    assert way_between(old, key, new, key) == way
    assert way_between(new, key, old, key) == opposite.get(way, way)


@pytest.mark.parametrize(
    ("strays", "way"),
    [((DENIES,), "gives"), ((ALLOWS, DENIES), "gives"), ((ALLOWS, MORE, DENIES), "gives"), ((MORE, DENIES), "both")],
    ids=["the same", "more for both", "still more for strays", "others for strays"],
)
def test_strays_have_rules_of_their_own(strays: tuple[XtRule, ...], way: Way) -> None:
    key: ChainKey = (4, "mangle", "nfa-x")
    before = (ALLOWS, DENIES) if strays == (MORE, DENIES) else (DENIES,)
    old, new = ruleset((STRAY, ALLOWS, DENIES), before), ruleset((STRAY, ALLOWS, MORE, DENIES), strays)

    assert way_between(old, key, new, key) == way


def test_to_begin_to_be_judged_takes_and_to_end_gives() -> None:
    key: ChainKey = (4, "mangle", "nfa-x")
    some = ruleset((ALLOWS, DENIES))

    assert way_between(some, None, some, key) == "takes"
    assert way_between(some, key, some, None) == "gives"
    assert way_between(some, None, some, None) == "none"
