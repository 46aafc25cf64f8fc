"""Rulesets in iptables and ipset of a real kernel: what is written is listed, what others change is put back."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError, SetFullError
from nfagent.kernel.backend_switch import RemovedRules, remove_xt_rules, xt_rules_hold
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.table_listings import TableListings
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_programs import Variant, programs_of
from nfagent.model.gvk import Item
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, FlowElement, Ruleset
from nfagent.nftables.transaction import ChangeElements
from nfagent.xtables.lowering import lower
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.saved import is_ours
from nfagent.xtables.text import create_text
from tests.kernel.test_local_addresses import no_descriptor_left
from tests.properties.strategies import desired, worlds
from tests.support.own_namespace import own_iptables
from tests.support.two_node_cluster import DECODERS, Document, labelled, namespace, node, pod, policy, port

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

VARIANTS: list[Variant] = ["legacy", "nft"]


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; the lock of iptables is this test's own."""
    with own_iptables("xtclient", tmp_path, monkeypatch):
        yield


@contextmanager
def client(variant: Variant, known: Callable[[], Ruleset] = lambda: ABSENT) -> Iterator[XtClient]:
    made = XtClient(XtKernel(programs_of(variant), (4, 6), IpSetSocket(), NfacctSocket()), known)
    try:
        yield made
    finally:
        made.close()


async def converge(kernel: XtClient, wanted: Ruleset) -> int:
    """Make the kernel's rules the wanted ones, as the reconciler does; return the number of commands."""
    transaction = await kernel.difference(wanted)
    if transaction:
        await kernel.apply(transaction)
    return len(transaction)


def run(*command: str) -> str:
    """Run another program."""
    return subprocess.run(command, text=True, check=True, capture_output=True).stdout


@pytest.mark.parametrize("variant", VARIANTS)
@settings(
    max_examples=3,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(first=worlds(), second=worlds())
def test_any_ruleset_is_listed_as_it_was_written(variant: Variant, first: list[Item], second: list[Item]) -> None:
    before, after = (desired("a", world).ruleset() for world in (first, second))

    async def body(kernel: XtClient) -> None:
        await converge(kernel, before)
        assert await kernel.difference(before) == ()
        await kernel.apply(diff(before, after))
        assert await kernel.difference(after) == ()
        assert not await kernel.is_changed(with_content=True)
        remove_xt_rules()

    with client(variant) as kernel:
        asyncio.run(body(kernel))


HTTP = port(80, "http")
WORLD: list[Document] = [
    *map(node, ("a", "b")),
    namespace("shop"),
    pod("shop/web", "a", 10, (HTTP,), app="web"),
    pod("shop/db", "a", 11, app="db"),
    policy("shop/web", labelled(app="web"), ingress=[{"from": [{"podSelector": labelled(app="db")}]}]),
]


def shop(*more: Document) -> Ruleset:
    made = DesiredState("a")
    for document in (*WORLD, *more):
        item = DECODERS[document["kind"]](document)
        assert item is not None
        made.put(item)
    return made.ruleset()


SHOP = shop()


def first_rule(variant: Variant) -> str:
    """Return a chain of ours in table mangle that has a rule."""
    saved = run(f"iptables-{variant}-save", "-t", "mangle")
    return next(line.split()[1] for line in saved.splitlines() if line.startswith("-A nfa-"))


def set_with_members() -> tuple[str, str]:
    """Return a set of ours that has a member, and the member."""
    listed = run("ipset", "save").splitlines()
    _, name, member = next(line.split() for line in listed if line.startswith("add nfa-") and line.count(" ") == 2)
    return name, member


def flush_mangle(variant: Variant) -> None:
    run(f"iptables-{variant}", "-t", "mangle", "-F")


def remove_hook(variant: Variant) -> None:
    jump = next(
        line
        for line in run(f"iptables-{variant}-save", "-t", "mangle").splitlines()
        if line.startswith("-A FORWARD -j")
    )
    run(f"iptables-{variant}", "-t", "mangle", "-D", "FORWARD", "-j", jump.split()[-1])


def go_first(variant: Variant) -> None:
    run(f"iptables-{variant}", "-t", "mangle", "-I", "FORWARD", "1", "-j", "ACCEPT")


def jump_twice(variant: Variant) -> None:
    jump = next(
        line
        for line in run(f"iptables-{variant}-save", "-t", "mangle").splitlines()
        if line.startswith("-A FORWARD -j")
    )
    run(f"iptables-{variant}", "-t", "mangle", "-A", "FORWARD", "-j", jump.split()[-1])


def add_rule(variant: Variant) -> None:
    run(f"iptables-{variant}", "-t", "mangle", "-I", first_rule(variant), "1", "-j", "ACCEPT")


def delete_rule(variant: Variant) -> None:
    run(f"iptables-{variant}", "-t", "mangle", "-D", first_rule(variant), "1")


def add_chain(variant: Variant) -> None:
    run(f"iptables-{variant}", "-t", "mangle", "-N", "nfa-foreign")


def delete_member(_: Variant) -> None:
    run("ipset", "del", *set_with_members())


def exchange_member(_: Variant) -> None:
    """Replace a member: the number of members stays."""
    name, member = set_with_members()
    run("ipset", "del", name, member)
    run("ipset", "add", name, "2001:db8:9::9" if ":" in member else "198.51.100.9")


def flush_sets(_: Variant) -> None:
    run("ipset", "flush")


def add_set(_: Variant) -> None:
    run("ipset", "create", "nfa-foreign", "hash:ip")


def add_rule_with_set(variant: Variant) -> None:
    run("ipset", "create", "foreign", "hash:ip")
    match = ("-m", "set", "--match-set", "foreign", "src")
    run(f"iptables-{variant}", "-t", "mangle", "-I", first_rule(variant), "1", *match, "-j", "ACCEPT")


def remove_all(variant: Variant) -> None:
    for command in (f"iptables-{variant}", f"ip6tables-{variant}"):
        for table in ("raw", "mangle", "nat"):
            run(command, "-t", table, "-F")
            run(command, "-t", table, "-X")
    run("ipset", "destroy")


DRIFTS: dict[str, Callable[[Variant], None]] = {
    "mangle is flushed": flush_mangle,
    "all rules and sets are removed": remove_all,
    "our jump is deleted": remove_hook,
    "a rule is put before our jump": go_first,
    "our jump is there twice": jump_twice,
    "a rule of ours comes": add_rule,
    "a rule of ours goes": delete_rule,
    "a rule with another program's set comes": add_rule_with_set,
    "a chain of our name comes": add_chain,
    "a member goes": delete_member,
    "a member is exchanged": exchange_member,
    "all sets are flushed": flush_sets,
    "a set of our name comes": add_set,
}


@pytest.mark.parametrize("drift", DRIFTS.values(), ids=list(DRIFTS))
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_another_program_changes_is_noticed_and_put_back(
    variant: Variant, drift: Callable[[Variant], None]
) -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        assert not await kernel.is_changed(with_content=True)
        assert not await kernel.is_changed(with_content=True)

        drift(variant)

        assert await kernel.is_changed(with_content=True)
        assert await converge(kernel, SHOP)
        assert await kernel.difference(SHOP) == ()

    with client(variant) as kernel:
        asyncio.run(body(kernel))


def test_rules_of_other_programs_stay_where_ours_are_put_back_first() -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        run("iptables-legacy", "-t", "mangle", "-I", "FORWARD", "1", "-s", "10.9.9.9", "-j", "ACCEPT")
        await converge(kernel, SHOP)

    with client("legacy") as kernel:
        asyncio.run(body(kernel))

    rules = [line for line in run("iptables-legacy-save", "-t", "mangle").splitlines() if "-A FORWARD" in line]
    assert [is_ours(line.split()[-1]) for line in rules] == [True, False]
    assert rules[1] == "-A FORWARD -s 10.9.9.9/32 -j ACCEPT"


def allowing(app: str) -> Ruleset:
    """Return the ruleset whose rules differ by the names of sets alone, whichever app is allowed."""
    return shop(policy("shop/web", labelled(app="web"), ingress=[{"from": [{"podSelector": labelled(app=app)}]}]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_rules_are_read_again_where_another_set_has_the_index_of_one_that_is_gone(variant: Variant) -> None:
    # The kernel's rules hold a set's index, which the next set gets: the same bytes stand for another rule then.
    first, between, second = allowing("db"), shop(policy("shop/web", labelled(app="web"))), allowing("web")

    async def body(kernel: XtClient) -> None:
        await converge(kernel, first)
        assert await kernel.difference(first) == ()
        await kernel.apply(diff(first, between))
        await kernel.apply(diff(between, second))

        assert not await kernel.is_changed(with_content=True)
        assert await kernel.difference(second) == ()

    with client(variant) as kernel:
        asyncio.run(body(kernel))


def test_looking_for_listing_variants_takes_no_address_out_of_re_check() -> None:
    under_recheck = (ChangeElements("add", "recheck4", ("10.64.0.10",)), ChangeElements("add", "rechecking", (4,)))

    async def body(kernel: XtClient) -> tuple[str, ...]:
        await converge(kernel, SHOP)
        await kernel.apply(under_recheck)
        add_rule("legacy")
        return await kernel.accept_variants(SHOP, ())

    with client("legacy", lambda: SHOP) as kernel:
        assert asyncio.run(body(kernel)) == ()
        found = asyncio.run(kernel.read())

    assert {name: set(found.sets[name].elements) for name in ("recheck4", "rechecking")} == {
        "recheck4": {"10.64.0.10"},
        "rechecking": {4},
    }


def test_a_new_client_finds_the_rules_of_the_one_before() -> None:
    with client("legacy") as kernel:
        asyncio.run(converge(kernel, SHOP))

    with client("legacy", lambda: SHOP) as again:
        assert asyncio.run(again.read()) == SHOP
        assert asyncio.run(again.difference(SHOP)) == ()


def test_without_rules_there_is_no_ruleset() -> None:
    with client("legacy", lambda: SHOP) as kernel:
        assert asyncio.run(kernel.read()) == ABSENT


def test_a_read_ruleset_has_the_members_that_are_there() -> None:
    with client("legacy", lambda: SHOP) as kernel:
        asyncio.run(converge(kernel, SHOP))
        delete_member("legacy")

        found = asyncio.run(kernel.read())

    assert found.chains == SHOP.chains
    assert found != SHOP


def test_flows_are_added_by_each_of_their_ports() -> None:
    flow: FlowElement = ("10.64.0.10", "tcp", 80, "10.64.1.9", 40000)

    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        await kernel.apply((ChangeElements("add", "revoked4", (flow,)),))
        assert await kernel.difference(SHOP) == ()

    with client("legacy") as kernel:
        asyncio.run(body(kernel))

    members = {
        line.split(" timeout")[0].split(" ", 2)[2] for line in run("ipset", "save").splitlines() if "tcp:" in line
    }
    assert {"10.64.0.10,tcp:80,10.64.1.9", "10.64.0.10,tcp:40000,10.64.1.9"} <= members


@pytest.mark.parametrize("there", ["hash:ip", "hash:ip,port,ip", "hash:ip,port,ip timeout 5", "list:set"])
@pytest.mark.parametrize("origin", ["revoked4", "podpairs4"])
def test_a_set_of_a_name_of_ours_that_is_another_one_is_made_anew(origin: str, there: str) -> None:
    lowered, _ = lower(SHOP, LoweringOptions())
    name = next(name for name, item in lowered.sets.items() if item.origin == origin)
    run("ipset", "create", name, *there.split())

    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        assert await kernel.difference(SHOP) == ()

    with client("legacy") as kernel:
        asyncio.run(body(kernel))


def test_a_full_set_of_flows_is_an_error_of_its_own() -> None:
    shape = SHOP.sets["revoked4"]
    small = msgspec.structs.replace(SHOP, sets={**SHOP.sets, "revoked4": msgspec.structs.replace(shape, size=64)})
    flows: tuple[FlowElement, ...] = tuple(("10.64.0.10", "tcp", 80, "10.64.1.9", port) for port in range(1, 2000))

    async def body(kernel: XtClient) -> None:
        await converge(kernel, small)
        with pytest.raises(SetFullError):
            await kernel.apply((ChangeElements("add", "revoked4", flows),))

    with client("legacy") as kernel:
        asyncio.run(body(kernel))


@pytest.mark.parametrize("variant", VARIANTS)
def test_removing_leaves_nothing_of_ours(variant: Variant) -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        remove_xt_rules()

    with client(variant) as kernel:
        asyncio.run(body(kernel))

    assert "nfa-" not in run(f"iptables-{variant}-save") + run(f"ip6tables-{variant}-save") + run("ipset", "save")


def test_rules_of_ours_that_cannot_be_asked_for_are_an_error_and_not_none() -> None:
    for ask in (remove_xt_rules, xt_rules_hold):
        with no_descriptor_left(), pytest.raises(KernelError, match="Too many open files"):
            ask()


@pytest.mark.parametrize("variant", VARIANTS)
def test_chains_of_ours_that_no_program_can_remove_are_an_error_that_names_it(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)

    with client(variant) as kernel:
        asyncio.run(body(kernel))
    with monkeypatch.context() as patched:
        patched.setenv("PATH", "/nowhere")
        said = f"chains of ours hold in iptables-{variant}, and iptables-{variant}-restore is missing"
        with pytest.raises(KernelError, match=said):
            remove_xt_rules()
    assert remove_xt_rules().chains > 0


def test_a_set_that_another_program_uses_is_left_and_named() -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        name, _ = set_with_members()
        run("iptables-legacy", "-A", "INPUT", "-m", "set", "--match-set", name, "src")
        assert remove_xt_rules().left == (name,)

    with client("legacy") as kernel:
        asyncio.run(body(kernel))


@pytest.mark.parametrize("table", ["raw", "mangle", "nat"])
@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_table_that_iptables_save_cannot_print_holds_nothing_up_where_no_chain_of_it_is_ours(
    family: str, table: str
) -> None:
    """The agent asks at each start, also by nftables, whether the other backend has left anything."""
    run(f"{'ip6' if family == 'ip6' else 'ip'}tables-nft", "-t", table, "-N", "MINE")
    run("nft", "add", "rule", family, table, "MINE", "meta", "cpu", "0", "accept")
    assert remove_xt_rules() == RemovedRules()


def test_a_table_of_ours_that_iptables_save_cannot_print_is_named_with_what_shows_it() -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        run("nft", "add", "rule", "ip", "mangle", "FORWARD", "meta", "cpu", "0", "accept")
        with pytest.raises(KernelError) as refused:
            await kernel.difference(SHOP)
        assert refused.value.hint == "`nft -a list table ip mangle` shows the rule; delete it"

    with client("nft") as kernel:
        asyncio.run(body(kernel))


def sets_of(ruleset: Ruleset) -> set[str]:
    """Return the lines that create the IPv4 sets of addresses of a ruleset."""
    lowered, _ = lower(ruleset, LoweringOptions())
    return {
        create_text(name, item) for name, item in lowered.sets.items() if (item.type, item.family) == ("hash:ip", 4)
    }


def test_a_set_that_is_left_is_no_change_by_another_program_and_goes_when_it_can() -> None:
    before = shop(policy("shop/more", labelled(app="db"), ingress=[{"from": [{"podSelector": labelled(app="web")}]}]))
    name = next(iter({line.split()[1] for line in sets_of(before) - sets_of(SHOP)}))

    async def body(kernel: XtClient) -> None:
        await converge(kernel, before)
        run("iptables-legacy", "-A", "INPUT", "-m", "set", "--match-set", name, "src")
        await converge(kernel, SHOP)
        assert list(kernel.left) == [name]
        assert not await kernel.is_changed(with_content=True)
        assert await kernel.difference(SHOP) == ()

        run("iptables-legacy", "-F", "INPUT")
        assert await kernel.difference(SHOP) == ()
        assert list(kernel.left) == []
        assert name not in run("ipset", "list", "-name").split()

    with client("legacy", lambda: before) as kernel:
        asyncio.run(body(kernel))


def test_nothing_is_changed_before_the_rules_were_read() -> None:
    with client("legacy") as kernel, pytest.raises(KernelError, match="the rules in iptables aren't known"):
        asyncio.run(kernel.apply(diff(ABSENT, SHOP)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_listing_beside_changes_is_answered(variant: Variant) -> None:
    """A change destroys sets; iptables-save asks the kernel for the names of those that a rule has referred to."""
    rulesets = (
        SHOP,
        shop(policy("shop/db", labelled(app="db"), ingress=[{"from": [{"podSelector": labelled(app="web")}]}])),
    )

    async def change(kernel: XtClient, reading: asyncio.Task[None]) -> None:
        changes = 0
        while not reading.done():
            changes += 1
            await kernel.apply(diff(rulesets[(changes + 1) % 2], rulesets[changes % 2]))

    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        listings = TableListings(kernel.read_beside_changes, kernel.counters_now, prepare=kernel.note_names)

        async def read() -> None:
            for _ in range(25):
                assert (await listings.ruleset()).exists

        reading = asyncio.create_task(read())
        await change(kernel, reading)
        await reading

    with client(variant) as kernel:
        asyncio.run(body(kernel))
