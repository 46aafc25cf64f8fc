"""Takes part in the leader election: sends the requests for the Lease that `lease` decides on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from nfagent.clock import WallClock
from nfagent.errors import ClusterError
from nfagent.reporting.lease import (
    COLLECTION,
    NAME,
    NAMESPACE,
    Lease,
    LeaseState,
    decode_lease,
    first_poll_delay,
    lease_body,
)
from nfagent.reporting.request_retrier import ApiReply, RequestRetrier, status_message
from nfagent.reporting.timestamps import to_microseconds

_LEASE = f"{COLLECTION}/{NAME}"
_WRITTEN = {200, 201}
FORBIDDEN_HINT = (
    f"leader election is off: this agent is not permitted to use the Lease {NAMESPACE}/{NAME}; other agents write the "
    "Events and conditions of cluster objects. Enforcement is not affected. With kubelet's credentials this is "
    "expected; with the agent's own, apply deploy/rbac.yaml"
)
"""For the log. The admission plugin NodeRestriction restricts nodes to the Leases of kube-node-lease."""

RELEASE_TIMEOUT_SECONDS = 2.0
"""An API server that doesn't respond delays the agent's stop no longer; the Lease expires by itself then."""

_MAX_TRIES = 3
"""Of one turn, where another client writes in between."""


class LeaderElector:
    """One candidate of the leader election."""

    def __init__(
        self,
        retrier: RequestRetrier,
        clock: WallClock,
        node: str,
        nodes: Callable[[], int],
        *,
        jitter: Callable[[], float],
        changed: Callable[[], object],
    ) -> None:
        """Start as the candidate `node`.

        nodes:   number of Nodes in the cluster, as it is known now
        changed: called when this agent becomes leader, and when it stops being leader
        """
        self.retrier = retrier
        self._clock = clock
        self._nodes = nodes
        self._jitter = jitter
        self._changed = changed
        self._lease_state = LeaseState(node)
        self._was_leader = False
        self._write_unanswered = False
        self._never = asyncio.Event()

    @property
    def is_leader(self) -> bool:
        """Whether this agent is leader now."""
        return self._lease_state.is_leader(self._clock.monotonic())

    @property
    def holder(self) -> str:
        """Holder of the Lease at this agent's last poll."""
        return self._lease_state.holder

    async def run(self) -> None:
        """Acquire and renew the Lease until cancelled; then release it."""
        try:
            pause = first_poll_delay(self._nodes(), self._jitter())
            while True:
                if pause > 0.0:
                    await self._clock.wait(self._never, pause)
                await self._try_acquire_or_renew()
                if self.is_leader != self._was_leader:
                    self._was_leader = not self._was_leader
                    self._changed()
                pause = self._next_try()
        finally:
            await self._release()

    def _next_try(self) -> float:
        """Return the seconds until the next turn. Only a write without response is followed up at once."""
        wait, clock = self.retrier.delay(), self._clock
        pause = self._lease_state.next_poll(clock.monotonic(), clock.now_ns(), self._nodes(), self._jitter())
        return wait if wait > 0.0 and self._write_unanswered else max(wait, pause)

    async def _try_acquire_or_renew(self) -> None:
        """Renew the Lease, or read it, and acquire it where it has no valid holder."""
        observed, self._write_unanswered = self._lease_state.holds_lease, False
        for _ in range(_MAX_TRIES):
            if not observed and not await self._get_lease():
                return
            record = self._lease_state.next_record(self._clock.monotonic(), to_microseconds(self._clock.now_ns()))
            if record is None or await self._write(record):
                return
            if self.retrier.delay() > 0.0:
                return
            observed = False

    async def _get_lease(self) -> bool:
        """Read the Lease; return whether that succeeded."""
        response = await self.retrier.request("GET", _LEASE)
        if response is None:
            return False
        if response.status == 404:
            self._lease_state.observe(None, self._clock.monotonic())
            return True
        lease = self._read(response)
        if lease is not None:
            self._lease_state.observe(lease, self._clock.monotonic())
        return lease is not None

    async def _write(self, record: Lease) -> bool:
        """Write the Lease; return whether the API server accepted it."""
        sent_at = self._clock.monotonic()
        method, path = ("PUT", _LEASE) if record.version else ("POST", COLLECTION)
        response = await self.retrier.request(method, path, body=lease_body(record))
        if response is None:
            # The write may have succeeded: the next read finds this agent as the holder then.
            self._write_unanswered = not self.retrier.forbidden
            return False
        if response.status in _WRITTEN:
            lease = self._read(response)
            if lease is not None:
                self._lease_state.record_write(lease, sent_at, self._clock.monotonic())
            return lease is not None
        if response.status not in {404, 409} or (response.status == 404 and not record.version):
            # No such Namespace, or a Lease that the API server rejects: a second try doesn't change that.
            self.retrier.record_rejection(f"{status_message(response)}; Namespace {NAMESPACE} is in deploy/")
            self.retrier.delay_after_forbidden()
        return False

    def _read(self, response: ApiReply) -> Lease | None:
        try:
            return decode_lease(response.body)
        except ClusterError as error:
            self.retrier.record_rejection(str(error))
            self.retrier.delay_after_forbidden()
            return None

    async def _release(self) -> None:
        lease = self._lease_state.release(to_microseconds(self._clock.now_ns()))
        if lease is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_TIMEOUT_SECONDS):
                await self.retrier.request("PUT", _LEASE, body=lease_body(lease))
