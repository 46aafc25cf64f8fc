"""The revoker with changing policies, a conntrack table and a kernel, both of which may refuse."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest

from nfagent.controllers.conntrack_revoker import RevokerStatus, flow_of, revoke_commands
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
    REPLY,
    SERVICE,
    Fakes,
    RevokerSetup,
    entry,
    masqueraded,
    running,
    scenario,
)


@scenario
async def test_reply_tuples_are_blocked_then_entries_deleted_then_addresses_cleared() -> None:
    fakes = Fakes(entry(NEAR), entry(FAR), denied=[NEAR], rechecked=[DB])
    async with running(fakes) as stage:
        await stage.commit()
    assert fakes.journal == ["list", "block", "delete", "clear", "wake"]
    assert fakes.blocked == {REPLY}
    assert fakes.live == [entry(FAR)]
    assert fakes.recheck == {}
    assert (stage.revoker.status.evaluated, stage.revoker.status.revoked) == (2, 1)


@scenario
async def test_without_a_denied_connection_nothing_is_blocked_or_deleted() -> None:
    fakes = Fakes(entry(NEAR), rechecked=[DB, NEAR])
    async with running(fakes) as stage:
        await stage.commit()
    assert fakes.journal == ["list", "clear", "wake"]
    assert fakes.live == [entry(NEAR)]


@scenario
async def test_connections_from_the_node_itself_are_kept_though_policies_deny_its_address() -> None:
    fakes = Fakes(entry(NEAR), entry(FAR), entry(OTHER), denied=[NEAR, FAR], rechecked=[DB])
    fakes.own = {NEAR}
    async with running(fakes) as stage:
        await stage.commit()
    assert fakes.live == [entry(NEAR), entry(OTHER)]
    assert fakes.asked == [NEAR, FAR], "only for denied connections"


@scenario
async def test_conntrack_is_not_read_before_a_commit_with_addresses_under_re_check() -> None:
    fakes = Fakes(entry(NEAR), denied=[NEAR])
    async with running(fakes) as stage:
        stage.revoker.committed()
        await stage.turn()
        fakes.recheck = {DB: 1}
        await stage.turn()
        assert (fakes.journal, stage.clock.pauses) == ([], [])
        await stage.commit()
    assert fakes.journal[0] == "list"


@scenario
async def test_an_address_of_an_uncommitted_change_waits_for_its_commit() -> None:
    elsewhere = entry(NEAR, server=FAR)
    fakes = Fakes(entry(NEAR), elsewhere, denied=[NEAR], rechecked=[DB])
    async with running(fakes) as stage:
        waiting = asyncio.create_task(stage.commit())
        await asyncio.sleep(0)
        fakes.recheck[FAR] = 2
        await waiting
        assert (fakes.live, fakes.recheck) == ([elsewhere], {FAR: 2})
        await stage.commit()
    assert (fakes.live, fakes.recheck) == ([], {})


@pytest.mark.parametrize("when", ["list", "evaluate", "block", "delete"])
@pytest.mark.parametrize("committed", [False, True], ids=["uncommitted", "committed"])
def test_an_address_that_changes_during_a_round_stays_under_re_check(when: str, *, committed: bool) -> None:
    fakes = Fakes(entry(NEAR), entry(FAR), denied=[NEAR], rechecked=[DB, NEAR])
    rested: list[tuple[list[ConntrackEntry], dict[str, int]]] = []

    async def body() -> None:
        async with running(fakes) as stage:
            loop = asyncio.get_running_loop()

            def change(what: str) -> None:
                if what == when and 2 not in fakes.recheck.values():
                    fakes.recheck[DB] = 2
                    if committed:
                        loop.call_soon_threadsafe(stage.revoker.committed)

            fakes.meanwhile = change
            stage.clock.resting = lambda: rested.append((fakes.live, fakes.recheck_addresses))
            if committed:
                await stage.commit(rests=2)
            else:
                await stage.commit()
                await stage.commit()

    asyncio.run(body())
    assert rested == [([entry(FAR)], {DB: 2}), ([entry(FAR)], {})]


@scenario
async def test_the_status_has_the_time_of_the_last_added_address() -> None:
    fakes = Fakes(rechecked=[DB])
    async with running(fakes) as stage:
        stage.revoker.committed()
        assert (stage.revoker.status.rechecking, stage.revoker.status.recheck_at) == (1, 1000.0)
        stage.clock.now = 1001.0
        stage.revoker.committed()
        assert stage.revoker.status.recheck_at == 1000.0, "that commit added no address"
        fakes.recheck = {DB: 2, FAR: 2}
        stage.revoker.committed()
        assert (stage.revoker.status.rechecking, stage.revoker.status.recheck_at) == (2, 1001.0)
        stage.clock.now = 1002.0
        fakes.recheck = {FAR: 2}
        stage.revoker.committed()
        assert (stage.revoker.status.rechecking, stage.revoker.status.recheck_at) == (1, 1001.0)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


WALK_SECONDS = 0.011
"""CPU time of a walk of an empty conntrack table."""
NOTHING: set[Element] = set()
FAILURES = {
    "list": (["list"], 2, NOTHING),
    "block": (["list", "block"], 2, NOTHING),
    "delete": (["list", "block", "delete"], 2, {REPLY}),
}


@pytest.mark.parametrize("error", [KernelError("no memory"), HostError("run it as root"), WireError("half a message")])
@pytest.mark.parametrize("what", FAILURES)
def test_after_a_failure_addresses_stay_under_re_check_and_the_round_is_retried_where(
    what: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    done, left, blocked = FAILURES[what]
    fakes = Fakes(entry(NEAR), entry(FAR), denied=[NEAR], rechecked=[DB])
    fakes.faults = [(what, error)] * 3
    seen: list[tuple[list[str], int, set[Element], dict[str, int], str]] = []

    async def body() -> None:
        async with running(fakes) as stage:

            def note() -> None:
                error_said = stage.revoker.status.last_error
                seen.append(
                    (fakes.journal[:], len(fakes.table), set(fakes.blocked), fakes.recheck_addresses, error_said)
                )
                fakes.journal.clear()

            stage.clock.resting = note
            await stage.commit(rests=4)
            assert stage.clock.pauses == [5.0, 5.0, 5.0, 1.0]
            assert stage.revoker.status.last_error == ""

    asyncio.run(body())
    assert seen[:3] == [(done, left, blocked, {DB: 1}, str(error))] * 3
    assert seen[3:] == [(["list", "block", "delete", "clear", "wake"], 1, {REPLY}, {}, "")]
    assert len(errors(caplog)) == 1
    assert str(error) in errors(caplog)[0]


@scenario
async def test_changes_of_a_burst_share_a_round() -> None:
    fakes = Fakes(entry(NEAR), rechecked=[DB])
    async with running(fakes) as stage:

        def storm(what: str) -> None:
            if what == "evaluate" and not stage.clock.pauses:
                for number in range(2, 50):
                    fakes.recheck = {DB: number}
                    stage.revoker.committed()

        fakes.meanwhile = storm
        await stage.commit(rests=2)
    assert fakes.journal == ["list", "clear", "wake"] * 2
    assert fakes.recheck == {}


def walked_at(stage: RevokerSetup) -> list[float]:
    """Return the times at which conntrack is read from now on, as a list that grows."""
    times: list[float] = []

    def note(what: str) -> None:
        if what == "list":
            times.append(stage.clock.now)
            stage.clock.cpu += WALK_SECONDS

    stage.fakes.meanwhile = note
    return times


@scenario
async def test_conntrack_is_read_at_once_after_a_lone_change() -> None:
    async with running(Fakes(entry(NEAR))) as stage:
        walks = walked_at(stage)
        changed = []
        for number in range(3):
            stage.clock.now += 60.0
            changed.append(stage.clock.now)
            stage.fakes.recheck = {DB: number}
            await stage.commit()
    assert walks == changed


@scenario
async def test_in_a_stream_of_changes_conntrack_is_read_once_a_second_at_most() -> None:
    async with running(Fakes(entry(NEAR), rechecked=[DB])) as stage:
        walks = walked_at(stage)
        began, numbers, late = stage.clock.now, itertools.count(), []

        def change() -> None:
            late.append(stage.fakes.recheck_addresses)
            stage.fakes.recheck = {DB: next(numbers), FAR: 0}
            stage.revoker.committed()

        stage.clock.resting = change
        await stage.rounds(20)
    seconds = stage.clock.now - began
    assert len(walks) == stage.revoker.status.rounds == 20
    assert seconds / len(walks) == pytest.approx(1.0), "one change in each pause waits for its end"
    assert late == [{}] * 20, "each walk evaluated and cleared what was committed before it"


@scenario
async def test_what_is_committed_during_a_pause_stays_under_re_check_until_it_is_evaluated() -> None:
    fakes = Fakes(entry(NEAR), denied=[NEAR], rechecked=[DB])
    async with running(fakes) as stage:
        changed = entry(NEAR, FAR)
        seen: dict[str, tuple[dict[str, int], list[ConntrackEntry]]] = {}

        def change() -> None:
            if not seen:
                fakes.table = {changed: None}
                fakes.recheck = {FAR: 2}
                stage.revoker.committed()
                fakes.meanwhile = note
            note("rest")

        def note(what: str) -> None:
            seen.setdefault(what, (fakes.recheck_addresses, fakes.live))

        stage.clock.resting = change
        await stage.commit(rests=2)
    still = ({FAR: 2}, [changed])
    assert seen == {
        "rest": still,
        "list": still,
        "evaluate": still,
        "block": still,
        "delete": still,
        "clear": ({FAR: 2}, []),
        "wake": ({}, []),
    }


@pytest.mark.parametrize(
    ("cpu_seconds", "pause"),
    [(0.0, 1.0), (0.02, 1.0), (0.1, 1.9), (1.0, 19.0), (60.0, 30.0)],
    ids=lambda value: f"{value:g} s",
)
def test_the_pause_after_a_round_depends_on_its_cpu_time(cpu_seconds: float, pause: float) -> None:
    fakes = Fakes(entry(NEAR), rechecked=[DB])

    async def body() -> None:
        async with running(fakes) as stage:

            def work(what: str) -> None:
                stage.clock.cpu += cpu_seconds if what == "list" else 0.0

            fakes.meanwhile = work
            await stage.commit()
            assert stage.clock.pauses == [pytest.approx(pause)]

    asyncio.run(body())


@pytest.mark.parametrize(
    ("cpu_seconds", "pause"),
    [(0.0, 5.0), (0.2, 5.0), (1.0, 19.0), (3.8, 72.2), (60.0, 300.0)],
    ids=lambda value: f"{value:g} s",
)
def test_the_pause_after_a_failed_round_depends_on_its_cpu_time(cpu_seconds: float, pause: float) -> None:
    fakes = Fakes(entry(NEAR), denied=[NEAR], rechecked=[DB])
    fakes.faults = [("block", KernelError("no"))] * 2

    async def body() -> None:
        async with running(fakes) as stage:

            def work(what: str) -> None:
                stage.clock.cpu += cpu_seconds if what == "list" else 0.0

            fakes.meanwhile = work
            await stage.rounds(2)
            assert stage.clock.pauses == [pytest.approx(pause)] * 2

    asyncio.run(body())


@scenario
async def test_the_event_loop_runs_while_many_connections_are_evaluated() -> None:
    clients = [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(100)]
    fakes = Fakes(*(entry(client) for client in clients), rechecked=[DB])
    async with running(fakes) as stage:
        turns: list[int] = []

        def work(what: str) -> None:
            stage.clock.now += 0.004 if what == "evaluate" else 0.0

        async def other() -> None:
            while len(fakes.questions) < len(clients):
                turns.append(len(fakes.questions))
                await asyncio.sleep(0)

        fakes.meanwhile = work
        busy = asyncio.create_task(other())
        await stage.commit()
        await busy
    assert len({asked for asked in turns if asked}) > 25
    assert [question.source for question in fakes.questions] == clients


@scenario
async def test_connections_of_one_flow_are_evaluated_once() -> None:
    same = [entry(NEAR, port=port) for port in range(40_000, 40_050)]
    fakes = Fakes(*same, entry(NEAR, called=SERVICE), entry(NEAR, protocol=UDP), denied=[NEAR], rechecked=[DB])
    async with running(fakes) as stage:
        await stage.commit()
    assert len(fakes.questions) == 3
    assert fakes.live == []
    assert stage.revoker.status.revoked == 52


@scenario
async def test_many_connections_are_ended_in_parts_and_finished_parts_stay_ended() -> None:
    many = [entry(NEAR, port=port) for port in range(10_000, 20_000)]
    fakes = Fakes(*many, denied=[NEAR], rechecked=[DB])
    async with running(fakes) as stage:

        def full(what: str) -> None:
            if what == "block" and len(fakes.blocked) > 8000:
                fakes.meanwhile = lambda _what: None
                raise KernelError("the set is full")

        fakes.meanwhile = full
        await stage.commit(rests=2)
    assert fakes.journal[:6] == ["list", "block", "delete", "block", "delete", "block"]
    assert fakes.journal[6:] == ["list", "block", "delete", "clear", "wake"]
    assert (fakes.live, len(fakes.blocked)) == ([], 10_000)
    assert stage.revoker.status.revoked == 10_000


FREE = {
    "none": 0,
    "one": 1,
    "less than a part": 1000,
    "a part": 4096,
    "more than a part": 5000,
    "all but one": 9999,
}


@pytest.mark.parametrize("free", FREE.values(), ids=FREE)
def test_with_a_full_set_connections_that_fit_are_ended_and_the_rest_stays_under_re_check(
    free: int, caplog: pytest.LogCaptureFixture
) -> None:
    many = [entry(NEAR, port=port) for port in range(10_000, 20_000)]
    unaffected = entry(FAR, OTHER)
    fakes = Fakes(*many, unaffected, denied=[NEAR], rechecked=[NEAR, OTHER])
    fakes.free = {"revoked4": free}

    async def body() -> None:
        async with running(fakes) as stage:
            status = stage.revoker.status
            await stage.rounds(1)
            assert len(fakes.blocked) == free, "every element that fits is added"
            assert fakes.live == [*many[free:], unaffected]
            assert fakes.recheck == {NEAR: 1}, "an address without a waiting connection is cleared"
            assert (status.revoked, status.waiting, status.evaluated) == (free, len(many) - free, free + 1)
            assert status.last_error.startswith("full: revoked4")
            tried = fakes.journal.count("block")
            assert tried < 30, "the part is halved, not reduced by one"
            fakes.journal.clear()
            await stage.rounds(2)
            assert fakes.journal.count("list") == 2, "once after each pause"
            assert fakes.recheck == {NEAR: 1}
            fakes.expire_tuples()
            fakes.free = {}
            await stage.rounds(1)
            assert (fakes.live, fakes.recheck) == ([unaffected], {})
            assert (status.revoked, status.waiting, status.last_error) == (len(many), 0, "")

    asyncio.run(body())
    assert len(errors(caplog)) == 1


def test_a_full_set_does_not_stop_the_other_family_or_protocols_without_ports() -> None:
    fakes = Fakes(
        entry(NEAR),
        entry(NEAR6, DB6),
        entry(FAR, protocol=ICMP),
        denied=[NEAR, NEAR6, FAR],
        rechecked=[NEAR, NEAR6, FAR, DB6],
    )
    fakes.free = {"revoked4": 0}

    async def body() -> None:
        async with running(fakes) as stage:
            await stage.rounds(1)
            assert fakes.live == [entry(NEAR)]
            assert fakes.recheck == {NEAR: 1}
            assert stage.revoker.status.waiting == 1

    asyncio.run(body())


def test_the_flow_of_an_entry_is_the_one_that_policies_evaluate() -> None:
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
def test_the_reply_tuple_of_a_server_is_blocked(entries: list[ConntrackEntry], transaction: Transaction) -> None:
    assert revoke_commands(entries) == transaction


def test_dump_state_has_the_keys_of_earlier_versions() -> None:
    keys = ["suspects", "suspected_at", "judged", "revoked", "waiting", "last_error"]  # codespell:ignore suspects
    assert list(msgspec.to_builtins(RevokerStatus())) == [*keys, "rounds"]
