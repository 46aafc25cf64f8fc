"""The text that is shown and the bytes that are sent give the same table: raw dumps and listings of a real kernel."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.model.gvk import Item
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE, NFPROTO_INET
from nfagent.nftables.bridge_table import FRAMES, REMOVAL, REPLACEMENT, TABLE_TEXT
from nfagent.nftables.diff import diff
from nfagent.nftables.matches import Match, UnknownExpr
from nfagent.nftables.objects import ABSENT, Accept, Chain, Drop, Goto, Rule, Ruleset, SetKind, Verdict
from nfagent.nftables.render import table_text
from nfagent.nftables.transaction import (
    AddChain,
    AddRule,
    AddTable,
    ChangeElements,
    Command,
    Delete,
    FlushChain,
    RewriteChain,
    Transaction,
    transaction_text,
)
from tests.golden.test_golden import MANIFESTS, annotated_text, loaded
from tests.kernel.test_ruleset_round_trip import SCENE
from tests.properties.strategies import desired, worlds
from tests.support.nft_forms import COUNTER, EVERY_FORM, EVERY_FRAME, FOR_ANY_RULE, SETS, TARGET, rules
from tests.support.twin_tables import TwinTables

pytestmark = pytest.mark.kernel


def numbered(*comments: str) -> tuple[Rule, ...]:
    return tuple(Rule(verdict=Drop(), comment=comment) for comment in comments)


def test_every_form_is_among_the_rulesets() -> None:
    found = [rule for item in (EVERY_FORM, EVERY_FRAME) for chain in item.chains.values() for rule in chain.rules]
    assert {type(match) for rule in found for match in rule.matches} == {*get_args(Match)} - {UnknownExpr}
    assert {type(rule.verdict) for rule in found if rule.verdict is not None} == {*get_args(Verdict)}
    assert {item.kind for item in SETS.values()} == {*get_args(SetKind)}


def test_every_command_is_among_the_transactions() -> None:
    commands = {type(command) for transaction in TRANSACTIONS.values() for command in transaction}
    commands |= {type(command) for command in (*diff(ABSENT, EVERY_FORM), *diff(EVERY_FORM, ABSENT))}
    assert commands | {type(command) for command in diff(EVERY_FORM, SMALLER)} == {*get_args(Command)}


def test_a_difference_of_one_bit_is_found(twins: TwinTables) -> None:
    """Otherwise the tests below compare nothing."""
    ruleset = Ruleset(SETS, chains={"c": Chain(numbered("a"))})
    twins.load(transaction_text(diff(ABSENT, ruleset)))
    rule = Rule(verdict=Accept(), comment="a")
    twins.commit(diff(ABSENT, Ruleset({**SETS, "all-ports": SETS["ports"]}, chains={"c": Chain((rule,))})))
    assert {name.split(": ")[-1] for name in twins.differences()} == {
        *("rule 1 of c", "rule inet nfagent 1 of c"),
        *("set all-ports", "set inet nfagent all-ports"),
    }


@pytest.mark.parametrize(
    ("family", "ruleset"),
    [(NFPROTO_INET, EVERY_FORM), (NFPROTO_BRIDGE, EVERY_FRAME), (NFPROTO_INET, SCENE)],
    ids=["of family inet", "of family bridge", "in a compiled ruleset"],
)
def test_every_form(twins: TwinTables, family: int, ruleset: Ruleset) -> None:
    twins.apply(diff(ABSENT, ruleset), family=family)
    assert twins.differences() == {}


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_every_kind_to_which_elements_come_and_from_which_they_go(twins: TwinTables, name: str) -> None:
    ruleset = Ruleset({name: SETS[name]})
    twins.apply(diff(ABSENT, ruleset))
    elements = tuple(sorted(SETS[name].elements, key=str))
    if elements:
        twins.apply((ChangeElements("delete", name, elements[::2]),))
        assert twins.differences() == {}
        twins.apply((ChangeElements("add", name, elements[::2]),))
    assert twins.differences() == {}
    twins.apply(diff(ruleset, Ruleset()))
    assert twins.differences() == {}


SMALLER = Ruleset(
    {name: item for name, item in SETS.items() if item.family == 4},
    {"map4": EVERY_FORM.maps["map4"]},
    {TARGET: Chain(), "other": Chain(numbered("a", "b", "c", "d")), "base": EVERY_FORM.chains["forward-hook"]},
    frozenset((COUNTER,)),
)
SMALLER.chains["base"] = Chain((Rule(verdict=Goto("other")),), SMALLER.chains["base"].hook)
BEFORE = SMALLER.chains["other"].rules
TRANSACTIONS: dict[str, Transaction] = {
    "a table that exists": (AddTable(),),
    "a chain without rules": (FlushChain("other"),),
    "rules behind others": (
        AddRule("other", Rule(verdict=Accept())),
        *(AddRule("other", rule) for rule in BEFORE),
    ),
    "a chain that is new and one that goes": (AddChain("new", Chain()), AddRule("new", Rule(verdict=Goto(TARGET)))),
    "an unused counter, set and map that go": (
        *(Delete("counter", COUNTER), Delete("set", "ports"), Delete("set", "flow4"), Delete("map", "map4")),
    ),
    "the table that goes": (Delete("table"),),
    "the table anew": (Delete("table"), *diff(ABSENT, EVERY_FORM)),
    **{
        f"rules rewritten, {words}": (RewriteChain("other", BEFORE, numbered(*after)),)
        for words, after in {
            "none left": "",
            "the first changed": "xbcd",
            "the last changed": "abcx",
            "one changed in the middle": "axcd",
            "two more in the middle": "abxycd",
            "one less in the middle": "acd",
            "one more in front": "xabcd",
            "one more at the end": "abcdx",
            "in another order": "dcba",
            "all others": "xyz",
            "equal ones": "aaaaaa",
        }.items()
    },
}


@pytest.mark.parametrize("transaction", TRANSACTIONS.values(), ids=TRANSACTIONS)
def test_a_transaction_on_a_table_that_exists(twins: TwinTables, transaction: Transaction) -> None:
    twins.apply(diff(ABSENT, SMALLER))
    twins.apply(transaction)
    assert twins.differences() == {}


@pytest.mark.parametrize("commands", [REPLACEMENT, REMOVAL], ids=["replaced", "removed"])
def test_the_bridge_table_is_replaced_and_removed_whether_it_exists_or_not(
    twins: TwinTables, commands: Transaction
) -> None:
    for _ in range(2):
        twins.apply(commands, family=NFPROTO_BRIDGE)
        assert twins.differences() == {}
        twins.apply(diff(ABSENT, FRAMES) if commands is REMOVAL else (), family=NFPROTO_BRIDGE)
    twins.clear()
    twins.load(TABLE_TEXT)
    twins.commit(REPLACEMENT, family=NFPROTO_BRIDGE)
    assert twins.differences() == {}


@pytest.mark.parametrize("manifests", MANIFESTS, ids=lambda path: path.stem)
def test_a_golden(twins: TwinTables, manifests: object) -> None:
    ruleset = loaded(manifests).ruleset()  # type: ignore[arg-type]
    twins.apply(diff(ABSENT, ruleset))
    assert twins.differences() == {}


@pytest.mark.parametrize("manifests", MANIFESTS, ids=lambda path: path.stem)
def test_the_text_that_render_and_dump_show_for_a_golden(twins: TwinTables, manifests: object) -> None:
    view = loaded(manifests)  # type: ignore[arg-type]
    for text in (table_text(view.ruleset()), annotated_text(view)):
        twins.clear()
        twins.load(text)
        twins.commit(diff(ABSENT, view.ruleset()))
        assert twins.differences() == {}


@settings(max_examples=40)
@given(drawn=st.lists(rules(), min_size=1, max_size=10))
def test_rules_of_any_matches_that_nft_takes(made_twins: TwinTables, drawn: list[Rule]) -> None:
    made_twins.clear()
    made_twins.apply(diff(ABSENT, FOR_ANY_RULE))
    for rule in drawn:
        if made_twins.takes(transaction_text((AddRule("other", rule),))):
            made_twins.apply((AddRule("other", rule),))
    assert made_twins.differences() == {}


@settings(max_examples=20)
@given(first=worlds(), second=worlds())
def test_changes_from_one_ruleset_to_another_and_back(
    made_twins: TwinTables, first: list[Item], second: list[Item]
) -> None:
    before, after = (desired("a", world).ruleset() for world in (first, second))
    made_twins.clear()
    steps = (diff(ABSENT, before), diff(before, after), diff(after, before), diff(before, ABSENT))
    for step in steps:
        made_twins.apply(step)
        assert made_twins.differences() == {}
