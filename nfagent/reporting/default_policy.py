"""Creates the EgressNATPolicy `default` where it is missing, while this agent is leader."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from nfagent.clock import WallClock
from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.reporting.api_writer import MAX_WAIT, ApiWriter
from nfagent.reporting.notice import api_version, object_path
from nfagent.reporting.request_retrier import RequestRetrier, status_message

log = logging.getLogger(__name__)

FORBIDDEN_HINT = "apply deploy/rbac.yaml, or set masquerade.create_default_policy to false"

_UNSERVED_SECONDS = 60.0
"""Before the next attempt where the kind isn't served."""
_CREATED_SECONDS = 10.0
"""Before the next attempt after a success: the watch has shown the object by then, unless it was deleted at once."""
_UNCHANGED_SECONDS = 300.0
"""Before the next attempt where the object was refused, or exists and the watch hasn't shown it yet."""
_CREATED, _UNSERVED, _EXISTS = 201, 404, 409
_PAUSES = {_CREATED: _CREATED_SECONDS, _UNSERVED: _UNSERVED_SECONDS}


class DefaultPolicyCreator(ApiWriter):
    """Creates one object, as often as it is found missing.

    created: objects created so far
    """

    def __init__(
        self, retrier: RequestRetrier, clock: WallClock, jitter: Callable[[], float], is_leader: Callable[[], bool]
    ) -> None:
        """Start with nothing to create."""
        super().__init__(retrier, clock, jitter, is_leader)
        self.created = 0
        self._missing: EgressNATPolicy | None = None
        self._not_before = 0.0
        self._shown = False

    def replace(self, missing: EgressNATPolicy | None) -> None:
        """Set the object that is missing; None where it exists, or is not to be created."""
        if missing is None:
            self._not_before, self._shown = 0.0, True
        if missing != self._missing:
            self._missing = missing
            self.wake()

    @property
    def _has_work(self) -> bool:
        return self._missing is not None and self._is_leader()

    async def _write_next(self) -> float:
        if self._missing is None or not self._is_leader():
            return MAX_WAIT
        pause = self._not_before - self._clock.monotonic()
        if pause <= 0.0:
            await self._create(self._missing)
        return pause

    async def _create(self, missing: EgressNATPolicy) -> None:
        path = object_path(missing.ref).rpartition("/")[0]
        self._shown = False
        response = await self.retrier.request("POST", path, body=document(missing), expected=(_UNSERVED, _EXISTS))
        if response is None:
            return
        if response.status == _CREATED:
            self.created += 1
            log.info("Created %s: it was missing", missing.ref)
        elif response.status not in {_UNSERVED, _EXISTS}:
            self.retrier.record_rejection(f"{missing.ref}: {status_message(response)}")
        # The watch may have shown the object before the response came: if it is missing again, that is news.
        if not self._shown:
            seconds = _PAUSES.get(response.status, _UNCHANGED_SECONDS)
            self._not_before = self._clock.monotonic() + seconds * (0.5 + 0.5 * self._jitter())


def document(policy: EgressNATPolicy) -> dict[str, Any]:
    """Return a policy without sources and gateway as the API has it."""
    return {
        "apiVersion": api_version(policy.ref),
        "kind": policy.ref.kind,
        "metadata": {"name": policy.name, "labels": {"app.kubernetes.io/managed-by": "nfagent"}},
        "spec": {"action": policy.action, "destinations": [{"cidr": str(item)} for item in policy.destinations]},
    }
