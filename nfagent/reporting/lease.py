"""Who speaks for the cluster: decisions over one coordination.k8s.io/v1 Lease. Without clock, network and lots.

The holder writes the Lease again and again. Others take it over when they have seen no such write for as long as it
says that it is good for: by their own monotonic clocks, which need not agree with the holder's. The API server lets
only one of several writers through, by resourceVersion. The holder itself stops speaking earlier than anybody may
take over.

Thousands of agents must not poll one Lease, and nobody knows which Nodes run one. So every agent looks now and then,
the more rarely the more Nodes there are: all together about five times a second. Looks that are far apart prove little,
so a Lease that may be over is looked at again just when it would be. What may be over is a guess, by the wall clock
too: a wrong guess costs one more look, or a longer wait, and never makes two holders.

A holder that stops is replaced within two of an agent's pauses, LEASE_SECONDS and A_BIT_SECONDS, where that agent alone
reaches the API server and whatever the clocks say: it meets the last write with one look, finds it unchanged with the
next, and waits for its end. Where clocks agree and more agents look, it is sooner.
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
"""Between two writes of the holder, and between two looks in a small cluster."""

SPEAK_SECONDS = 40.0
"""The holder speaks for so long after it asked for a write: others wait 20 s longer, so that its last request ends."""

LOOKS_A_SECOND = 5.0
"""Of all agents together, on average. Those that find a Lease that may be over look once more."""

AT_ONCE_NODES = 50
"""So few agents may all look as soon as they start."""

A_BIT_SECONDS = 5.0
"""Who waits for a Lease to be over looks so much later at most."""

_LONGEST_LEASE = 600
"""Of what a foreign hand wrote into the Lease nobody waits longer."""

_SECOND_NS = 1_000_000_000


def look_pause(nodes: int, lot: float) -> float:
    """Give the seconds between two looks of an agent; `lot` is drawn from 0 to 1."""
    return _mean_pause(nodes) * _jitter(lot)


def first_pause(nodes: int, lot: float) -> float:
    """Give the seconds from an agent's start to its first look: a roll-out restarts all agents at once."""
    return 0.0 if nodes <= AT_ONCE_NODES else _mean_pause(nodes) * lot


def _mean_pause(nodes: int) -> float:
    return max(RENEW_SECONDS, nodes / LOOKS_A_SECOND)


def _jitter(lot: float) -> float:
    return 0.8 + 0.4 * lot


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """coordination.k8s.io/v1 Lease.

    holder:  spec.holderIdentity, the name of a Node; '' where nobody holds it
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
    """Read a Lease from the API server's JSON. Raises ClusterError."""
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
    """Write a Lease for POST (without version) or PUT."""
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
    """What one agent knows of the Lease."""

    def __init__(self, me: str) -> None:
        """Start without any knowledge, as the agent of the Node `me`."""
        self.me = me
        self._lease: Lease | None = None
        self._since = 0.0
        self._looked_at = 0.0
        self._written: bool | None = None  # between the last two looks; None: they tell nothing
        self._speaks_until: float | None = None

    @property
    def holder(self) -> str:
        """Who held the Lease when this agent last looked; '' where nobody did, or it never looked."""
        return self._lease.holder if self._lease is not None else ""

    @property
    def holding(self) -> bool:
        """Tell whether this agent's own write was the last that it knows of."""
        return self._speaks_until is not None

    def leads(self, now: float) -> bool:
        """Tell whether this agent speaks for the cluster at a monotonic time."""
        return self._speaks_until is not None and now < self._speaks_until

    def saw(self, lease: Lease | None, now: float) -> None:
        """Take in what the API server has; None: no Lease. Whoever else holds it, this agent doesn't."""
        before, self._written = self._lease, None
        if lease is None or before is None or lease.version != before.version:
            if before is not None and now - self._looked_at <= _good_for(before) + 2 * RENEW_SECONDS:
                self._written = True
            self._since = now
        else:
            self._written = False
        self._lease, self._looked_at = lease, now
        if lease is None or lease.holder != self.me:
            self._speaks_until = None

    def bid(self, now: float, stamp: str) -> Lease | None:
        """Give the Lease to be written, where it is this agent's to write; None while another one's is good.

        Without a version it is to be created. stamp: wall time, RFC 3339 with microseconds
        """
        lease = self._lease
        if lease is None:
            return Lease(holder=self.me, renewed=stamp, acquired=stamp)
        if lease.holder == self.me:
            return msgspec.structs.replace(lease, renewed=stamp, seconds=LEASE_SECONDS)
        if lease.holder and now < self._since + _good_for(lease):
            return None
        return Lease(
            holder=self.me, renewed=stamp, acquired=stamp, transitions=lease.transitions + 1, version=lease.version
        )

    def pause(self, now: float, wall_ns: int, nodes: int, lot: float) -> float:
        """Give the seconds until this agent's next turn.

        wall_ns: wall time, nanoseconds since 1970; nodes: how many the cluster has; lot: drawn from 0 to 1
        """
        if self.holding:
            return RENEW_SECONDS * _jitter(lot)
        long = look_pause(nodes, lot)
        lease = self._lease
        if lease is None:
            return long
        rest = self._since + _good_for(lease) - now
        if rest <= 0.0 or not self._may_be_over(lease, wall_ns):
            return long  # where it is over, the look or the bid failed: that is no reason to hurry
        return min(long, rest + A_BIT_SECONDS * (0.2 + 0.8 * lot))

    def _may_be_over(self, lease: Lease, wall_ns: int) -> bool:
        """Guess whether the holder stopped. One whose clock is ahead of ours may have, whatever it wrote."""
        if self._written is not None:
            return not self._written
        renewed = to_nanoseconds(lease.renewed)
        return renewed is None or abs(wall_ns - renewed) > _good_for(lease) * _SECOND_NS

    def won(self, lease: Lease, asked_at: float, now: float) -> None:
        """Take in the API server's answer to a bid that it took; it was sent at the monotonic time `asked_at`."""
        self.saw(lease, now)
        if lease.holder == self.me:
            self._speaks_until = asked_at + SPEAK_SECONDS

    def resign(self, stamp: str) -> Lease | None:
        """Stop speaking; give the Lease to be written so that nobody has to wait, None where it isn't ours."""
        held = self._speaks_until is not None
        self._speaks_until = None
        if not held or self._lease is None:
            return None
        return msgspec.structs.replace(self._lease, holder="", seconds=1, renewed=stamp)


def _good_for(lease: Lease) -> int:
    """Give the seconds for which another's Lease is left alone once it was seen."""
    return min(max(lease.seconds, LEASE_SECONDS), _LONGEST_LEASE)
