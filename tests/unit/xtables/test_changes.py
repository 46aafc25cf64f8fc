"""The input of iptables-restore for steps, and for jumps that stand in a wrong place."""

from __future__ import annotations

from nfagent.xtables.changes import grouped, members_of_group, restore_input, stray_input
from nfagent.xtables.listing import StrayJump, XtListing
from nfagent.xtables.objects import XtChain, XtRule, XtRuleset
from nfagent.xtables.steps import AddMember, DeleteMember, Restore

DROP = XtChain((XtRule((), ("-j", "DROP")),))
JUMP = XtRule((), ("-j", "nfa-x"))
RULESET = XtRuleset(chains={(4, "mangle", "nfa-x"): DROP}, hooks={(4, "mangle", "FORWARD"): "nfa-x"})


def test_members_of_one_set_are_changed_together_and_stay_in_order() -> None:
    steps = (AddMember("a", "10.0.0.1"), AddMember("a", "10.0.0.2"), DeleteMember("a", "10.0.0.3"), AddMember("b", 80))

    assert [members_of_group(group) for group in grouped(steps)] == [["10.0.0.1", "10.0.0.2"], ["10.0.0.3"], [80]]


def test_tables_of_one_family_are_one_input() -> None:
    steps = (Restore(4, "raw", {"nfa-r": DROP}), Restore(4, "mangle", {"nfa-x": None}), Restore(6, "raw", {}))

    assert [len(group) for group in grouped(steps)] == [2, 1]


def test_a_chain_goes_after_the_rules_that_refer_to_it() -> None:
    text = restore_input((Restore(4, "mangle", {"nfa-x": DROP, "nfa-y": None}, {"FORWARD": "nfa-x"}),), RULESET.hooks)

    assert text.splitlines() == [
        "*mangle",
        ":nfa-x - [0:0]",
        ":nfa-y - [0:0]",
        "-A nfa-x -j DROP",
        "-D FORWARD -j nfa-x",
        "-I FORWARD 1 -j nfa-x",
        "-X nfa-y",
        "COMMIT",
    ]


def stray(*rules: XtRule) -> XtListing:
    jumps: list[StrayJump] = [(4, "mangle", "FORWARD", rule) for rule in rules]
    return XtListing(RULESET, tuple(jumps))


def test_a_second_jump_goes_and_the_first_stays_first() -> None:
    assert stray_input(stray(JUMP), RULESET, 4, leaving=False).splitlines() == [
        "*mangle",
        "-D FORWARD -j nfa-x",
        "-D FORWARD -j nfa-x",
        "-I FORWARD 1 -j nfa-x",
        "COMMIT",
    ]


def test_a_jump_to_a_chain_that_goes_goes_before_it() -> None:
    found = stray(XtRule((("-s", "10.0.0.0/8"),), ("-j", "nfa-old")))

    assert "-D FORWARD -s 10.0.0.0/8 -j nfa-old" in stray_input(found, RULESET, 4, leaving=True)
    assert stray_input(found, RULESET, 4, leaving=False) == ""
    assert stray_input(found, RULESET, 6, leaving=True) == ""
