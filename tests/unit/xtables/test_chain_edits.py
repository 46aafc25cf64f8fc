"""A chain by the rules that come and go, as iptables-restore reads them."""

from __future__ import annotations

import shlex

from hypothesis import given
from hypothesis import strategies as st

from nfagent.xtables.chain_edits import edits
from nfagent.xtables.changes import restore_input
from nfagent.xtables.objects import ChainKey, XtChain, XtRule
from nfagent.xtables.steps import Restore
from nfagent.xtables.text import rule_words

NAMES = [f"nfa-{number}" for number in range(8)]
KEY: ChainKey = (4, "mangle", "nfa-x")


def leading(names: list[str], origin: str = "egress4") -> XtChain:
    return XtChain(tuple(XtRule((("-s", "10.0.0.1/32"),), ("-g", name), "to it") for name in names), origin)


def applied(chain: XtChain, lines: tuple[str, ...]) -> list[list[str]]:
    """Return the rules of a chain after these lines, as the kernel has them then."""
    rules = [shlex.split(" ".join(rule_words(rule))) for rule in chain.rules]
    for line in lines:
        command, name, *words = shlex.split(line)
        assert name == "nfa-x"
        if command == "-D":
            rules.remove(words)
        else:
            assert command == "-I"
            rules.insert(int(words[0]) - 1, words[1:])
    return rules


@given(st.lists(st.sampled_from(NAMES), unique=True), st.lists(st.sampled_from(NAMES), unique=True))
def test_the_lines_make_one_chain_the_other(before: list[str], after: list[str]) -> None:
    one, other = leading(sorted(before)), leading(sorted(after))
    lines = edits("nfa-x", one, other)
    if lines is None:
        assert len(set(before) ^ set(after)) >= len(after)
    else:
        assert applied(one, lines) == [shlex.split(" ".join(rule_words(rule))) for rule in other.rules]


def test_rules_in_another_order_or_more_than_once_are_written_as_a_whole() -> None:
    assert edits("nfa-x", leading(NAMES), leading(NAMES[::-1])) is None
    assert edits("nfa-x", leading([*NAMES, NAMES[0]]), leading(NAMES)) is None
    assert edits("nfa-x", leading(NAMES), leading([*NAMES, NAMES[0]])) is None


def test_a_chain_of_a_map_is_edited_and_others_are_declared_and_so_emptied_first() -> None:
    def text(origin: str) -> list[str]:
        after = leading(NAMES[1:], origin)
        return restore_input((Restore(4, "mangle", {"nfa-x": after}),), {}, {KEY: leading(NAMES, origin)}).splitlines()

    assert text("egress4") == ["*mangle", '-D nfa-x -s 10.0.0.1/32 -m comment --comment "to it" -g nfa-0', "COMMIT"]
    assert ":nfa-x - [0:0]" in text("ingress/shop/db")
    assert len(text("ingress/shop/db")) == len(NAMES) + 2


def test_a_chain_that_is_not_there_is_written_as_a_whole() -> None:
    step = Restore(4, "mangle", {"nfa-x": leading(NAMES)})
    assert restore_input((step,), {}, {}) == restore_input((step,), {})
