"""Changes of a table that exists, as text and as bytes: written by either, changed by others, refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.errors import KernelError
from nfagent.kernel.refusals import RefusedError
from nfagent.model.gvk import Item
from nfagent.model.netaddr import Range
from nfagent.nftables.diff import diff
from nfagent.nftables.matches import AddressInSet, CtAddress, FamilyIs, FromInterface, IpAddress
from nfagent.nftables.objects import (
    ABSENT,
    Accept,
    Chain,
    Drop,
    Element,
    Goto,
    Jump,
    Masquerade,
    NamedSet,
    Rule,
    Ruleset,
    VerdictMap,
    VmapLookup,
)
from nfagent.nftables.parse import parse_listing
from nfagent.nftables.transaction import (
    AddChain,
    AddCounter,
    AddMap,
    AddRule,
    AddSet,
    AddTable,
    ChangeElements,
    ChangeMapElements,
    Delete,
    FlushChain,
    RewriteChain,
    Transaction,
    transaction_text,
)
from tests.kernel.test_ruleset_round_trip import DAMAGE, SCENE
from tests.properties.strategies import desired, worlds
from tests.support.nft_forms import EVERY_FORM, FOR_ANY_RULE, SETS, rules
from tests.support.twin_tables import TwinTables

pytestmark = pytest.mark.kernel


def load_both(twins: TwinTables, text: str) -> None:
    for name in (twins.by_text, twins.by_bytes):
        twins.run_nft(name, text)


@pytest.mark.parametrize("commands", DAMAGE.values(), ids=DAMAGE)
def test_what_other_programs_did_is_repaired_alike(twins: TwinTables, commands: str) -> None:
    load_both(twins, transaction_text(diff(ABSENT, SCENE)))
    load_both(twins, f"{commands}\n")
    found = parse_listing(twins.run_nft(twins.by_text, "list ruleset"))
    repair = diff(found, SCENE)
    assert repair
    twins.apply(repair)
    assert twins.differences() == {}
    assert parse_listing(twins.run_nft(twins.by_bytes, "list ruleset")) == SCENE


@settings(max_examples=15)
@given(first=worlds(), second=worlds())
def test_a_table_that_text_wrote_is_changed_by_bytes(
    made_twins: TwinTables, first: list[Item], second: list[Item]
) -> None:
    """As after an upgrade: agents of earlier versions wrote by libnftables."""
    before, after = (desired("a", world).ruleset() for world in (first, second))
    made_twins.clear()
    load_both(made_twins, transaction_text(diff(ABSENT, before)))
    for step in (diff(before, after), diff(after, before)):
        made_twins.apply(step)
        assert made_twins.differences() == {}


@settings(max_examples=15)
@given(first=worlds(), second=worlds())
def test_a_table_that_bytes_wrote_is_changed_by_text(
    made_twins: TwinTables, first: list[Item], second: list[Item]
) -> None:
    """As after a downgrade, and by people's nft."""
    before, after = (desired("a", world).ruleset() for world in (first, second))
    made_twins.clear()
    made_twins.apply(diff(ABSENT, before))
    made_twins.run_nft(made_twins.by_bytes, transaction_text(diff(before, after)))
    made_twins.load(transaction_text(diff(before, after)))
    assert made_twins.differences() == {}


RANGES = [Range(4, 0, 0), Range(4, 0, 9), Range(4, 10, 19), Range(4, 21, 30), Range(4, 1 << 31, (1 << 32) - 1)]


@pytest.mark.parametrize("first", RANGES, ids=str)
@pytest.mark.parametrize("second", RANGES, ids=str)
def test_a_range_after_another_in_a_set_that_text_wrote(twins: TwinTables, first: Range, second: Range) -> None:
    load_both(twins, transaction_text(diff(ABSENT, Ruleset({"s": NamedSet("range", 4, frozenset((first,)))}))))
    replaced: Transaction = (ChangeElements("delete", "s", (first,)), ChangeElements("add", "s", (second,)))
    if first.last < second.first or second.last < first.first:
        twins.apply((ChangeElements("add", "s", (second,)),))
    else:
        twins.apply(replaced)
    assert twins.differences() == {}


@settings(max_examples=25)
@given(
    kept=st.tuples(st.lists(rules(), max_size=4), st.lists(rules(), max_size=4)),
    changed=st.tuples(st.lists(rules(), max_size=3), st.lists(rules(), max_size=3)),
)
def test_rules_rewritten_between_rules_that_stay(
    made_twins: TwinTables, kept: tuple[list[Rule], list[Rule]], changed: tuple[list[Rule], list[Rule]]
) -> None:
    made_twins.clear()
    made_twins.apply(diff(ABSENT, FOR_ANY_RULE))
    drawn = {repr(rule): rule for rule in (*kept[0], *kept[1], *changed[0], *changed[1])}
    taken = {name for name, rule in drawn.items() if made_twins.takes(transaction_text((AddRule("other", rule),)))}
    (head, tail), (old, new) = (
        [[rule for rule in part if repr(rule) in taken] for part in pair] for pair in (kept, changed)
    )
    before, after = (*head, *old, *tail), (*head, *new, *tail)
    start = FOR_ANY_RULE.chains["other"].rules
    made_twins.apply((RewriteChain("other", start, before),))
    assert made_twins.differences() == {}
    made_twins.apply((RewriteChain("other", before, after),))
    assert made_twins.differences() == {}
    made_twins.apply((RewriteChain("other", after, before),))
    assert made_twins.differences() == {}


def test_the_flags_of_a_table_are_cleared(twins: TwinTables) -> None:
    load_both(twins, "add table inet nfagent { flags dormant; }\n")
    twins.apply((AddTable(),))
    assert twins.differences() == {}
    assert twins.raw(twins.by_bytes)["1: table"] == ((1, b"nfagent\0".hex()), (3, "00000000"), (2, "00000000"))


def test_sets_of_reply_tuples_are_made_larger(twins: TwinTables) -> None:
    small = msgspec.structs.replace(SETS["flow4"])
    twins.apply((AddTable(), AddSet("s", small)))
    twins.apply((AddSet("s", msgspec.structs.replace(small, size=small.size * 2)),))
    assert twins.differences() == {}


def test_names_and_comments_of_the_longest_kind(twins: TwinTables) -> None:
    name = "n" * 255
    rule = Rule(counter=name, verdict=Goto(name), comment="c" * 127)
    sets = {name: NamedSet("address", 4, frozenset(("10.0.0.1",)), "c" * 127)}
    chains = {name: Chain(), "c": Chain((rule,))}
    ruleset = Ruleset(sets, {"m": VerdictMap(4, {"10.0.0.1": name})}, chains, frozenset((name,)))
    twins.apply(diff(ABSENT, ruleset))
    assert twins.differences() == {}


def test_many_elements(twins: TwinTables) -> None:
    """More than a netlink attribute holds, and more than nft puts into a message."""
    addresses: frozenset[Element] = frozenset(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(9_000))
    ranges: frozenset[Element] = frozenset(Range(6, 16 * n, 16 * n + 7) for n in range(1, 3_000))
    sets = {"a": NamedSet("address", 4, addresses), "r": NamedSet("range", 6, ranges)}
    targets = VerdictMap(4, {f"10.0.{n >> 8}.{n & 255}": "allow/c" for n in range(3_000)})
    ruleset = Ruleset(sets, {"m": targets}, {"allow/c": Chain()})
    twins.apply(diff(ABSENT, ruleset))
    assert twins.differences() == {}
    twins.apply(diff(ruleset, Ruleset({"a": NamedSet("address", 4), "r": NamedSet("range", 6)})))
    assert twins.differences() == {}


FROM4 = AddressInSet(IpAddress("saddr", 4), "address4")
START = Ruleset(
    {"s": NamedSet("address", 4, frozenset(("10.0.0.1",))), "r": NamedSet("range", 4, frozenset((Range(4, 5, 9),)))},
    {"m": VerdictMap(4, {"10.0.0.1": "c"})},
    {
        "c": Chain((Rule(verdict=Drop()),)),
        "used": Chain((Rule(verdict=Jump("c")),), EVERY_FORM.chains["forward-hook"].hook),
    },
    frozenset(("n",)),
)
REFUSED: dict[str, Transaction] = {
    "a set that is absent": (ChangeElements("add", "absent", ("10.0.0.1",)),),
    "an element that is absent": (ChangeElements("delete", "s", ("10.0.0.2",)),),
    "a range that overlaps": (ChangeElements("add", "r", (Range(4, 8, 12),)),),
    "another target of an address": (ChangeMapElements("add", "m", (("10.0.0.1", "other"),)),),
    "a target that is absent": (ChangeMapElements("add", "m", (("10.0.0.2", "absent"),)),),
    "a chain that is absent": (AddRule("absent", Rule(verdict=Drop())),),
    "a target of a rule that is absent": (AddRule("c", Rule(verdict=Goto("absent"))),),
    "a counter of a rule that is absent": (AddRule("c", Rule(counter="absent")),),
    "a set of another type": (AddSet("s", NamedSet("address", 6)),),
    "a map in a set's place": (AddMap("s", VerdictMap(4, {})),),
    "a chain that is used": (FlushChain("c"), Delete("chain", "c")),
    "a jump into a base chain": (AddRule("c", Rule(verdict=Jump("used"))),),
    "a chain that jumps to itself": (AddRule("c", Rule(verdict=Jump("c"))),),
    "masquerade in a filter's chain": (
        AddChain("base", EVERY_FORM.chains["forward-hook"]),
        AddRule("base", Rule(verdict=Masquerade(random_fully=False))),
    ),
    "a good command before a bad one": (AddCounter("new"), Delete("set", "absent")),
    "a rewritten chain that is absent": (RewriteChain("absent", (), (Rule(verdict=Accept()),)),),
}


@pytest.mark.parametrize("transaction", REFUSED.values(), ids=REFUSED)
def test_what_the_kernel_refuses_of_the_text_it_refuses_of_the_bytes(
    twins: TwinTables, transaction: Transaction
) -> None:
    twins.apply(diff(ABSENT, START))
    before = twins.raw(twins.by_bytes)
    with pytest.raises(AssertionError, match="Error"):
        twins.load(transaction_text(transaction))
    with pytest.raises(KernelError):
        twins.commit(transaction)
    assert twins.raw(twins.by_bytes) == before
    assert twins.differences() == {}


UNBOUND: dict[str, tuple[str, Rule, str]] = {
    "no such set": ("other", Rule((FamilyIs(4), FromInterface("no")), verdict=Drop()), "lookup"),
    "no such counter": ("other", Rule((FROM4,), "no", None, Drop()), "objref"),
    "no such chain to go to": ("other", Rule((FROM4,), verdict=Goto("no")), "immediate"),
    "a set in a map's place": ("other", Rule(verdict=VmapLookup(CtAddress("client", 4), "address4")), "lookup"),
    "no such chain": ("no", Rule(verdict=Drop()), "chain no"),
}


@pytest.mark.parametrize(("chain", "rule", "part"), UNBOUND.values(), ids=UNBOUND)
def test_a_refused_rule_is_named_with_its_part(twins: TwinTables, chain: str, rule: Rule, part: str) -> None:
    twins.apply(diff(ABSENT, FOR_ANY_RULE))
    with pytest.raises(RefusedError) as raised:
        twins.commit((AddRule(chain, rule),))
    assert raised.value.part == part
    assert twins.differences() == {}
