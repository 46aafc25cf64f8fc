"""Who speaks for the cluster, whatever agents, clocks and the network do."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.errors import ClusterError
from nfagent.notices.election import (
    CANDIDATES,
    EPOCH_SECONDS,
    LEASE_SECONDS,
    RENEW_SECONDS,
    SPEAK_SECONDS,
    Election,
    Lease,
    decode_lease,
    epoch,
    is_candidate,
    lease_body,
)

NODES = [f"n{number}" for number in range(60)]
AGENTS = ("a", "b", "c")
OTHERS = Lease(holder="b", renewed="t0", acquired="t0", version="1")


@given(st.integers(0, 10**9), st.lists(st.sampled_from(NODES), unique=True))
def test_five_nodes_are_candidates_or_all_where_there_are_fewer(now: int, nodes: list[str]) -> None:
    chosen = [name for name in NODES if is_candidate(name, nodes, now)]
    assert len(chosen) == min(CANDIDATES, len(nodes))
    assert set(chosen) <= set(nodes)
    assert chosen == [name for name in NODES if is_candidate(name, reversed(nodes), now)], "all agents agree"


def test_every_epoch_has_other_candidates() -> None:
    chosen = {name for now in range(100) for name in NODES if is_candidate(name, NODES, now)}
    assert chosen == set(NODES)
    assert epoch(EPOCH_SECONDS * 10**9 - 1) == 0
    assert epoch(EPOCH_SECONDS * 10**9) == 1


def test_who_takes_over_waits_until_the_last_ones_speech_and_request_are_over() -> None:
    assert RENEW_SECONDS * 2 < SPEAK_SECONDS < LEASE_SECONDS - 15


def bidder(*seen: tuple[Lease | None, float]) -> Election:
    election = Election("a")
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
def test_a_lease_is_bid_for_where_nobody_elses_is_good(election: Election, now: float, *, bids: bool) -> None:
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
        self.election = Election(name)
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


@given(st.sampled_from(AGENTS), st.integers(0, 15), st.integers(0, 15))
def test_a_holder_that_stops_is_replaced_within_the_lease_and_a_poll(dead: str, first: int, phase: int) -> None:
    server = Server()
    agents = {name: Agent(name, 0.0) for name in AGENTS}
    for what in ("look", "bid", "serve", "hear"):
        agents[dead].step(what, server, first)
    survivors = [name for name in AGENTS if name != dead]
    time = first + phase - RENEW_SECONDS
    while not any(agents[name].election.leads(time) for name in survivors):
        time += RENEW_SECONDS
        assert time < 10 * LEASE_SECONDS
        for name in survivors:
            for what in ("look", "bid", "serve", "hear"):
                agents[name].step(what, server, time)
    assert time <= first + LEASE_SECONDS + 2 * RENEW_SECONDS, "a look at first, and one when it is over"
    assert time >= first + LEASE_SECONDS
