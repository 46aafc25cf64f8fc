"""The change of a chain's rules: what the kernel does with the messages gives the rules that are wanted."""

from __future__ import annotations

import struct
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nfagent.netlink.codec import NFGEN_SIZE, attributes
from nfagent.netlink.nft_messages import DELRULE, NEWRULE, NFPROTO_INET, NLM_F_APPEND, NftMessage
from nfagent.netlink.nft_rewrite import is_worth_handles, kept_ends, numbers_of_known, rewrite_messages
from nfagent.netlink.nft_rule_handles import RuleHandle
from nfagent.netlink.nft_rules import rule_userdata
from nfagent.nftables.objects import Drop, Rule
from nfagent.nftables.transaction import AddRule, RewriteChain

HANDLE, POSITION = 3, 6  # NFTA_RULE_*


def rules(names: str) -> tuple[Rule, ...]:
    return tuple(Rule(verdict=Drop(), comment=name) for name in names)


def rewrite(before: str, after: str) -> RewriteChain:
    return RewriteChain("deny/x", rules(before), rules(after))


def encoded(before: str, after: str, handles: tuple[int, ...] | None) -> list[NftMessage]:
    return list(rewrite_messages(rewrite(before, after), handles, family=NFPROTO_INET, set_ids=count(1)))


def number(message: NftMessage, kind: int) -> int | None:
    found = dict(attributes(message.body, NFGEN_SIZE)).get(kind)
    return None if found is None else int(struct.unpack("!Q", found)[0])


def applied(messages: list[NftMessage], before: str) -> str:
    """Return the rules of a chain after what the kernel does with the messages; the handle of the first rule is 1."""
    chain: list[tuple[int | None, str]] = [*enumerate(before, 1)]
    known = {AddRule("deny/x", rule).text(): rule.comment for rule in rules("abc")}
    for message in messages:
        if message.type == DELRULE:
            handle = number(message, HANDLE)
            assert handle is None or handle in dict(chain)
            chain = [rule for rule in chain if handle is not None and rule[0] != handle]
            continue
        assert message.type == NEWRULE
        position = number(message, POSITION)
        at = len(chain) if position is None else [handle for handle, _ in chain].index(position)
        assert (position is None) == bool(message.flags & NLM_F_APPEND)
        chain.insert(at, (None, known[message.request.describe()]))
    return "".join(name for _, name in chain)


NAMES = st.text("abc", max_size=4)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, str]:
    """Draw the rules of a chain before and after, often with the same ends."""
    start, end = draw(NAMES), draw(NAMES)
    return start + draw(NAMES) + end, start + draw(NAMES) + end


@given(change=changes(), with_handles=st.booleans())
@example(change=("abc", "abac"), with_handles=True)
@example(change=("bc", "abc"), with_handles=True)
@example(change=("abc", "aac"), with_handles=True)
def test_any_rules_become_any_others(*, change: tuple[str, str], with_handles: bool) -> None:
    before, after = change
    handles = tuple(range(1, len(before) + 1)) if with_handles else None

    assert applied(encoded(before, after, handles), before) == after


@given(changes())
def test_no_more_rules_are_sent_than_differ(change: tuple[str, str]) -> None:
    before, after = change
    first, last = kept_ends(rewrite(before, after))
    messages = encoded(before, after, tuple(range(1, len(before) + 1)))

    assert before[:first] == after[:first]
    assert before[len(before) - last :] == after[len(after) - last :]
    assert len(messages) == len(before) + len(after) - 2 * (first + last)


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        pytest.param("abc", "abc", (3, 0), id="equal rules all stay"),
        pytest.param("abc", "aXc", (1, 1), id="one rule in the middle is replaced"),
        pytest.param("bc", "abc", (0, 2), id="a new rule at the start"),
        pytest.param("aab", "ab", (1, 1), id="one of two equal rules is deleted"),
        pytest.param("abc", "cab", (0, 0), id="rules that moved are sent again"),
        pytest.param("", "abc", (0, 0), id="of no rules none stays"),
    ],
)
def test_rules_stay_at_both_ends(before: str, after: str, kept: tuple[int, int]) -> None:
    assert kept_ends(rewrite(before, after)) == kept


@pytest.mark.parametrize("handles", [None, (), (1, 2), (1, 2, 3, 4)], ids=["unknown", "none", "too few", "too many"])
def test_the_chain_is_flushed_where_its_handles_are(handles: tuple[int, ...] | None) -> None:
    flushed, *added = encoded("abc", "aXc", handles)

    assert flushed.request.describe() == "flush chain inet nfagent deny/x"
    assert [message.request.describe() for message in added] == [
        AddRule("deny/x", rule).text() for rule in rules("aXc")
    ]


def handles(names: str) -> tuple[RuleHandle, ...]:
    return tuple(RuleHandle(number, rule_userdata(rule)) for number, rule in enumerate(rules(names), 1))


@pytest.mark.parametrize("there", ["", "ab", "abcc", "acb", "aXc"])
def test_a_chain_whose_comments_are_others_was_changed_by_another_program(there: str) -> None:
    assert numbers_of_known(rewrite("abc", "ac"), handles(there)) is None
    assert numbers_of_known(rewrite("abc", "ac"), handles("abc")) == (1, 2, 3)


def test_a_comment_that_only_another_program_can_write_is_no_error() -> None:
    other = Rule(verdict=Drop(), comment="x" * 200)
    assert (
        numbers_of_known(RewriteChain("deny/x", (other,), ()), (RuleHandle(1, b"\0\xc9" + b"x" * 200 + b"\0"),)) is None
    )


@pytest.mark.parametrize(
    ("before", "after", "worth"),
    [
        pytest.param("abc", "xyz", False, id="where every rule differs"),
        pytest.param("abc", "zbc", True, id="where most rules stay"),
        pytest.param("ab", "ac", False, id="where one rule of two stays"),
        pytest.param("abcd", "abyz", False, id="where half of the rules stay"),
        pytest.param("a" * 100, "ab", False, id="where one rule of a hundred stays"),
    ],
)
def test_handles_are_worth_reading(before: str, after: str, *, worth: bool) -> None:
    assert is_worth_handles(rewrite(before, after)) == worth
