"""The reconciler with a real kernel and other programs that change the table: it repairs it after a refused commit."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from pyroute2 import netns

from nfagent.clock import SystemClock
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.nft_socket import NftSocket
from nfagent.kernel.table_queries import generation
from nfagent.model.gvk import Item
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import LoggingSwitch, NetworkLogging, Node, ObjectRef, Pod
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.parse import parse_ruleset
from tests.support.two_node_cluster import Document, decoded, labelled, namespace, node, pod, policy, port

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

DEADLINE = 60.0
NEIGHBOUR = 'table ip nfagent {\n\tchain ours {\n\t\tcomment "another family\'s table of the same name"\n\t}\n}\n'


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread, its threads and processes."""
    name = f"nfagent-reconcile-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        netns.pushns(name)
        try:
            nft("-f", "-", text=NEIGHBOUR)
            yield
        finally:
            netns.popns()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def nft(*arguments: str, text: str = "") -> str:
    done = subprocess.run(
        ["nft", *arguments], input=text, capture_output=True, text=True, check=False, timeout=DEADLINE
    )
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}{text}"
    return done.stdout


def listed() -> Ruleset:
    """Return what nft, a process of its own, says is there."""
    return parse_ruleset(json.loads(nft("-j", "list", "ruleset")))


class RunningReconciler:
    """The desired state, the kernel and the reconciler, as in the agent."""

    def __init__(self, elements: NftSocket | None = None) -> None:
        self.desired = DesiredState("a")
        self.kernel = NftClient(elements)
        self.reconciler = Reconciler(self.kernel, SystemClock(), self.desired, resync=3600.0, on_sync=self._sync)
        self.under_way = False
        self._synced = asyncio.Event()

    def happens(self, *events: Item | ObjectRef) -> None:
        self._synced.clear()
        for event in events:
            if isinstance(event, ObjectRef):
                self.desired.remove(event)
            else:
                self.desired.put(event)
        self.reconciler.wake()

    async def settles(self, *events: Item | ObjectRef) -> None:
        """Apply a change, and wait until the kernel is in sync."""
        self.happens(*events)
        async with asyncio.timeout(DEADLINE):
            await self._synced.wait()
        status = self.reconciler.status
        assert (status.in_sync, status.failures, status.last_error) == (True, 0, "")

    async def watch(self) -> None:
        """Notice whether the loop turns while a transaction is taken and not yet committed."""
        while True:
            self.under_way = self.under_way or not (self.desired.dirty or self.reconciler.status.in_sync)
            await asyncio.sleep(0)

    async def shows(self, wanted: Ruleset) -> None:
        """Wait until a listing says so: it may miss elements while the kernel makes a set's hash table larger."""
        async with asyncio.timeout(DEADLINE):
            while await self.kernel.read() != wanted:  # noqa: ASYNC110 - nothing tells when the table has its size
                await asyncio.sleep(0.01)

    def _sync(self) -> None:
        if self.reconciler.status.in_sync:
            self._synced.set()


@asynccontextmanager
async def running(
    *documents: Document, elements: NftSocket | None = None, watched: bool = False
) -> AsyncIterator[RunningReconciler]:
    stage = RunningReconciler(elements)
    tasks = [asyncio.create_task(stage.reconciler.run())]
    try:
        await stage.settles(*map(decoded, documents))
        if watched:
            tasks.append(asyncio.create_task(stage.watch()))
        yield stage
        assert not tasks[0].done(), "the reconciler ended"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stage.kernel.close()


CHAIN = "ingress/shop/p"
OTHER_CHAIN = "ingress/shop/q"
WEB = pod("shop/web", "a", 10, (port(80, "http"),), app="web")
SECOND_WEB = pod("shop/web2", "a", 12, (port(80, "http"),), app="web")
DB = pod("shop/db", "b", 11, app="db")
SECOND_DB = pod("shop/db2", "b", 13, app="db")
POLICY = policy("shop/p", labelled(app="web"), ingress=[{"from": [{"podSelector": labelled(app="db")}]}])
OTHER = policy("shop/q", labelled(app="other"), ingress=[{"from": [{"podSelector": labelled(app="cache")}]}])
MASQUERADE = {
    "kind": "ConfigMap",
    "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
    "data": {"config": "nonMasqueradeCIDRs: [10.0.0.0/8]"},
}
WIDE = {
    "kind": "Node",
    "metadata": {"name": "wide"},
    "spec": {"podCIDRs": ["10.100.0.0/16", "fd00::/64"]},
    "status": {"addresses": []},
}
"""Holds the addresses of `databases`: they are elements of peers alone."""

SCENE = [node("a"), node("b"), WIDE, namespace("shop"), WEB, DB, POLICY, MASQUERADE]
WANTS_TWELVE = decoded(SECOND_WEB)
MORE_EXEMPT = IpMasqConfig(cidrs=(parse_cidr("10.0.0.0/8"), parse_cidr("172.16.0.0/12")))


def scene(*more: Item) -> Ruleset:
    desired = DesiredState("a")
    for item in (*map(decoded, SCENE), *more):
        desired.put(item)
    return desired.ruleset()


PEERS = next(name for name in scene().sets if name.startswith("peers4/"))
SELECTED_ANEW = decoded(policy("shop/r", labelled(app="web"), ingress=[{"from": [{"podSelector": labelled(app="x")}]}]))
NEW_PEERS = next(name for name in scene(SELECTED_ANEW).sets if name.startswith("peers4/") and name != PEERS)
MINE = "add chain inet nfagent mine\n"

# What others do, what happens then, and what the kernel says to our change.
REFUSALS: dict[str, tuple[str, tuple[Item | ObjectRef, ...], str]] = {
    "ENOENT: another program deleted the address that the agent deletes": (
        f"delete element inet nfagent {PEERS} {{ 10.64.1.11 }}",
        (decoded(DB).ref,),
        r"\{ 10.64.1.11 \}: it isn't in the set \(ENOENT\)",
    ),
    "ENOENT: another program flushed the set that the agent deletes from": (
        f"flush set inet nfagent {PEERS}",
        (decoded(pod("shop/db", "b", 15, app="db")),),
        r"it isn't in the set \(ENOENT\)",
    ),
    "ENOENT: another program deleted the set that the agent adds to, and its rules": (
        f"flush chain inet nfagent {CHAIN}\nflush chain inet nfagent stray/{CHAIN}\ndelete set inet nfagent {PEERS}",
        (decoded(SECOND_DB),),
        r"there is no set \S+ \(ENOENT\)",
    ),
    "ENOENT: another program deleted the whole table before a change of elements": (
        "delete table inet nfagent",
        (decoded(SECOND_DB),),
        r"there is no table inet nfagent \(ENOENT\)",
    ),
    "ENOENT: another program deleted the whole table before a change of rules": (
        "delete table inet nfagent",
        (SELECTED_ANEW,),
        r"there is no table inet nfagent \(ENOENT\)",
    ),
    "ENOENT: another program deleted the whole table before logging is switched": (
        "delete table inet nfagent",
        (NetworkLogging(deny=LoggingSwitch(log=True)),),
        r"there is no table inet nfagent \(ENOENT\)",
    ),
    "ENOENT: another program flushed all rulesets of the machine": (
        f"flush ruleset\n{NEIGHBOUR}",
        (decoded(SECOND_DB), decoded(SECOND_WEB)),
        r"there is no table inet nfagent \(ENOENT\)",
    ),
    "ENOENT: another program deleted the chain that a new Pod is mapped to": (
        f"flush map inet nfagent ingress4\nflush map inet nfagent ingress6\ndelete chain inet nfagent {CHAIN}",
        (WANTS_TWELVE,),
        r"there is no chain of that name \(ENOENT\)",
    ),
    "ENOENT: another program deleted the map element of a Pod that the agent deletes": (
        f"delete element inet nfagent ingress4 {{ 10.64.0.10 : goto {CHAIN} }}",
        (WANTS_TWELVE, decoded(WEB).ref),
        r"it isn't in the map \(ENOENT\)",
    ),
    "ENOENT: another program deleted the range that the agent deletes": (
        "delete element inet nfagent nonmasq4 { 10.0.0.0/8 }",
        (IpMasqConfig(cidrs=()),),
        r"it isn't in the set \(ENOENT\)",
    ),
    "ENOENT: another program deleted the chain whose Pod the agent maps to another": (
        f"flush map inet nfagent ingress4\nflush map inet nfagent ingress6\ndelete chain inet nfagent {CHAIN}",
        (decoded(POLICY).ref,),
        r"there is no chain \S+ \(ENOENT\)",
    ),
    "EEXIST: another program mapped the new Pod's address to its own chain": (
        f"{MINE}add element inet nfagent ingress4 {{ 10.64.0.12 : goto mine }}",
        (WANTS_TWELVE,),
        r"the address has another target already \(E(EXIST|BUSY)\)",
    ),
    "EEXIST: another program mapped the new Pod's address to another chain of the agent": (
        "add element inet nfagent ingress4 { 10.64.0.12 : goto allow/ingress/shop/p }",
        (WANTS_TWELVE,),
        r"the address has another target already \(E(EXIST|BUSY)\)",
    ),
    "EEXIST: another program mapped an address that the agent maps to a new policy set": (
        f"{MINE}add element inet nfagent ingress4 {{ 10.64.0.14 : goto mine }}",
        (decoded(OTHER), decoded(pod("shop/other", "a", 14, app="other"))),
        r"the address has another target already \(E(EXIST|BUSY)\)",
    ),
    "EEXIST: another program added the range that the agent adds": (
        "add element inet nfagent nonmasq4 { 172.16.0.0/12 }",
        (MORE_EXEMPT,),
        r"the interval is in the set already.*\(EEXIST\)",
    ),
    "EEXIST: another program added a range that overlaps one that the agent adds": (
        "add element inet nfagent nonmasq4 { 172.20.0.0-172.40.0.0 }",
        (MORE_EXEMPT,),
        r"overlaps one in it \(EEXIST\)",
    ),
    "EEXIST: another program created a set of the same name with another type": (
        f"add set inet nfagent {NEW_PEERS} {{ type ipv6_addr; }}",
        (SELECTED_ANEW,),
        r"of this name already, with other properties \(EEXIST\)",
    ),
    "EEXIST: another program created a base chain of the same name": (
        "add chain inet nfagent ingress/shop/p_r { type filter hook forward priority 5; policy drop; }",
        (SELECTED_ANEW,),
        r"its chain has a hook.*\(EOPNOTSUPP\)",
    ),
    "EBUSY: a foreign rule jumps to the policy set's chain that the agent deletes": (
        f"{MINE}add rule inet nfagent mine goto {CHAIN}",
        (decoded(POLICY).ref,),
        r"rules or elements still refer to it \(EBUSY\)",
    ),
    "EBUSY: a foreign rule in a chain of the agent jumps to the chain that the agent deletes": (
        f"insert rule inet nfagent forward-ingress ip saddr 10.9.9.9 goto {CHAIN}",
        (decoded(POLICY).ref,),
        r"rules or elements still refer to it \(EBUSY\)",
    ),
    "EBUSY: a foreign map element has the chain that the agent deletes": (
        f"add element inet nfagent ingress4 {{ 10.9.9.9 : goto {CHAIN} }}",
        (decoded(WEB).ref,),
        r"rules or elements still refer to it \(EBUSY\)",
    ),
    "EBUSY: a foreign rule looks up the set that the agent deletes": (
        f"add rule inet nfagent stray-ingress ip saddr @{PEERS} drop",
        (decoded(POLICY).ref,),
        r"rules or elements still refer to it \(EBUSY\)",
    ),
    "EBUSY: a foreign rule uses the counter that the agent deletes": (
        f'{MINE}add rule inet nfagent mine counter name "deny/{CHAIN}"',
        (decoded(POLICY).ref,),
        r"rules or elements still refer to it \(EBUSY\)",
    ),
}


@pytest.mark.parametrize(("sabotage", "events", "said"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_ends_in_the_right_ruleset(
    sabotage: str, events: tuple[Item | ObjectRef, ...], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with running(*SCENE) as stage:
            assert listed() == stage.desired.ruleset()
            nft("-f", "-", text=f"{sabotage}\n")
            assert listed() != stage.desired.ruleset(), "the sabotage did nothing"
            await stage.settles(*events)
            assert listed() == stage.desired.ruleset()

    with caplog.at_level("ERROR"):
        asyncio.run(body())
    assert_refused(caplog, said)
    assert nft("list", "table", "ip", "nfagent") == NEIGHBOUR


def assert_refused(caplog: pytest.LogCaptureFixture, said: str) -> None:
    """Assert one refusal with this text, or none."""
    assert len(caplog.messages) == (said != ""), caplog.messages
    assert re.search(said, "".join(caplog.messages)), caplog.messages


def peers_of_three_hundred_kinds() -> Document:
    """Return a policy with 300 peers, each of which means every Pod with the label app: 300 sets."""
    kinds = [
        {"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [f"v{number}"]}]}}
        for number in range(300)
    ]
    return policy("shop/p", labelled(app="web"), ingress=[{"from": kinds}])


def databases(count: int) -> list[Pod]:
    first = decoded(DB)
    assert isinstance(first, Pod)
    return [
        msgspec.structs.replace(first, name=f"db{n}", addresses=(f"10.{100 + (n >> 16)}.{n >> 8 & 255}.{n & 255}",))
        for n in range(count)
    ]


class Narrow(msgspec.Struct, frozen=True, kw_only=True):
    """A socket with a small buffer, commands of another program, events, and the kernel's error; '' for none."""

    buffers: dict[str, Any]
    sabotage: str = ""
    documents: tuple[Document, ...] = tuple(SCENE)
    events: tuple[Item | ObjectRef, ...]
    said: str = ""


SMALL_BUFFERS: dict[str, Narrow] = {
    "ENOBUFS: a batch that exceeds the send buffer": Narrow(
        buffers={"send_buffer": 2_048}, events=tuple(databases(1_000))
    ),
    "ENOBUFS: a small batch, in this thread, that exceeds the send buffer": Narrow(
        buffers={"send_buffer": 2_048},
        events=tuple(
            msgspec.structs.replace(item, addresses=(f"fd00::{n:x}",)) for n, item in enumerate(databases(250), 1)
        ),
    ),
    "ENOBUFS: refusals that overflow the receive buffer": Narrow(
        buffers={"receive_buffer": 2_048},
        sabotage="delete table inet nfagent\n",
        documents=(*SCENE, peers_of_three_hundred_kinds()),
        events=(decoded(SECOND_DB),),
        said=r"there is no table inet nfagent \(ENOENT\)",
    ),
    "ENOBUFS: a batch that exceeds the send buffer, and a deleted table": Narrow(
        buffers={"send_buffer": 2_048},
        sabotage="delete table inet nfagent\n",
        events=tuple(databases(1_000)),
        said=r"there is no table inet nfagent \(ENOENT\)",
    ),
}


@pytest.mark.parametrize("case", SMALL_BUFFERS.values(), ids=SMALL_BUFFERS)
def test_with_a_small_socket_buffer_the_ruleset_is_committed(case: Narrow, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running(*case.documents, elements=NftSocket(**case.buffers)) as stage:
            nft("-f", "-", text=case.sabotage)
            await stage.settles(*case.events)
            await stage.shows(stage.desired.ruleset())
            # The socket goes on as ever.
            await stage.settles(decoded(pod("shop/last", "b", 99, app="db")))
            await stage.shows(stage.desired.ruleset())

    with caplog.at_level("ERROR"):
        asyncio.run(body())
    assert_refused(caplog, case.said)


MIXED: dict[str, tuple[Item | ObjectRef, ...]] = {
    "a policy and its peers come: the old policy set goes": (
        SELECTED_ANEW,
        decoded(pod("shop/x", "b", 20, app="x")),
        decoded(SECOND_DB),
    ),
    "a Pod of a new class comes, and one of an old one": (
        decoded(OTHER),
        decoded(pod("shop/other", "a", 14, app="other")),
        WANTS_TWELVE,
        decoded(SECOND_DB),
    ),
    "the last Pod of a policy set goes": (decoded(WEB).ref, MORE_EXEMPT),
    "the policy of a policy set that stays changes, with its peers": (
        decoded(policy("shop/p", labelled(app="web"), ingress=[{"from": [{"podSelector": labelled(app="y")}]}])),
        decoded(pod("shop/y", "b", 21, app="y")),
    ),
    "everything goes, and something else comes": (
        decoded(POLICY).ref,
        decoded(DB).ref,
        SELECTED_ANEW,
        MORE_EXEMPT,
        Node("b"),
    ),
    "logging is switched while Pods come": (NetworkLogging(allow=LoggingSwitch(log=True)), decoded(SECOND_DB)),
}


@pytest.mark.parametrize("events", MIXED.values(), ids=MIXED)
def test_a_change_of_rules_and_elements_is_one_commit_of_the_kernel(events: tuple[Item | ObjectRef, ...]) -> None:
    async def body() -> None:
        async with running(*SCENE) as stage:
            before, told = generation(), stage.reconciler.status.transactions
            await stage.settles(*events)
            assert (generation() - before, stage.reconciler.status.transactions - told) == (1, 1)
            assert listed() == stage.desired.ruleset()

    asyncio.run(body())


def test_a_few_elements_are_committed_before_any_other_task_runs() -> None:
    async def body() -> None:
        async with running(*SCENE, watched=True) as stage:
            before = generation()
            await stage.settles(*databases(256))
            assert (stage.under_way, generation() - before) == (False, 1)
            await stage.shows(stage.desired.ruleset())

    asyncio.run(body())


def test_twenty_thousand_elements_go_together_while_the_loop_turns() -> None:
    async def body() -> None:
        async with running(*SCENE, watched=True) as stage:
            pods = databases(20_000)
            for events in (pods, [item.ref for item in pods]):
                before, stage.under_way = generation(), False
                await stage.settles(*events)
                assert (stage.under_way, generation() - before) == (True, 1)
                await stage.shows(stage.desired.ruleset())

    asyncio.run(body())


def test_newer_events_that_come_while_twenty_thousand_elements_go_are_not_lost() -> None:
    async def body() -> None:
        async with running(*SCENE, watched=True) as stage:
            pods = databases(20_000)
            stage.happens(*pods)
            async with asyncio.timeout(DEADLINE):
                while not stage.under_way:  # noqa: ASYNC110 - `watch` notices at each turn
                    await asyncio.sleep(0)
            await stage.settles(pods[0].ref, msgspec.structs.replace(pods[1], addresses=("10.64.1.77",)))
            await stage.shows(stage.desired.ruleset())

    asyncio.run(body())


def test_the_kernel_can_be_read_while_elements_are_committed() -> None:
    async def body() -> None:
        async with running(*SCENE) as stage:
            pods = databases(400)
            before = generation()
            everything = {address for item in pods for address in item.addresses} | {"10.64.1.11"}
            empty = _without_peers(stage.desired.ruleset())
            done, reads = asyncio.Event(), 0

            async def read() -> None:
                nonlocal reads
                while not done.is_set():
                    found = await stage.kernel.read()
                    assert _without_peers(found) == empty
                    assert found.sets[PEERS].elements <= everything
                    reads += 1

            async def write() -> None:
                for item in pods:
                    seen = reads
                    await stage.settles(item)
                    if item.name.endswith("0"):
                        async with asyncio.timeout(DEADLINE):
                            while reads == seen:  # noqa: ASYNC110 - readers tell by counting
                                await asyncio.sleep(0)
                done.set()

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(write())
                for _ in range(2):
                    tasks.create_task(read())
            assert generation() - before <= len(pods)
            await stage.shows(stage.desired.ruleset())

    asyncio.run(body())


def _without_peers(ruleset: Ruleset) -> Ruleset:
    emptied = msgspec.structs.replace(ruleset.sets[PEERS], elements=frozenset())
    return msgspec.structs.replace(ruleset, sets={**ruleset.sets, PEERS: emptied})


def test_a_restart_takes_over_what_it_finds_without_a_transaction(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running(*SCENE) as stage:
            assert stage.desired.recheck_addresses, "the previous contents of the table are unknown"
            stage.desired.clear_recheck(stage.desired.recheck_addresses)
            await stage.settles()
            left = stage.desired.ruleset()
        before = generation()
        async with running(*SCENE) as stage:
            assert (generation(), stage.reconciler.status.transactions) == (before, 0)
            await stage.settles(decoded(SECOND_DB))
        assert listed() != left

    with caplog.at_level("WARNING"):
        asyncio.run(body())
    assert caplog.messages == []


def test_notified_drift_is_repaired_in_one_transaction() -> None:
    async def body() -> None:
        async with running(*SCENE) as stage:
            nft("-f", "-", text=f"{MINE}flush set inet nfagent {PEERS}\nflush chain inet nfagent forward-egress\n")
            before = generation()
            stage.reconciler.invalidate()
            await stage.settles()
            assert (generation() - before, stage.reconciler.status.drifts) == (1, 1)
            assert listed() == stage.desired.ruleset()

    asyncio.run(body())


MARKS = "add map inet nfagent marks { type ipv4_addr : mark; }\n"
KEYWORD = {"family": "inet", "table": "nfagent", "name": "over", "bytes": 5, "inv": True}
"""A quota whose name is a word of nft's syntax: JSON can make it, and no text can delete it."""


def test_a_foreign_object_whose_name_is_a_word_of_nft_syntax_is_deleted_and_the_table_stays() -> None:
    async def body() -> None:
        async with running(*SCENE) as stage:
            handle = table_handle()
            nft("-j", "-f", "-", text=json.dumps({"nftables": [{"add": {"quota": KEYWORD}}]}))
            stage.reconciler.invalidate()
            await stage.settles()
            assert (listed(), table_handle()) == (stage.desired.ruleset(), handle)

    asyncio.run(body())


def test_after_a_refusal_to_delete_foreign_objects_the_whole_table_is_replaced_once() -> None:
    async def body() -> None:
        async with running(*SCENE) as stage:
            await stage.settles()
            wanted, handle = stage.desired.ruleset(), table_handle()
            nft("-f", "-", text=MARKS)
            refused = await stage.kernel.difference(wanted)
            nft("-f", "-", text=f"{MINE}add rule inet nfagent mine meta mark set ip saddr map @marks\n")
            before = listed()
            with pytest.raises(KernelError, match=r"delete map inet nfagent marks: .*\(EBUSY\)"):
                await stage.kernel.apply(refused)
            assert (listed(), table_handle()) == (before, handle)

            await stage.kernel.apply(await stage.kernel.difference(wanted))
            assert listed() == wanted
            replaced = table_handle()
            assert replaced != handle
            # The next foreign object is deleted alone again.
            nft("-f", "-", text=MARKS)
            await stage.kernel.apply(await stage.kernel.difference(wanted))
            assert (listed(), table_handle()) == (wanted, replaced)

    asyncio.run(body())


def table_handle() -> int:
    """Return what tells this table from one that was made anew."""
    entries = json.loads(nft("-j", "list", "tables", "inet"))["nftables"]
    return int(next(entry["table"]["handle"] for entry in entries if entry.get("table", {}).get("name") == "nfagent"))
