"""The revoker between policies that change, a table of connections and a kernel, either of which may refuse."""

from __future__ import annotations

import asyncio

import pytest

from nfagent.controllers.conntrack_revoker import flow_of, revoke_commands
from nfagent.errors import HostError, KernelError, WireError
from nfagent.netlink.conntrack import ConntrackEntry
from nfagent.netlink.packet_header import DCCP, ICMP, ICMPV6, SCTP, UDP
from nfagent.nftables.objects import Element
from nfagent.nftables.transaction import ChangeElements, Transaction
from nfagent.policy.evaluator import Flow
from tests.support.ctnetlink_dump import GRE
from tests.support.revoker_harness import (
    DB,
    DB6,
    ESP,
    FAR,
    NEAR,
    NEAR6,
    OTHER,
    SERVICE,
    WAY,
    World,
    entry,
    masqueraded,
    running,
    scenario,
)


@scenario
async def test_ways_are_blocked_before_entries_are_deleted_and_both_before_addresses_are_absolved() -> None:
    world = World(entry(NEAR), entry(FAR), denied=[NEAR], suspects=[DB])
    async with running(world) as stage:
        await stage.commit()
    assert world.journal == ["look", "block", "delete", "absolve", "wake"]
    assert world.blocked == {WAY}
    assert world.live == [entry(FAR)]
    assert world.recheck == {}
    assert (stage.revoker.status.judged, stage.revoker.status.revoked) == (2, 1)


@scenario
async def test_where_nothing_is_denied_nothing_is_blocked_or_deleted() -> None:
    world = World(entry(NEAR), suspects=[DB, NEAR])
    async with running(world) as stage:
        await stage.commit()
    assert world.journal == ["look", "absolve", "wake"]
    assert world.live == [entry(NEAR)]


@scenario
async def test_what_this_machine_itself_called_goes_on_whatever_policies_say_of_its_address() -> None:
    world = World(entry(NEAR), entry(FAR), entry(OTHER), denied=[NEAR, FAR], suspects=[DB])
    world.own = {NEAR}
    async with running(world) as stage:
        await stage.commit()
    assert world.live == [entry(NEAR), entry(OTHER)]
    assert world.asked == [NEAR, FAR], "only where policies deny"


@scenario
async def test_nobody_looks_without_suspects_or_before_a_commit() -> None:
    world = World(entry(NEAR), denied=[NEAR])
    async with running(world) as stage:
        stage.revoker.committed()
        await stage.turn()
        world.recheck = {DB: 1}
        await stage.turn()
        assert (world.journal, stage.clock.pauses) == ([], [])
        await stage.commit()
    assert world.journal[0] == "look"


@scenario
async def test_a_suspect_of_a_change_that_is_not_committed_waits_for_its_commit() -> None:
    elsewhere = entry(NEAR, server=FAR)
    world = World(entry(NEAR), elsewhere, denied=[NEAR], suspects=[DB])
    async with running(world) as stage:
        waiting = asyncio.create_task(stage.commit())
        await asyncio.sleep(0)
        world.recheck[FAR] = 2
        await waiting
        assert (world.live, world.recheck) == ([elsewhere], {FAR: 2})
        await stage.commit()
    assert (world.live, world.recheck) == ([], {})


@pytest.mark.parametrize("when", ["look", "judge", "block", "delete"])
@pytest.mark.parametrize("committed", [False, True], ids=["wanted", "committed"])
def test_a_suspect_that_changes_meanwhile_stays_and_is_looked_at_again(when: str, *, committed: bool) -> None:
    world = World(entry(NEAR), entry(FAR), denied=[NEAR], suspects=[DB, NEAR])
    rested: list[tuple[list[ConntrackEntry], dict[str, int]]] = []

    async def body() -> None:
        async with running(world) as stage:
            loop = asyncio.get_running_loop()

            def change(what: str) -> None:
                if what == when and 2 not in world.recheck.values():
                    world.recheck[DB] = 2
                    if committed:
                        loop.call_soon_threadsafe(stage.revoker.committed)

            world.meanwhile = change
            stage.clock.resting = lambda: rested.append((world.live, world.suspects))
            if committed:
                await stage.commit(rests=2)
            else:
                await stage.commit()
                await stage.commit()

    asyncio.run(body())
    assert rested == [([entry(FAR)], {DB: 2}), ([entry(FAR)], {})]


@scenario
async def test_the_status_says_when_somebody_was_last_put_under_re_check() -> None:
    world = World(suspects=[DB])
    async with running(world) as stage:
        stage.revoker.committed()
        assert (stage.revoker.status.suspects, stage.revoker.status.suspected_at) == (1, 1000.0)
        stage.clock.now = 1001.0
        stage.revoker.committed()
        assert stage.revoker.status.suspected_at == 1000.0, "that commit was about somebody else"
        world.recheck = {DB: 2, FAR: 2}
        stage.revoker.committed()
        assert (stage.revoker.status.suspects, stage.revoker.status.suspected_at) == (2, 1001.0)
        stage.clock.now = 1002.0
        world.recheck = {FAR: 2}
        stage.revoker.committed()
        assert (stage.revoker.status.suspects, stage.revoker.status.suspected_at) == (1, 1001.0)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


NOTHING: set[Element] = set()
FAILURES = {
    "look": (["look"], 2, NOTHING),
    "block": (["look", "block"], 2, NOTHING),
    "delete": (["look", "block", "delete"], 2, {WAY}),
}


@pytest.mark.parametrize("error", [KernelError("no room"), HostError("run it as root"), WireError("half a message")])
@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_keeps_everybody_under_re_check_is_said_once_and_tried_again(
    what: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    done, left, blocked = FAILURES[what]
    world = World(entry(NEAR), entry(FAR), denied=[NEAR], suspects=[DB])
    world.faults = [(what, error)] * 3
    seen: list[tuple[list[str], int, set[Element], dict[str, int], str]] = []

    async def body() -> None:
        async with running(world) as stage:

            def note() -> None:
                error_said = stage.revoker.status.last_error
                seen.append((world.journal[:], len(world.table), set(world.blocked), world.suspects, error_said))
                world.journal.clear()

            stage.clock.resting = note
            await stage.commit(rests=4)
            assert stage.clock.pauses == [5.0, 5.0, 5.0, 0.1]
            assert stage.revoker.status.last_error == ""

    asyncio.run(body())
    assert seen[:3] == [(done, left, blocked, {DB: 1}, str(error))] * 3
    assert seen[3:] == [(["look", "block", "delete", "absolve", "wake"], 1, {WAY}, {}, "")]
    assert len(errors(caplog)) == 1
    assert str(error) in errors(caplog)[0]


@scenario
async def test_changes_in_a_storm_share_a_look() -> None:
    world = World(entry(NEAR), suspects=[DB])
    async with running(world) as stage:

        def storm(what: str) -> None:
            if what == "judge" and not stage.clock.pauses:
                for number in range(2, 50):
                    world.recheck = {DB: number}
                    stage.revoker.committed()

        world.meanwhile = storm
        await stage.commit(rests=2)
    assert world.journal == ["look", "absolve", "wake"] * 2
    assert world.recheck == {}


@pytest.mark.parametrize(
    ("cpu_seconds", "pause"),
    [(0.0, 0.1), (0.001, 0.1), (0.02, 0.38), (1.0, 19.0), (60.0, 30.0)],
    ids=lambda value: f"{value:g} s",
)
def test_a_look_that_took_cpu_time_is_followed_by_rest(cpu_seconds: float, pause: float) -> None:
    world = World(entry(NEAR), suspects=[DB])

    async def body() -> None:
        async with running(world) as stage:

            def work(what: str) -> None:
                stage.clock.cpu += cpu_seconds if what == "look" else 0.0

            world.meanwhile = work
            await stage.commit()
            assert stage.clock.pauses == [pytest.approx(pause)]

    asyncio.run(body())


@pytest.mark.parametrize(
    ("cpu_seconds", "pause"),
    [(0.0, 5.0), (0.2, 5.0), (1.0, 19.0), (3.8, 72.2), (60.0, 300.0)],
    ids=lambda value: f"{value:g} s",
)
def test_a_look_that_failed_is_followed_by_as_much_rest_for_its_cost(cpu_seconds: float, pause: float) -> None:
    world = World(entry(NEAR), denied=[NEAR], suspects=[DB])
    world.faults = [("block", KernelError("no"))] * 2

    async def body() -> None:
        async with running(world) as stage:

            def work(what: str) -> None:
                stage.clock.cpu += cpu_seconds if what == "look" else 0.0

            world.meanwhile = work
            await stage.rounds(2)
            assert stage.clock.pauses == [pytest.approx(pause)] * 2

    asyncio.run(body())


@scenario
async def test_others_have_their_turn_while_many_connections_are_judged() -> None:
    clients = [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(100)]
    world = World(*(entry(client) for client in clients), suspects=[DB])
    async with running(world) as stage:
        turns: list[int] = []

        def work(what: str) -> None:
            stage.clock.now += 0.004 if what == "judge" else 0.0

        async def other() -> None:
            while len(world.questions) < len(clients):
                turns.append(len(world.questions))
                await asyncio.sleep(0)

        world.meanwhile = work
        busy = asyncio.create_task(other())
        await stage.commit()
        await busy
    assert len({asked for asked in turns if asked}) > 25
    assert [question.source for question in world.questions] == clients


@scenario
async def test_connections_that_policies_cannot_tell_apart_are_judged_once() -> None:
    same = [entry(NEAR, port=port) for port in range(40_000, 40_050)]
    world = World(*same, entry(NEAR, called=SERVICE), entry(NEAR, protocol=UDP), denied=[NEAR], suspects=[DB])
    async with running(world) as stage:
        await stage.commit()
    assert len(world.questions) == 3
    assert world.live == []
    assert stage.revoker.status.revoked == 52


@scenario
async def test_very_many_are_ended_part_by_part_and_those_that_had_room_stay_ended() -> None:
    many = [entry(NEAR, port=port) for port in range(10_000, 20_000)]
    world = World(*many, denied=[NEAR], suspects=[DB])
    async with running(world) as stage:

        def full(what: str) -> None:
            if what == "block" and len(world.blocked) > 8000:
                world.meanwhile = lambda _what: None
                raise KernelError("the set is full")

        world.meanwhile = full
        await stage.commit(rests=2)
    assert world.journal[:6] == ["look", "block", "delete", "block", "delete", "block"]
    assert world.journal[6:] == ["look", "block", "delete", "absolve", "wake"]
    assert (world.live, len(world.blocked)) == ([], 10_000)
    assert stage.revoker.status.revoked == 10_000


ROOM = {
    "none": 0,
    "one": 1,
    "less than a part": 1000,
    "a part": 4096,
    "more than a part": 5000,
    "all but one": 9999,
}


@pytest.mark.parametrize("room", ROOM.values(), ids=ROOM)
def test_where_the_sets_of_ways_are_full_what_fits_is_ended_and_the_rest_stays_under_re_check(
    room: int, caplog: pytest.LogCaptureFixture
) -> None:
    many = [entry(NEAR, port=port) for port in range(10_000, 20_000)]
    unconcerned = entry(FAR, OTHER)
    world = World(*many, unconcerned, denied=[NEAR], suspects=[NEAR, OTHER])
    world.room = {"revoked4": room}

    async def body() -> None:
        async with running(world) as stage:
            status = stage.revoker.status
            await stage.rounds(1)
            assert len(world.blocked) == room, "no element that fits is left out"
            assert world.live == [*many[room:], unconcerned]
            assert world.recheck == {NEAR: 1}, "who has nothing waiting leaves"
            assert (status.revoked, status.waiting, status.judged) == (room, len(many) - room, room + 1)
            assert status.last_error.startswith("no room in revoked4")
            tried = world.journal.count("block")
            assert tried < 30, "halves, not one by one"
            world.journal.clear()
            await stage.rounds(2)
            assert world.journal.count("look") == 2, "once after each rest"
            assert world.recheck == {NEAR: 1}
            world.forget_ways()
            world.room = {}
            await stage.rounds(1)
            assert (world.live, world.recheck) == ([unconcerned], {})
            assert (status.revoked, status.waiting, status.last_error) == (len(many), 0, "")

    asyncio.run(body())
    assert len(errors(caplog)) == 1


def test_a_full_set_keeps_neither_the_other_family_nor_what_leaves_no_way() -> None:
    world = World(
        entry(NEAR),
        entry(NEAR6, DB6),
        entry(FAR, protocol=ICMP),
        denied=[NEAR, NEAR6, FAR],
        suspects=[NEAR, NEAR6, FAR, DB6],
    )
    world.room = {"revoked4": 0}

    async def body() -> None:
        async with running(world) as stage:
            await stage.rounds(1)
            assert world.live == [entry(NEAR)]
            assert world.recheck == {NEAR: 1}
            assert stage.revoker.status.waiting == 1

    asyncio.run(body())


def test_a_connection_is_asked_about_as_policies_see_it() -> None:
    asked = {
        entry(): Flow(NEAR, DB, "tcp", 5432),
        entry(protocol=UDP): Flow(NEAR, DB, "udp", 5432),
        entry(protocol=SCTP): Flow(NEAR, DB, "sctp", 5432),
        entry(NEAR6, DB6): Flow(NEAR6, DB6, "tcp", 5432),
        entry(called=SERVICE, at=80): Flow(NEAR, DB, "tcp", 5432, translated=True),
        entry(DB, called=SERVICE, at=80): Flow(DB, DB, "tcp", 5432, translated=True),
        entry(protocol=ICMP): Flow(NEAR, DB, "icmp"),
        entry(NEAR6, DB6, protocol=ICMPV6): Flow(NEAR6, DB6, "icmpv6"),
        entry(protocol=GRE): Flow(NEAR, DB, "47"),
        entry(protocol=ESP): Flow(NEAR, DB, "50"),
        entry(protocol=DCCP): Flow(NEAR, DB, "33", 5432),
        masqueraded(entry(), "192.0.2.1", 61_000): Flow(NEAR, DB, "tcp", 5432),
    }
    assert {found: flow_of(found) for found in asked} == asked


BLOCKED: dict[str, tuple[list[ConntrackEntry], Transaction]] = {
    "TCP, the way from the server to the client": (
        [entry()],
        (ChangeElements("add", "revoked4", ((DB, "tcp", 5432, NEAR, 40_000),)),),
    ),
    "UDP of IPv6": (
        [entry(NEAR6, DB6, protocol=UDP)],
        (ChangeElements("add", "revoked6", ((DB6, "udp", 5432, NEAR6, 40_000),)),),
    ),
    "SCTP": (
        [entry(protocol=SCTP)],
        (ChangeElements("add", "revoked4", ((DB, "sctp", 5432, NEAR, 40_000),)),),
    ),
    "a Service's, the way from the Pod": (
        [entry(called=SERVICE, at=80)],
        (ChangeElements("add", "revoked4", ((DB, "tcp", 5432, NEAR, 40_000),)),),
    ),
    "a masqueraded one, the way to the node": (
        [masqueraded(entry(), "192.0.2.1", 61_000)],
        (ChangeElements("add", "revoked4", ((DB, "tcp", 5432, "192.0.2.1", 61_000),)),),
    ),
    "each once, and the families apart": (
        [entry(NEAR6, DB6), entry(), entry(), entry(FAR), entry(called=SERVICE, at=80)],
        (
            ChangeElements("add", "revoked4", ((DB, "tcp", 5432, NEAR, 40_000), (DB, "tcp", 5432, FAR, 40_000))),
            ChangeElements("add", "revoked6", ((DB6, "tcp", 5432, NEAR6, 40_000),)),
        ),
    ),
    "ICMP has no port to tell a way by": ([entry(protocol=ICMP), entry(NEAR6, DB6, protocol=ICMPV6)], ()),
    "nor have tunnels": ([entry(protocol=GRE), entry(protocol=ESP)], ()),
    "and DCCP no name in the sets": ([entry(protocol=DCCP)], ()),
    "nothing of nothing": ([], ()),
}


@pytest.mark.parametrize(("entries", "transaction"), BLOCKED.values(), ids=BLOCKED.keys())
def test_a_servers_way_is_blocked(entries: list[ConntrackEntry], transaction: Transaction) -> None:
    assert revoke_commands(entries) == transaction
