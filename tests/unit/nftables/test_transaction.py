"""The diff of two rulesets and the order of its commands; the errors of the fake kernel."""

from __future__ import annotations

import pytest

from nfagent.model.netaddr import parse_cidr
from nfagent.nftables.commit_parts import cut_unreachable
from nfagent.nftables.diff import diff
from nfagent.nftables.matches import AddressInSet, CtAddress, IpAddress, UnknownExpr
from nfagent.nftables.objects import (
    ABSENT,
    TABLE_FLAGS,
    Accept,
    Chain,
    Drop,
    Goto,
    Hook,
    NamedSet,
    Rule,
    Ruleset,
    VerdictMap,
    VmapLookup,
)
from nfagent.nftables.transaction import (
    AddChain,
    AddCounter,
    AddMap,
    AddRule,
    AddSet,
    AddTable,
    ChangeElements,
    ChangeMapElements,
    Command,
    Delete,
    FlushChain,
    RewriteChain,
    transaction_text,
)
from tests.support.fake_nftables import FakeNftables, Refused

FORWARD = Hook("filter", "forward", 0)
PEER = Rule((AddressInSet(CtAddress("client", 4), "peers"),), verdict=Goto("allow"))
DENY = Rule(counter="denied", verdict=Drop())
FULL = Ruleset(
    sets={"peers": NamedSet("address", 4, frozenset({"10.0.0.1"}), "who")},
    maps={"ingress4": VerdictMap(4, {"10.0.0.9": "class"})},
    chains={
        "base": Chain((Rule(verdict=VmapLookup(IpAddress("daddr", 4), "ingress4")),), FORWARD),
        "class": Chain((PEER, DENY)),
        "allow": Chain((Rule(verdict=Accept()),)),
    },
    counters=frozenset({"denied"}),
)


def test_an_object_is_added_before_its_references() -> None:
    assert transaction_text(diff(ABSENT, FULL)).splitlines() == [
        "add table inet nfagent",
        "add counter inet nfagent denied",
        'add set inet nfagent peers { type ipv4_addr; comment "who"; }',
        "add map inet nfagent ingress4 { type ipv4_addr : verdict; }",
        "add chain inet nfagent allow",
        "add chain inet nfagent base { type filter hook forward priority 0; policy accept; }",
        "add chain inet nfagent class",
        "add element inet nfagent peers { 10.0.0.1 }",
        "add rule inet nfagent allow accept",
        "add rule inet nfagent base ip daddr vmap @ingress4",
        "add rule inet nfagent class ct original ip saddr @peers goto allow",
        'add rule inet nfagent class counter name "denied" drop',
        "add element inet nfagent ingress4 { 10.0.0.9 : goto class }",
    ]


def test_an_object_is_deleted_after_its_references() -> None:
    bare = Ruleset(maps={"ingress4": VerdictMap(4, {})}, chains={"base": FULL.chains["base"]})
    assert transaction_text(diff(FULL, bare)).splitlines() == [
        "flush chain inet nfagent allow",
        "flush chain inet nfagent class",
        "delete element inet nfagent ingress4 { 10.0.0.9 : goto class }",
        "delete chain inet nfagent allow",
        "delete chain inet nfagent class",
        "delete set inet nfagent peers",
        "delete counter inet nfagent denied",
    ]


def changed(**parts: object) -> Ruleset:
    fields = {name: getattr(FULL, name) for name in ("sets", "maps", "chains", "counters", "foreign")}
    return Ruleset(**{**fields, **parts})


def test_no_difference_no_commands() -> None:
    assert diff(FULL, changed()) == ()
    assert diff(ABSENT, ABSENT) == ()
    assert diff(FULL, ABSENT) == (Delete("table"),)


QUOTA = frozenset({("quota", "x")})
REMOVALS: dict[str, tuple[Ruleset, list[str]]] = {
    "a set of another kind": (
        changed(sets={"peers": NamedSet("range", 4)}),
        ["flush chain class", "delete set peers", "add set peers", "add element peers", *["add rule class"] * 2],
    ),
    "a set of the other family": (
        changed(sets={"peers": NamedSet("address", 6)}),
        ["flush chain class", "delete set peers", "add set peers", "add element peers", *["add rule class"] * 2],
    ),
    "a set with another comment": (
        changed(sets={"peers": NamedSet("address", 4, comment="x")}),
        ["flush chain class", "delete set peers", "add set peers", "add element peers", *["add rule class"] * 2],
    ),
    "a map of the other family": (
        changed(maps={"ingress4": VerdictMap(6, {})}),
        ["flush chain base", "delete map ingress4", "add map ingress4", "add rule base", "add element ingress4"],
    ),
    "a map in a set's place": (
        changed(sets={}, maps={**FULL.maps, "peers": VerdictMap(4, {})}),
        ["flush chain class", "delete map peers", "add set peers", "add element peers", *["add rule class"] * 2],
    ),
    "another hook": (
        changed(chains={**FULL.chains, "base": Chain((), Hook("filter", "input", 0))}),
        ["flush chain base", "delete chain base", "add chain base", "add rule base"],
    ),
    "no hook": (
        changed(chains={**FULL.chains, "base": Chain()}),
        ["flush chain base", "delete chain base", "add chain base", "add rule base"],
    ),
    "no hook, and rules and elements that lead there": (
        changed(
            maps={"ingress4": VerdictMap(4, {**FULL.maps["ingress4"].elements, "10.0.0.8": "base"})},
            chains={**FULL.chains, "base": Chain(), "allow": Chain((Rule(verdict=Goto("base")),))},
        ),
        [
            "flush chain allow",
            "flush chain base",
            "delete element ingress4",
            "delete chain base",
            "add chain base",
            "add rule allow",
            "add rule base",
        ],
    ),
    "a base chain that drops, which bears our name": (
        changed(
            chains={name: chain for name, chain in FULL.chains.items() if name != "base"},
            foreign=frozenset({("chain", "base")}),
        ),
        ["flush chain base", "delete chain base", "add chain base", "add rule base"],
    ),
    "a set with a timeout, which bears our name": (
        changed(sets={}, foreign=frozenset({("set", "peers")})),
        ["flush chain class", "delete set peers", "add set peers", "add element peers", *["add rule class"] * 2],
    ),
    "a quota": (changed(foreign=QUOTA), ["delete quota x"]),
    "a quota, and a rule of nfagent that refers to it": (
        changed(
            chains={**FULL.chains, "allow": Chain((Rule((UnknownExpr("quota"),)), Rule(verdict=Accept())))},
            foreign=QUOTA,
        ),
        ["flush chain allow", "delete quota x", "add rule allow"],
    ),
    "a quota, and a foreign chain that refers to it": (
        changed(chains={**FULL.chains, "mine": Chain((Rule((UnknownExpr("quota"),)),))}, foreign=QUOTA),
        ["flush chain mine", "delete quota x", "flush chain mine", "delete chain mine"],
    ),
    "objects that refer to each other": (
        changed(
            foreign=frozenset({("quota", "q"), ("map", "m"), ("set", "s"), ("chain", "c"), ("ct helper", "h")}),
        ),
        ["flush chain c", "delete map m", "delete chain c", "delete set s", "delete quota q", "delete ct helper h"],
    ),
    "a dormant table": (changed(foreign=frozenset({TABLE_FLAGS})), ["add table"]),
}


@pytest.mark.parametrize(("before", "commands"), REMOVALS.values(), ids=REMOVALS)
def test_foreign_and_retyped_objects_are_removed_and_the_others_stay(before: Ruleset, commands: list[str]) -> None:
    found = diff(before, FULL)
    lines = transaction_text(found).replace(" inet nfagent", "").splitlines()
    assert [line.partition(" {")[0] if "rule" not in line else " ".join(line.split()[:3]) for line in lines] == commands
    kernel = FakeNftables(before)
    kernel.apply(found)
    assert kernel.ruleset == FULL


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(("tunnel", "x"), id="an object of an unknown kind"),
        pytest.param(("quota", "x; delete table inet filter"), id="a name that isn't one"),
        pytest.param(("rule", ""), id="a rule of a chain whose name isn't one"),
    ],
)
def test_a_foreign_object_outside_nft_syntax_recreates_the_table_in_one_transaction(foreign: tuple[str, str]) -> None:
    assert diff(changed(foreign=frozenset({foreign})), FULL) == (Delete("table"), *diff(ABSENT, FULL))


def test_anew_recreates_the_table_in_one_transaction() -> None:
    before = changed(foreign=QUOTA)
    assert diff(before, FULL, anew=True) == (Delete("table"), *diff(ABSENT, FULL))
    assert diff(FULL, FULL, anew=True) == ()


def test_a_rule_at_the_end_is_appended_without_a_flush() -> None:
    chains = {**FULL.chains, "class": Chain((PEER, DENY, Rule(verdict=Accept())))}
    assert diff(FULL, changed(chains=chains)) == (AddRule("class", Rule(verdict=Accept())),)


def test_another_order_of_rules_rewrites_the_chain() -> None:
    chains = {**FULL.chains, "class": Chain((DENY, PEER))}
    assert diff(FULL, changed(chains=chains)) == (RewriteChain("class", (PEER, DENY), (DENY, PEER)),)


def test_22_a_range_is_deleted_before_an_overlapping_one_is_added() -> None:
    before, after = (
        Ruleset(sets={"r": NamedSet("range", 4, frozenset({parse_cidr(cidr)}))})
        for cidr in ("10.0.0.0/8", "10.0.0.0/9")
    )
    assert [command.text() for command in diff(before, after)] == [
        "delete element inet nfagent r { 10.0.0.0/8 }",
        "add element inet nfagent r { 10.0.0.0/9 }",
    ]


def test_many_elements_come_in_several_commands() -> None:
    addresses = frozenset(f"10.0.{number // 250}.{number % 250}" for number in range(1201))
    commands = diff(Ruleset(sets={"s": NamedSet("address", 4)}), Ruleset(sets={"s": NamedSet("address", 4, addresses)}))
    sizes = [len(command.elements) for command in commands if isinstance(command, ChangeElements)]
    assert sizes == [500, 500, 201]


def test_a_map_element_changes_its_target_in_two_steps() -> None:
    moved = changed(maps={"ingress4": VerdictMap(4, {"10.0.0.9": "allow"})})
    assert diff(FULL, moved) == (
        ChangeMapElements("delete", "ingress4", (("10.0.0.9", "class"),)),
        ChangeMapElements("add", "ingress4", (("10.0.0.9", "allow"),)),
    )


REFUSED: dict[str, tuple[Command, ...]] = {
    "an element for a set that is not there": (ChangeElements("add", "none", ("10.0.0.1",)),),
    "[27] deleting an element that is not there": (ChangeElements("delete", "peers", ("10.0.0.2",)),),
    "an element of the other family": (ChangeElements("add", "peers", ("::1",)),),
    "a range for a set of addresses": (ChangeElements("add", "peers", (parse_cidr("10.0.0.0/8"),)),),
    "[22] ranges that overlap": (
        AddSet("r", NamedSet("range", 4)),
        ChangeElements("add", "r", (parse_cidr("10.0.0.0/8"), parse_cidr("10.1.0.0/16"))),
    ),
    "an address that goes elsewhere already": (ChangeMapElements("add", "ingress4", (("10.0.0.9", "allow"),)),),
    "a map element to a chain that is not there": (ChangeMapElements("add", "ingress4", (("10.0.0.8", "none"),)),),
    "a map element to a base chain": (ChangeMapElements("add", "ingress4", (("10.0.0.8", "base"),)),),
    "deleting a map element that is not there": (ChangeMapElements("delete", "ingress4", (("10.0.0.8", "class"),)),),
    "a rule that names no set of ours": (AddRule("class", Rule((AddressInSet(CtAddress("client", 4), "none"),))),),
    "a rule that goes nowhere": (AddRule("class", Rule(verdict=Goto("none"))),),
    "a rule with a counter that is not there": (AddRule("class", Rule(counter="none")),),
    "a rule with a map that is not there": (AddRule("class", Rule(verdict=VmapLookup(IpAddress("daddr", 4), "none"))),),
    "a rule for a chain that is not there": (AddRule("none", Rule()),),
    "flushing a chain that is not there": (FlushChain("none"),),
    "deleting a chain that a map names": (FlushChain("class"), Delete("chain", "class")),
    "deleting a chain that a rule names": (Delete("chain", "allow"),),
    "deleting a set in use": (Delete("set", "peers"),),
    "deleting a map in use": (Delete("map", "ingress4"),),
    "deleting a counter in use": (Delete("counter", "denied"),),
    "deleting what is not there": (Delete("set", "none"),),
    "a set that exists with another type": (AddSet("peers", NamedSet("range", 4)),),
    "a map that exists with another type": (AddMap("ingress4", VerdictMap(6, {})),),
    "a chain that exists with another hook": (AddChain("base", Chain((), Hook("filter", "input", 0))),),
    "chains that refer to each other": (AddRule("allow", Rule(verdict=Goto("class"))),),
    "[21] a comment of 128 bytes": (AddRule("class", Rule(comment="x" * 128)),),
    "[21] a name of 256 bytes": (AddCounter("x" * 256),),
    "anything without the table": (Delete("table"), AddCounter("x")),
}


@pytest.mark.parametrize("commands", REFUSED.values(), ids=REFUSED)
def test_the_fake_kernel_refuses_and_keeps_everything(commands: tuple[Command, ...]) -> None:
    kernel = FakeNftables(FULL)
    with pytest.raises(Refused):
        kernel.apply((AddTable(), AddCounter("first"), *commands))
    assert kernel.ruleset == FULL


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(ChangeElements("add", "peers", ("10.0.0.2",)), id="an element"),
        pytest.param(ChangeMapElements("add", "ingress4", (("10.0.0.8", "class"),)), id="a map's element"),
        pytest.param(AddRule("base", Rule(verdict=Accept())), id="a rule"),
    ],
)
def test_what_adds_to_a_table_that_is_there_is_not_cut(command: Command) -> None:
    """As after flags were cleared: such a repair begins with the table too."""
    transaction = (AddTable(), AddCounter("first"), command)
    assert list(cut_unreachable(transaction, 1)) == [transaction]
