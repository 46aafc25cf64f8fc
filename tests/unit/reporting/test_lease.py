"""Who speaks for the cluster, whatever agents, clocks and the network do."""

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
    A_BIT_SECONDS,
    LEASE_SECONDS,
    LOOKS_A_SECOND,
    RENEW_SECONDS,
    SPEAK_SECONDS,
    Lease,
    LeaseState,
    decode_lease,
    first_pause,
    lease_body,
    look_pause,
)
from nfagent.reporting.timestamps import to_microseconds

AGENTS = ("a", "b", "c")
OTHERS = Lease(holder="b", renewed="t0", acquired="t0", version="1")


def test_who_takes_over_waits_until_the_last_ones_speech_and_request_are_over() -> None:
    assert RENEW_SECONDS * 2 < SPEAK_SECONDS < LEASE_SECONDS - 15


def bidder(*seen: tuple[Lease | None, float]) -> LeaseState:
    election = LeaseState("a")
    for lease, at in seen:
        election.saw(lease, at)
    return election


RELEASED = Lease(holder="", seconds=1, transitions=4, version="1")
BIDS = {
    "no Lease: it is created": (bidder((None, 0.0)), 0.0, True),
    "a Lease that was given back": (bidder((RELEASED, 0.0)), 0.0, True),
    "another's, seen just now": (bidder((OTHERS, 100.0)), 100.0, False),
    "another's, until it is over": (bidder((OTHERS, 100.0)), 159.0, False),
    "another's, over": (bidder((OTHERS, 100.0)), 160.0, True),
    "another's, written since": (
        bidder((OTHERS, 0.0), (msgspec.structs.replace(OTHERS, version="2"), 59.0)),
        118.0,
        False,
    ),
    "another's, unchanged since": (bidder((OTHERS, 0.0), (OTHERS, 59.0)), 60.0, True),
    "another's for a shorter time than ours": (bidder((msgspec.structs.replace(OTHERS, seconds=1), 0.0)), 30.0, False),
    "another's for ever": (bidder((msgspec.structs.replace(OTHERS, seconds=10**9), 0.0)), 600.0, True),
    "one of this very Node, from before a restart": (
        bidder((msgspec.structs.replace(OTHERS, holder="a"), 0.0)),
        *(0.0, True),
    ),
}


@pytest.mark.parametrize(("election", "now", "bids"), BIDS.values(), ids=BIDS)
def test_a_lease_is_bid_for_where_nobody_elses_is_good(election: LeaseState, now: float, *, bids: bool) -> None:
    bid = election.bid(now, "t")
    assert (bid is not None) == bids
    assert bid is None or (bid.holder, bid.renewed, bid.seconds) == ("a", "t", LEASE_SECONDS)
    assert not election.leads(now), "a bid is no Lease yet"


def test_a_take_over_counts_and_a_renewal_does_not() -> None:
    election = bidder((RELEASED, 0.0))
    taken = election.bid(0.0, "t1")
    assert taken == Lease(holder="a", renewed="t1", acquired="t1", transitions=5, version="1")
    election.won(msgspec.structs.replace(taken, version="2"), 0.0, 0.1)
    renewed = election.bid(15.0, "t2")
    assert renewed == Lease(holder="a", renewed="t2", acquired="t1", transitions=5, version="2")


def test_the_holder_speaks_from_its_request_on_and_no_longer_than_it_may() -> None:
    election = bidder((None, 0.0))
    election.won(Lease(holder="a", version="2"), 10.0, 30.0)
    assert election.leads(30.0)
    assert election.leads(49.9)
    assert not election.leads(50.0)
    assert election.holding, "it goes on to try"


def test_who_sees_another_holder_or_no_lease_speaks_no_more() -> None:
    for seen in (OTHERS, None):
        election = bidder((None, 0.0))
        election.won(Lease(holder="a", version="2"), 0.0, 0.0)
        election.saw(seen, 1.0)
        assert not election.leads(1.0)
        assert not election.holding


def test_who_resigns_gives_the_lease_back_once() -> None:
    election = bidder((None, 0.0))
    assert election.resign("t") is None
    election.won(Lease(holder="a", version="2"), 0.0, 0.0)
    assert election.resign("t") == Lease(holder="", seconds=1, renewed="t", version="2")
    assert not election.leads(0.0)
    assert election.resign("t") is None


def test_a_lease_is_read_as_it_was_written() -> None:
    lease = Lease(holder="a", renewed="t1", acquired="t2", transitions=3, version="77")
    assert decode_lease(msgspec.json.encode(lease_body(lease))) == lease
    assert "resourceVersion" not in lease_body(Lease(holder="a"))["metadata"]
    assert "holderIdentity" not in lease_body(Lease())["spec"], "the API takes no empty name"


@pytest.mark.parametrize(
    "spec", [{}, {"spec": None}, {"spec": {"holderIdentity": None, "leaseDurationSeconds": None}}], ids=str
)
def test_a_lease_that_says_nothing_is_nobodys(spec: dict[str, Any]) -> None:
    body = msgspec.json.encode({"metadata": {"resourceVersion": "5"}, **spec})
    assert decode_lease(body) == Lease(version="5")


@given(st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"metadata":{},"spec":{"leaseDurationSeconds":"x"}}']))
def test_whatever_the_bytes_they_are_a_lease_or_a_cluster_error(body: bytes) -> None:
    with suppress(ClusterError):
        assert isinstance(decode_lease(body), Lease)


class Server:
    """Holds the Lease, and lets one of several writers through."""

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
    """An agent whose requests take their time: they are served, and heard of, in steps of their own."""

    def __init__(self, name: str, started: float) -> None:
        self.election = LeaseState(name)
        self.started = started
        self.bid: tuple[Lease, float] | None = None
        self.answer: tuple[Lease, float] | None = None

    def step(self, what: str, server: Server, time: float) -> None:
        now = time + self.started
        match what:
            case "look":
                self.election.saw(server.lease, now)
            case "bid":
                lease = self.election.bid(now, f"t{time}")
                self.bid = (lease, now) if lease is not None else None
            case "serve" if self.bid is not None:
                served = server.write(self.bid[0])
                self.answer = (served, self.bid[1]) if served is not None else None
                self.bid = None
            case "hear" if self.answer is not None:
                self.election.won(*self.answer, now)
                self.answer = None
            case "lose":
                self.answer = None
            case "resign":
                given = self.election.resign(f"t{time}")
                if given is not None:
                    server.write(given)


STEPS = st.tuples(
    st.sampled_from(AGENTS),
    st.sampled_from(["look", "bid", "serve", "hear", "look", "bid", "serve", "hear", "lose", "resign"]),
    st.sampled_from([0.0, 0.0, 0.0, 1.0, 14.0, 39.0, 61.0]),
)
"""An agent, what it does, and the time that passes after it."""


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=60), st.tuples(*[st.floats(-1e6, 1e6)] * 3))
def test_never_do_two_agents_speak_at_once(history: list[tuple[str, str, float]], zeros: tuple[float, ...]) -> None:
    server = Server()
    agents = {name: Agent(name, round(zero)) for name, zero in zip(AGENTS, zeros, strict=True)}
    time = 0.0
    for name, what, pause in history:
        agent = agents[name]
        # A request that was sent is given up after 15 seconds, as the edge does, heard or not.
        for other in agents.values():
            if other.bid is not None and time + other.started - other.bid[1] > 15.0:
                other.bid = None
            if other.answer is not None and time + other.started - other.answer[1] > 15.0:
                other.answer = None
        agent.step(what, server, time)
        speaking = [one for one in AGENTS if agents[one].election.leads(time + agents[one].started)]
        assert len(speaking) <= 1
        time += pause


@pytest.mark.parametrize(
    ("nodes", "least", "most", "first"),
    [
        pytest.param(1, 12.0, 18.0, 0.0, id="one Node"),
        pytest.param(50, 12.0, 18.0, 0.0, id="a small cluster has its speaker at once"),
        pytest.param(51, 12.0, 18.0, 15.0, id="a larger one within seconds"),
        pytest.param(1000, 160.0, 240.0, 200.0, id="1,000 Nodes"),
        pytest.param(15000, 2400.0, 3600.0, 3000.0, id="15,000 Nodes"),
    ],
)
def test_the_more_nodes_the_more_rarely_an_agent_looks(nodes: int, least: float, most: float, first: float) -> None:
    assert (look_pause(nodes, 0.0), look_pause(nodes, 1.0)) == pytest.approx((least, most))
    assert (first_pause(nodes, 0.0), first_pause(nodes, 1.0)) == pytest.approx((0.0, first))


MANY = 15_000
HERE = 1_795_000_000  # wall time, seconds since 1970
LONG = look_pause(MANY, 1.0)
SOON = LEASE_SECONDS + A_BIT_SECONDS


def written(ago: float, version: str = "1") -> Lease:
    return Lease(holder="b", renewed=to_microseconds(int((HERE - ago) * 1e9)), version=version)


PAUSES = {
    "good, by the wall clock": ([(written(59.0), 0.0)], LONG),
    "over, by the wall clock": ([(written(61.0), 0.0)], SOON),
    "from a future of which our clock knows nothing": ([(written(-3600.0), 0.0)], SOON),
    "without a time": ([(msgspec.structs.replace(written(0.0), renewed=""), 0.0)], SOON),
    "not written since the last look": ([(written(0.0), 0.0), (written(0.0), 20.0)], SOON - 20.0),
    "over, and then written: its clock is wrong": ([(written(9e9), 0.0), (written(9e9, "2"), 64.0)], LONG),
    "written within the last hour, and over by now": ([(written(0.0), 0.0), (written(99.0, "2"), 3000.0)], SOON),
    "held for hours, as it says": ([(msgspec.structs.replace(written(9e9), seconds=9999), 0.0)], 605.0),
    "none": ([(None, 0.0)], LONG),
}


@pytest.mark.parametrize(("seen", "seconds"), PAUSES.values(), ids=PAUSES)
def test_a_lease_that_may_be_over_is_looked_at_again_when_it_would_be(
    seen: list[tuple[Lease | None, float]], seconds: float
) -> None:
    assert bidder(*seen).pause(seen[-1][1], HERE * 10**9, MANY, 1.0) == pytest.approx(seconds)


def test_who_could_not_look_when_it_was_over_is_in_no_hurry() -> None:
    assert bidder((written(61.0), 0.0)).pause(63.0, (HERE + 63) * 10**9, MANY, 1.0) == LONG


def test_in_a_small_cluster_nobody_waits_longer_for_the_end_than_for_the_next_look() -> None:
    assert bidder((written(61.0), 0.0)).pause(0.0, HERE * 10**9, 3, 1.0) == look_pause(3, 1.0)


def test_the_holder_renews_however_many_nodes_there_are() -> None:
    election = bidder((None, 0.0))
    election.won(Lease(holder="a", version="2"), 0.0, 0.0)
    assert election.pause(0.0, HERE * 10**9, MANY, 0.5) == RENEW_SECONDS


class Cluster:
    """Agents that look and bid as their elections say, with clocks of their own, in time that only counts.

    looks: when somebody who didn't hold the Lease looked at it
    wrote: when it was written last
    """

    def __init__(self, nodes: int, agents: int, seed: int, hours_apart: float = 0.0) -> None:
        self.server = Server()
        self.now = self.wrote = 0.0
        self.looks: list[float] = []
        self._nodes = nodes
        self._random = lots = Random(seed)  # noqa: S311 - a test's lots
        self._elections = [LeaseState(f"n{number}") for number in range(agents)]
        self._zeros = [round(lots.uniform(0.0, 1e6)) for _ in range(agents)]
        self._skews = [lots.uniform(-3600.0, 3600.0) * hours_apart for _ in range(agents)]
        self._turns = [(first_pause(nodes, lots.random()), number) for number in range(agents)]
        self._holders: set[int] = set()
        heapq.heapify(self._turns)

    @property
    def leader(self) -> int | None:
        led = [one for one in self._holders if self._elections[one].leads(self.now + self._zeros[one])]
        assert len(led) <= 1
        return led[0] if led else None

    def step(self, dead: int | None = None) -> None:
        """Have the next agent's turn; one that is dead has none any more."""
        self.now, number = heapq.heappop(self._turns)
        if number == dead:
            return
        election, now = self._elections[number], self.now + self._zeros[number]
        wall = int((HERE + self.now + self._skews[number]) * 1e9)
        if not election.holding:
            self.looks.append(self.now)
            election.saw(self.server.lease, now)
        bid = election.bid(now, to_microseconds(wall))
        if bid is not None:
            lease = self.server.write(bid)
            assert lease is not None, "nobody came between"
            election.won(lease, now, now)
            self._holders.add(number)
            self.wrote = self.now
        pause = election.pause(now, wall, self._nodes, self._random.random())
        heapq.heappush(self._turns, (self.now + pause, number))

    def elected(self, dead: int | None = None) -> float:
        """Go on until an agent speaks that isn't dead; give when."""
        while self.leader in {None, dead}:
            self.step(dead)
        return self.now

    def passes(self, seconds: float) -> None:
        until = self.now + seconds
        while self._turns[0][0] <= until:
            self.step()

    def busiest(self, seconds: float) -> int:
        """How many looks there were within so many seconds, at most."""
        return max(bisect_left(self.looks, at + seconds) - number for number, at in enumerate(self.looks))


@settings(max_examples=60)
@given(
    st.sampled_from([1, 60, 400, MANY]),
    st.integers(2, 4),
    st.sampled_from([0.0, 0.02, 5.0]),
    st.floats(0.0, 10_000.0),
    st.integers(0, 10**9),
)
def test_a_holder_that_stops_is_replaced_within_the_bound_however_far_clocks_are_apart(
    nodes: int, agents: int, hours_apart: float, lived: float, seed: int
) -> None:
    cluster = Cluster(nodes, agents, seed, hours_apart)
    cluster.elected()
    cluster.passes(lived)
    dead, stopped = cluster.leader, cluster.wrote
    bound = 2 * look_pause(nodes, 1.0) + LEASE_SECONDS + A_BIT_SECONDS
    assert LEASE_SECONDS <= cluster.elected(dead) - stopped <= bound


def test_a_hundred_agents_in_15000_nodes_elect_within_half_a_minute_and_replace_within_minutes() -> None:
    first, next_ones = [], []
    for seed in range(40):
        cluster = Cluster(MANY, 100, seed)
        first.append(cluster.elected())
        cluster.passes(9000.0)
        before = cluster.wrote
        assert len(cluster.looks) < 400, "an agent looks once in 50 minutes"
        next_ones.append(cluster.elected(cluster.leader) - before)
    assert fmean(first) < 40.0
    assert fmean(next_ones) < LEASE_SECONDS + 40.0 + SOON
    assert max(next_ones) < 600.0


@pytest.mark.parametrize(("hours_apart", "looks"), [(0.0, 1), (5.0, 2)], ids=["clocks agree", "clocks are hours apart"])
def test_15000_agents_that_start_together_look_five_times_a_second(hours_apart: float, looks: int) -> None:
    cluster = Cluster(MANY, MANY, 1, hours_apart)
    assert cluster.elected() < 5.0
    cluster.passes(4000.0)
    assert len(cluster.looks) / cluster.now < LOOKS_A_SECOND * looks * 1.05
    assert cluster.busiest(10.0) < 2 * 10.0 * LOOKS_A_SECOND * looks
    stopped = cluster.wrote
    assert cluster.elected(cluster.leader) - stopped < LEASE_SECONDS + SOON
    cluster.passes(600.0)
    assert cluster.busiest(10.0) < 2 * 10.0 * LOOKS_A_SECOND * 2
