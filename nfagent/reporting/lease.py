"""Leader election: decisions over one coordination.k8s.io/v1 Lease. Without clock, network and random source.

The leader writes the Lease again and again, as in client-go's leaderelection. Another agent acquires it after it has
observed no write for leaseDurationSeconds, measured by its own monotonic clock, which need not agree with the
leader's. Of several writers the API server accepts one, by resourceVersion. The leader itself stops at its renew
deadline, before another agent may acquire the Lease.

Thousands of agents must not poll one Lease, and it is unknown which Nodes run one. So an agent polls the more rarely,
the more Nodes there are: all together about five times a second. Two polls that are far apart prove little, so a Lease
that may be expired is read again at the moment when it would be. That it may be expired is a guess, by the wall clock
too: a wrong guess costs one more request, or a longer wait, and never makes two leaders.

A leader that stops is replaced within two poll intervals, LEASE_SECONDS and POLL_MARGIN_SECONDS, even where only one
other agent reaches the API server and with any clock skew: this agent observes the last write with one poll, finds
it unchanged with the next, and waits for its end. It is sooner where clocks agree and more agents poll.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nfagent.errors import ClusterError
from nfagent.reporting.timestamps import to_nanoseconds

NAMESPACE = "nfagent"
NAME = "nfagent"
COLLECTION = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
LEASE_SECONDS = 60
RENEW_SECONDS = 15.0
"""Between two writes of the leader, and between two polls in a small cluster."""

RENEW_DEADLINE_SECONDS = 40.0
"""The leader acts for this long after it sent a write: others wait 20 s longer, in which its last request ends."""

POLLS_PER_SECOND = 5.0
"""Of all agents together, on average. Agents that find a Lease that may be expired poll once more."""

IMMEDIATE_POLL_NODES = 50
"""In a cluster of at most so many Nodes every agent polls as soon as it starts."""

POLL_MARGIN_SECONDS = 5.0
"""Longest random delay of the poll after the end of a Lease."""

_MAX_LEASE_SECONDS = 600
"""Longest leaseDurationSeconds that is respected, where another program wrote the Lease."""

_SECOND_NS = 1_000_000_000


def poll_interval(nodes: int, jitter: float) -> float:
    """Return the seconds between two polls of an agent; jitter: random, 0 to 1."""
    return _mean_interval(nodes) * _jitter_factor(jitter)


def first_poll_delay(nodes: int, jitter: float) -> float:
    """Return the seconds from an agent's start to its first poll: a rollout restarts all agents at once."""
    return 0.0 if nodes <= IMMEDIATE_POLL_NODES else _mean_interval(nodes) * jitter


def _mean_interval(nodes: int) -> float:
    return max(RENEW_SECONDS, nodes / POLLS_PER_SECOND)


def _jitter_factor(jitter: float) -> float:
    return 0.8 + 0.4 * jitter


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """coordination.k8s.io/v1 Lease.

    holder:  spec.holderIdentity, the name of a Node; '' for none
    seconds: spec.leaseDurationSeconds
    renewed, acquired: spec.renewTime and acquireTime, RFC 3339 with microseconds, by the holder's clock
    transitions: spec.leaseTransitions
    version: metadata.resourceVersion
    """

    holder: str = ""
    seconds: int = LEASE_SECONDS
    renewed: str = ""
    acquired: str = ""
    transitions: int = 0
    version: str = ""


class _Metadata(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815 - the API's spelling


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    renew_time: str | None = None
    acquire_time: str | None = None
    lease_transitions: int | None = None


class _Document(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec | None = None


_decoder = msgspec.json.Decoder(_Document)


def decode_lease(body: bytes) -> Lease:
    """Decode a Lease from the API server's JSON. Raises ClusterError."""
    try:
        document = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClusterError(f"the API server's Lease {NAMESPACE}/{NAME} can't be read: {error}") from None
    spec = document.spec or _Spec()
    return Lease(
        holder=spec.holder_identity or "",
        seconds=spec.lease_duration_seconds or LEASE_SECONDS,
        renewed=spec.renew_time or "",
        acquired=spec.acquire_time or "",
        transitions=spec.lease_transitions or 0,
        version=document.metadata.resourceVersion,
    )


def lease_body(lease: Lease) -> dict[str, Any]:
    """Encode a Lease for POST (without version) or PUT."""
    spec = {
        "holderIdentity": lease.holder,
        "leaseDurationSeconds": lease.seconds,
        "renewTime": lease.renewed,
        "acquireTime": lease.acquired,
        "leaseTransitions": lease.transitions,
    }
    metadata = {"name": NAME, "namespace": NAMESPACE, "resourceVersion": lease.version}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {key: value for key, value in metadata.items() if value},
        "spec": {key: value for key, value in spec.items() if value != ""},
    }


class LeaseState:
    """The Lease as one agent observed it."""

    def __init__(self, identity: str) -> None:
        """Start without observation, as the agent of the Node `identity`."""
        self._identity = identity
        self._lease: Lease | None = None
        self._since = 0.0
        self._polled_at = 0.0
        self._changed: bool | None = None  # between the last two polls; None: unknown
        self._leader_until: float | None = None

    @property
    def holder(self) -> str:
        """Holder of the Lease at this agent's last poll; '' for none, or before the first poll."""
        return self._lease.holder if self._lease is not None else ""

    @property
    def holds_lease(self) -> bool:
        """Whether the last write of the Lease that this agent knows of is its own."""
        return self._leader_until is not None

    def is_leader(self, now: float) -> bool:
        """Return whether this agent is leader at a monotonic time."""
        return self._leader_until is not None and now < self._leader_until

    def observe(self, lease: Lease | None, now: float) -> None:
        """Record a read of the Lease; None where it doesn't exist. Ends the leadership where another agent holds it."""
        before, self._changed = self._lease, None
        if lease is None or before is None or lease.version != before.version:
            if before is not None and now - self._polled_at <= _observed_duration(before) + 2 * RENEW_SECONDS:
                self._changed = True
            self._since = now
        else:
            self._changed = False
        self._lease, self._polled_at = lease, now
        if lease is None or lease.holder != self._identity:
            self._leader_until = None

    def next_record(self, now: float, timestamp: str) -> Lease | None:
        """Return the Lease to write in order to acquire or renew it; None while another agent's is not expired.

        Without a version it is to be created. timestamp: wall time, RFC 3339 with microseconds
        """
        lease = self._lease
        if lease is None:
            return Lease(holder=self._identity, renewed=timestamp, acquired=timestamp)
        if lease.holder == self._identity:
            return msgspec.structs.replace(lease, renewed=timestamp, seconds=LEASE_SECONDS)
        if lease.holder and now < self._since + _observed_duration(lease):
            return None
        return Lease(
            holder=self._identity,
            renewed=timestamp,
            acquired=timestamp,
            transitions=lease.transitions + 1,
            version=lease.version,
        )

    def next_poll(self, now: float, wall_ns: int, nodes: int, jitter: float) -> float:
        """Return the seconds until this agent's next try.

        wall_ns: wall time, nanoseconds since 1970; nodes: Nodes in the cluster; jitter: random, 0 to 1
        """
        if self.holds_lease:
            return RENEW_SECONDS * _jitter_factor(jitter)
        long = poll_interval(nodes, jitter)
        lease = self._lease
        if lease is None:
            return long
        left = self._since + _observed_duration(lease) - now
        if left <= 0.0 or not self._may_be_expired(lease, wall_ns):
            return long  # where it is expired, the read or the write failed: no reason to hurry
        return min(long, left + POLL_MARGIN_SECONDS * (0.2 + 0.8 * jitter))

    def _may_be_expired(self, lease: Lease, wall_ns: int) -> bool:
        """Guess whether the leader stopped. One whose clock is ahead of ours may have stopped, with any renewTime."""
        if self._changed is not None:
            return not self._changed
        renewed = to_nanoseconds(lease.renewed)
        return renewed is None or abs(wall_ns - renewed) > _observed_duration(lease) * _SECOND_NS

    def record_write(self, lease: Lease, sent_at: float, now: float) -> None:
        """Record that the API server accepted a write, which was sent at the monotonic time `sent_at`."""
        self.observe(lease, now)
        if lease.holder == self._identity:
            self._leader_until = sent_at + RENEW_DEADLINE_SECONDS

    def release(self, timestamp: str) -> Lease | None:
        """End the leadership; return the Lease to write, so that others needn't wait; None where it isn't ours."""
        held_lease = self._leader_until is not None
        self._leader_until = None
        if not held_lease or self._lease is None:
            return None
        return msgspec.structs.replace(self._lease, holder="", seconds=1, renewed=timestamp)


def _observed_duration(lease: Lease) -> int:
    """Return the seconds for which another agent's Lease is respected after it was observed."""
    return min(max(lease.seconds, LEASE_SECONDS), _MAX_LEASE_SECONDS)
