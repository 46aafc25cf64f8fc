"""Who speaks for the cluster: decisions over one coordination.k8s.io/v1 Lease. Without clock, network and lots.

The holder writes the Lease again and again. Others take it over when they have seen no such write for as long as it
says that it is good for: by their own clocks, which need not agree with the holder's. The API server lets only one of
several writers through, by resourceVersion. The holder itself stops speaking earlier than anybody may take over.

Thousands of agents must not all watch one Lease. At any time five Nodes are candidates, by a hash of their names that
is another one every ten minutes, so that dead nodes block nothing for long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from nfagent.errors import ClusterError

NAMESPACE = "nfagent"
NAME = "nfagent"
COLLECTION = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
LEASE_SECONDS = 60
RENEW_SECONDS = 15.0
"""Between two writes of the holder, and two looks of a candidate."""

SPEAK_SECONDS = 40.0
"""The holder speaks for so long after it asked for a write: others wait 20 s longer, so that its last request ends."""

CANDIDATES = 5
EPOCH_SECONDS = 600
_LONGEST_LEASE = 600
"""Of what a foreign hand wrote into the Lease nobody waits longer."""


def epoch(now_ns: int) -> int:
    """Give the number of the ten minutes that are now, from nanoseconds since 1970."""
    return now_ns // (EPOCH_SECONDS * 1_000_000_000)


def is_candidate(me: str, nodes: Iterable[str], now: int) -> bool:
    """Tell whether a Node is among the first five of these, in the order of an epoch. One that isn't there never is."""
    mine, ahead, here = _place(me, now), 0, False
    for name in nodes:
        if name == me:
            here = True
        elif _place(name, now) < mine:
            ahead += 1
            if ahead == CANDIDATES:  # for most Nodes after a few names
                return False
    return here


def _place(name: str, now: int) -> tuple[bytes, str]:
    return hashlib.blake2b(f"{now}/{name}".encode("utf-8", "replace"), digest_size=8).digest(), name


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """coordination.k8s.io/v1 Lease.

    holder:  spec.holderIdentity, the name of a Node; '' where nobody holds it
    seconds: spec.leaseDurationSeconds
    renewed, acquired: spec.renewTime and acquireTime, RFC 3339 with microseconds; not compared with any clock
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


class Election:
    """What one agent knows of the Lease."""

    def __init__(self, me: str) -> None:
        """Start without any knowledge, as the agent of the Node `me`."""
        self.me = me
        self._lease: Lease | None = None
        self._since = 0.0
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
        if lease is None or self._lease is None or lease.version != self._lease.version:
            self._since = now
        self._lease = lease
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
        good = min(max(lease.seconds, LEASE_SECONDS), _LONGEST_LEASE)
        if lease.holder and now < self._since + good:
            return None
        return Lease(
            holder=self.me, renewed=stamp, acquired=stamp, transitions=lease.transitions + 1, version=lease.version
        )

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
