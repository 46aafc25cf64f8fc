"""Leader election: at most one leader, with any behaviour of agents, clocks and network."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from contextlib import suppress
from random import Random
from statistics import fmean
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.errors import ClusterError
from nfagent.reporting.lease import (
    LEASE_SECONDS,
    POLL_MARGIN_SECONDS,
    POLLS_PER_SECOND,
    RENEW_DEADLINE_SECONDS,
    RENEW_SECONDS,
    Lease,
    LeaseState,
    decode_lease,
    first_poll_delay,
    lease_body,
    poll_interval,
)
from nfagent.reporting.timestamps import to_microseconds

AGENTS = ("a", "b", "c")
FOREIGN = Lease(holder="b", renewed="t0", acquired="t0", version="1")


def test_the_lease_outlasts_the_renew_deadline_and_a_request() -> None:
    assert RENEW_SECONDS * 2 < RENEW_DEADLINE_SECONDS < LEASE_SECONDS - 15


def observed(*seen: tuple[Lease | None, float]) -> LeaseState:
    state = LeaseState("a")
    for lease, at in seen:
        state.observe(lease, at)
    return state


RELEASED = Lease(holder="", seconds=1, transitions=4, version="1")
BIDS = {
    "no Lease: it is created": (observed((None, 0.0)), 0.0, True),
    "a Lease that was released": (observed((RELEASED, 0.0)), 0.0, True),
    "another's, just observed": (observed((FOREIGN, 100.0)), 100.0, False),
    "another's, just before it expires": (observed((FOREIGN, 100.0)), 159.0, False),
    "another's, expired": (observed((FOREIGN, 100.0)), 160.0, True),
    "another's, written since": (
        observed((FOREIGN, 0.0), (msgspec.structs.replace(FOREIGN, version="2"), 59.0)),
        118.0,
        False,
    ),
    "another's, unchanged since": (observed((FOREIGN, 0.0), (FOREIGN, 59.0)), 60.0, True),
    "another's for a shorter time than ours": (
        observed((msgspec.structs.replace(FOREIGN, seconds=1), 0.0)),
        30.0,
        False,
    ),
    "another's for ever": (observed((msgspec.structs.replace(FOREIGN, seconds=10**9), 0.0)), 600.0, True),
    "its own, from before a restart": (
        observed((msgspec.structs.replace(FOREIGN, holder="a"), 0.0)),
        *(0.0, True),
    ),
}


@pytest.mark.parametrize(("state", "now", "bids"), BIDS.values(), ids=BIDS)
def test_a_lease_is_acquired_unless_another_agents_is_valid(state: LeaseState, now: float, *, bids: bool) -> None:
    bid = state.next_record(now, "t")
    assert (bid is not None) == bids
    assert bid is None or (bid.holder, bid.renewed, bid.seconds) == ("a", "t", LEASE_SECONDS)
    assert not state.is_leader(now), "it isn't written yet"


def test_an_acquisition_counts_as_transition_and_a_renewal_does_not() -> None:
    state = observed((RELEASED, 0.0))
    taken = state.next_record(0.0, "t1")
    assert taken == Lease(holder="a", renewed="t1", acquired="t1", transitions=5, version="1")
    state.record_write(msgspec.structs.replace(taken, version="2"), 0.0, 0.1)
    renewed = state.next_record(15.0, "t2")
    assert renewed == Lease(holder="a", renewed="t2", acquired="t1", transitions=5, version="2")


def test_the_leader_acts_until_its_renew_deadline_counted_from_its_request() -> None:
    state = observed((None, 0.0))
    state.record_write(Lease(holder="a", version="2"), 10.0, 30.0)
    assert state.is_leader(30.0)
    assert state.is_leader(49.9)
    assert not state.is_leader(50.0)
    assert state.holds_lease, "it goes on to renew"


def test_an_agent_that_reads_another_holder_or_no_lease_is_no_longer_leader() -> None:
    for seen in (FOREIGN, None):
        state = observed((None, 0.0))
        state.record_write(Lease(holder="a", version="2"), 0.0, 0.0)
        state.observe(seen, 1.0)
        assert not state.is_leader(1.0)
        assert not state.holds_lease


def test_a_leader_releases_the_lease_once() -> None:
    state = observed((None, 0.0))
    assert state.release("t") is None
    state.record_write(Lease(holder="a", version="2"), 0.0, 0.0)
    assert state.release("t") == Lease(holder="", seconds=1, renewed="t", version="2")
    assert not state.is_leader(0.0)
    assert state.release("t") is None


def test_a_lease_survives_encoding_and_decoding() -> None:
    lease = Lease(holder="a", renewed="t1", acquired="t2", transitions=3, version="77")
    assert decode_lease(msgspec.json.encode(lease_body(lease))) == lease
    assert "resourceVersion" not in lease_body(Lease(holder="a"))["metadata"]
    assert "holderIdentity" not in lease_body(Lease())["spec"], "the API rejects an empty name"


@pytest.mark.parametrize(
    "spec", [{}, {"spec": None}, {"spec": {"holderIdentity": None, "leaseDurationSeconds": None}}], ids=str
)
def test_a_lease_without_fields_has_no_holder(spec: dict[str, Any]) -> None:
    body = msgspec.json.encode({"metadata": {"resourceVersion": "5"}, **spec})
    assert decode_lease(body) == Lease(version="5")


@given(st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"metadata":{},"spec":{"leaseDurationSeconds":"x"}}']))
def test_any_bytes_decode_to_a_lease_or_raise_a_cluster_error(body: bytes) -> None:
    with suppress(ClusterError):
        assert isinstance(decode_lease(body), Lease)


class Server:
    """Stores the Lease, and accepts one of several writers."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self._version = 0

    def write(self, lease: Lease) -> Lease | None:
        if lease.version != (self.lease.version if self.lease is not None else ""):
            return None
        self._version += 1
        self.lease = msgspec.structs.replace(lease, version=str(self._version))
        return self.lease


class Agent:
    """An agent whose requests and responses are delivered in separate steps."""

    def __init__(self, name: str, started: float) -> None:
        self.state = LeaseState(name)
        self.started = started
        self.bid: tuple[Lease, float] | None = None
        self.answer: tuple[Lease, float] | None = None

    def step(self, what: str, server: Server, time: float) -> None:
        now = time + self.started
        match what:
            case "look":
                self.state.observe(server.lease, now)
            case "bid":
                lease = self.state.next_record(now, f"t{time}")
                self.bid = (lease, now) if lease is not None else None
            case "serve" if self.bid is not None:
                served = server.write(self.bid[0])
                self.answer = (served, self.bid[1]) if served is not None else None
                self.bid = None
            case "hear" if self.answer is not None:
                self.state.record_write(*self.answer, now)
                self.answer = None
            case "lose":
                self.answer = None
            case "resign":
                given = self.state.release(f"t{time}")
                if given is not None:
                    server.write(given)


STEPS = st.tuples(
    st.sampled_from(AGENTS),
    st.sampled_from(["look", "bid", "serve", "hear", "look", "bid", "serve", "hear", "lose", "resign"]),
    st.sampled_from([0.0, 0.0, 0.0, 1.0, 14.0, 39.0, 61.0]),
)
"""An agent, its step, and the seconds that pass after it."""


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=60), st.tuples(*[st.floats(-1e6, 1e6)] * 3))
def test_there_are_never_two_leaders(history: list[tuple[str, str, float]], zeros: tuple[float, ...]) -> None:
    server = Server()
    agents = {name: Agent(name, round(zero)) for name, zero in zip(AGENTS, zeros, strict=True)}
    time = 0.0
    for name, what, pause in history:
        agent = agents[name]
        # A request is cancelled after 15 seconds, as by RequestRetrier.
        for other in agents.values():
            if other.bid is not None and time + other.started - other.bid[1] > 15.0:
                other.bid = None
            if other.answer is not None and time + other.started - other.answer[1] > 15.0:
                other.answer = None
        agent.step(what, server, time)
        leaders = [one for one in AGENTS if agents[one].state.is_leader(time + agents[one].started)]
        assert len(leaders) <= 1
        time += pause


@pytest.mark.parametrize(
    ("nodes", "least", "most", "first"),
    [
        pytest.param(1, 12.0, 18.0, 0.0, id="one Node"),
        pytest.param(50, 12.0, 18.0, 0.0, id="a small cluster has its leader at once"),
        pytest.param(51, 12.0, 18.0, 15.0, id="a larger one within seconds"),
        pytest.param(1000, 160.0, 240.0, 200.0, id="1,000 Nodes"),
        pytest.param(15000, 2400.0, 3600.0, 3000.0, id="15,000 Nodes"),
    ],
)
def test_the_poll_interval_grows_with_the_number_of_nodes(nodes: int, least: float, most: float, first: float) -> None:
    assert (poll_interval(nodes, 0.0), poll_interval(nodes, 1.0)) == pytest.approx((least, most))
    assert (first_poll_delay(nodes, 0.0), first_poll_delay(nodes, 1.0)) == pytest.approx((0.0, first))


MANY = 15_000
HERE = 1_795_000_000  # wall time, seconds since 1970
LONG = poll_interval(MANY, 1.0)
SOON = LEASE_SECONDS + POLL_MARGIN_SECONDS


def written(ago: float, version: str = "1") -> Lease:
    return Lease(holder="b", renewed=to_microseconds(int((HERE - ago) * 1e9)), version=version)


PAUSES = {
    "valid, by the wall clock": ([(written(59.0), 0.0)], LONG),
    "expired, by the wall clock": ([(written(61.0), 0.0)], SOON),
    "written in the future of our clock": ([(written(-3600.0), 0.0)], SOON),
    "without a time": ([(msgspec.structs.replace(written(0.0), renewed=""), 0.0)], SOON),
    "not written since the last poll": ([(written(0.0), 0.0), (written(0.0), 20.0)], SOON - 20.0),
    "expired, and then written: its clock is wrong": ([(written(9e9), 0.0), (written(9e9, "2"), 64.0)], LONG),
    "written within the last hour, and expired since": ([(written(0.0), 0.0), (written(99.0, "2"), 3000.0)], SOON),
    "with a duration of hours": ([(msgspec.structs.replace(written(9e9), seconds=9999), 0.0)], 605.0),
    "none": ([(None, 0.0)], LONG),
}


@pytest.mark.parametrize(("seen", "seconds"), PAUSES.values(), ids=PAUSES)
def test_a_lease_that_may_be_expired_is_read_again_when_it_would_be(
    seen: list[tuple[Lease | None, float]], seconds: float
) -> None:
    assert observed(*seen).next_poll(seen[-1][1], HERE * 10**9, MANY, 1.0) == pytest.approx(seconds)


def test_an_agent_that_missed_the_expiry_polls_at_the_normal_interval() -> None:
    assert observed((written(61.0), 0.0)).next_poll(63.0, (HERE + 63) * 10**9, MANY, 1.0) == LONG


def test_in_a_small_cluster_the_expiry_delays_no_poll() -> None:
    assert observed((written(61.0), 0.0)).next_poll(0.0, HERE * 10**9, 3, 1.0) == poll_interval(3, 1.0)


def test_the_leader_renews_at_the_same_interval_in_any_cluster() -> None:
    state = observed((None, 0.0))
    state.record_write(Lease(holder="a", version="2"), 0.0, 0.0)
    assert state.next_poll(0.0, HERE * 10**9, MANY, 0.5) == RENEW_SECONDS


class Cluster:
    """Agents that poll and write as their LeaseState decides, each with its own clock, in simulated time.

    polls: times at which an agent that didn't hold the Lease read it
    wrote: time of the last write
    """

    def __init__(self, nodes: int, agents: int, seed: int, hours_apart: float = 0.0) -> None:
        self.server = Server()
        self.now = self.wrote = 0.0
        self.polls: list[float] = []
        self._nodes = nodes
        self._random = jitter = Random(seed)  # noqa: S311 - a test's jitter
        self._lease_states = [LeaseState(f"n{number}") for number in range(agents)]
        self._zeros = [round(jitter.uniform(0.0, 1e6)) for _ in range(agents)]
        self._skews = [jitter.uniform(-3600.0, 3600.0) * hours_apart for _ in range(agents)]
        self._turns = [(first_poll_delay(nodes, jitter.random()), number) for number in range(agents)]
        self._holders: set[int] = set()
        heapq.heapify(self._turns)

    @property
    def leader(self) -> int | None:
        led = [one for one in self._holders if self._lease_states[one].is_leader(self.now + self._zeros[one])]
        assert len(led) <= 1
        return led[0] if led else None

    def step(self, dead: int | None = None) -> None:
        """Run the next agent's turn; a dead agent's is dropped."""
        self.now, number = heapq.heappop(self._turns)
        if number == dead:
            return
        state, now = self._lease_states[number], self.now + self._zeros[number]
        wall = int((HERE + self.now + self._skews[number]) * 1e9)
        if not state.holds_lease:
            self.polls.append(self.now)
            state.observe(self.server.lease, now)
        bid = state.next_record(now, to_microseconds(wall))
        if bid is not None:
            lease = self.server.write(bid)
            assert lease is not None, "no other write came between"
            state.record_write(lease, now, now)
            self._holders.add(number)
            self.wrote = self.now
        pause = state.next_poll(now, wall, self._nodes, self._random.random())
        heapq.heappush(self._turns, (self.now + pause, number))

    def elected(self, dead: int | None = None) -> float:
        """Run until an agent that isn't dead is leader; return the time."""
        while self.leader in {None, dead}:
            self.step(dead)
        return self.now

    def passes(self, seconds: float) -> None:
        until = self.now + seconds
        while self._turns[0][0] <= until:
            self.step()

    def busiest(self, seconds: float) -> int:
        """Return the highest number of polls within a time window."""
        return max(bisect_left(self.polls, at + seconds) - number for number, at in enumerate(self.polls))


@settings(max_examples=60)
@given(
    st.sampled_from([1, 60, 400, MANY]),
    st.integers(2, 4),
    st.sampled_from([0.0, 0.02, 5.0]),
    st.floats(0.0, 10_000.0),
    st.integers(0, 10**9),
)
def test_a_leader_that_stops_is_replaced_within_the_bound_with_any_clock_skew(
    nodes: int, agents: int, hours_apart: float, lived: float, seed: int
) -> None:
    cluster = Cluster(nodes, agents, seed, hours_apart)
    cluster.elected()
    cluster.passes(lived)
    dead, stopped = cluster.leader, cluster.wrote
    bound = 2 * poll_interval(nodes, 1.0) + LEASE_SECONDS + POLL_MARGIN_SECONDS
    assert LEASE_SECONDS <= cluster.elected(dead) - stopped <= bound


def test_a_hundred_agents_in_15000_nodes_elect_within_half_a_minute_and_replace_within_minutes() -> None:
    first, next_ones = [], []
    for seed in range(40):
        cluster = Cluster(MANY, 100, seed)
        first.append(cluster.elected())
        cluster.passes(9000.0)
        before = cluster.wrote
        assert len(cluster.polls) < 400, "an agent polls once in 50 minutes"
        next_ones.append(cluster.elected(cluster.leader) - before)
    assert fmean(first) < 40.0
    assert fmean(next_ones) < LEASE_SECONDS + 40.0 + SOON
    assert max(next_ones) < 600.0


@pytest.mark.parametrize(("hours_apart", "polls"), [(0.0, 1), (5.0, 2)], ids=["clocks agree", "clocks are hours apart"])
def test_15000_agents_that_start_together_poll_five_times_a_second(hours_apart: float, polls: int) -> None:
    cluster = Cluster(MANY, MANY, 1, hours_apart)
    assert cluster.elected() < 5.0
    cluster.passes(4000.0)
    assert len(cluster.polls) / cluster.now < POLLS_PER_SECOND * polls * 1.05
    assert cluster.busiest(10.0) < 2 * 10.0 * POLLS_PER_SECOND * polls
    stopped = cluster.wrote
    assert cluster.elected(cluster.leader) - stopped < LEASE_SECONDS + SOON
    cluster.passes(600.0)
    assert cluster.busiest(10.0) < 2 * 10.0 * POLLS_PER_SECOND * 2
