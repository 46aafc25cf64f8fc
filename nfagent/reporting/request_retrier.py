"""One kind of request to the API server: what its setbacks mean, how long to wait after them, what the log says.

A setback is never an error for the caller: there is no answer now, and a time from which to try again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import msgspec

from nfagent.clock import WallClock
from nfagent.errors import ClusterError
from nfagent.kube.backoff import Backoff, window
from nfagent.kube.reflector_requests import WatchFailure
from nfagent.reporting.token_bucket import RARELY_SECONDS, rarely

log = logging.getLogger(__name__)
REQUEST_SECONDS = 15.0
"""Without an answer for so long a request counts as failed: who was elected must not wait past its time."""

_FORBIDDEN = 403
_AGAIN = frozenset({401, 408, 429})
_SERVER_ERRORS = 500
_LONGEST_SAID = 300


class ApiAnswer(Protocol):
    """What the API server answered, whatever its status."""

    @property
    def status(self) -> int:
        """HTTP's."""
        ...

    @property
    def body(self) -> bytes:
        """Whole."""
        ...

    @property
    def retry_after(self) -> float | None:
        """Seconds, where the server asks for patience."""
        ...


class ApiRequests(Protocol):
    """The API server; kube.client.ApiServer."""

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> ApiAnswer:
        """Give the answer; raises ClusterError where there is none. A body is written as JSON."""
        ...


class RequestRetrier:
    """Requests for one purpose.

    failed:     how many brought no usable answer so far
    last_error: why the last one didn't; '' after one that did
    """

    def __init__(
        self,
        api: ApiRequests,
        clock: WallClock,
        draw: Callable[[], float],
        nodes: Callable[[], int],
        purpose: str,
        *,
        unpermitted: str = "",
    ) -> None:
        """Stand ready.

        draw:        lots from 0 to 1
        nodes:       how many the cluster has: over so much time its agents spread their return
        purpose:     what doesn't happen without it, for the log: 'Events'
        unpermitted: what it means to be refused, where that is no fault; '' where it is one
        """
        self.failed = 0
        self.last_error = ""
        self._api = api
        self._clock = clock
        self._draw = draw
        self._nodes = nodes
        self._purpose = purpose
        self._unpermitted = unpermitted
        self._backoff = Backoff()
        self._again_at = 0.0
        self._lost = False
        self._forbidden: set[str] = set()
        self._refused = ""

    @property
    def forbidden(self) -> bool:
        """Whether something isn't permitted that this channel is for."""
        return bool(self._forbidden)

    def wait(self) -> float:
        """Give the seconds until something may be asked for again; 0 where nothing stands in the way."""
        return max(0.0, self._again_at - self._clock.monotonic())

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        expected: Collection[int] = (),
    ) -> ApiAnswer | None:
        """Give the answer; None after a setback.

        expected: statuses that are no setback here, although they would be elsewhere
        """
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                answer = await self._api.ask(method, path, query=query, body=body, content_type=content_type)
        except ClusterError as error:
            self._set_back(str(error))
            return None
        except TimeoutError:
            self._set_back(f"no answer to {method} {path} for {REQUEST_SECONDS:.0f} s")
            return None
        status = answer.status
        if status in expected or not (status == _FORBIDDEN or status in _AGAIN or status >= _SERVER_ERRORS):
            self._mended(method)
            return answer
        if status == _FORBIDDEN and ends_with_namespace(answer):
            return answer
        said = f"{method} {path}: {explanation(answer)}"
        if status == _FORBIDDEN:
            self._forbid(method, said)
        else:
            self._set_back(said, answer.retry_after)
        return None

    def refused(self, said: str) -> None:
        """Take in an answer that won't get better by asking again; the log has it once, however often it comes."""
        self.failed += 1
        self.last_error = said
        if said != self._refused:
            log.warning("%s: %s", self._purpose, said)
        self._refused = said

    def rest(self) -> None:
        """Have the next request wait as long as after one that isn't permitted."""
        self._again_at = self._clock.monotonic() + rarely(self._draw())

    def _set_back(self, said: str, asked: float | None = None) -> None:
        """Wait longer from time to time, as long as the server asks for, and spread over the window of all agents."""
        self.failed += 1
        if not self._lost:
            log.warning("%s don't get to the cluster, and are tried again: %s", self._purpose, said)
        self._lost = True
        self.last_error = said
        nodes, lot = self._nodes(), self._draw()
        kept = min(max(asked or 0.0, 0.0), RARELY_SECONDS)
        seconds = kept + self._backoff.pause(WatchFailure("busy", said), nodes, lot) + window(nodes) * lot
        self._again_at = self._clock.monotonic() + seconds

    def _forbid(self, method: str, said: str) -> None:
        self.failed += 1
        explained = f"{self._unpermitted or 'apply deploy/rbac.yaml'} ({said})"
        if method not in self._forbidden:
            level = logging.INFO if self._unpermitted else logging.WARNING
            log.log(level, "%s aren't permitted: %s", self._purpose, explained)
        self._forbidden.add(method)
        self.last_error = explained
        self.rest()

    def _mended(self, method: str) -> None:
        """Take in that a request was answered. Who may read needn't be who may write."""
        if self._lost or method in self._forbidden:
            log.info("%s get to the cluster again", self._purpose)
        self._lost = False
        self._forbidden.discard(method)
        self.last_error = ""
        self._backoff.succeeded()


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] | None = None


class _Status(msgspec.Struct):
    message: str = ""
    details: _Details | None = None


_status = msgspec.json.Decoder(_Status)


def explanation(answer: ApiAnswer) -> str:
    """Give what the API server says in a meta/v1 Status, with the HTTP status."""
    try:
        said = _status.decode(answer.body).message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = answer.body[:_LONGEST_SAID].decode("utf-8", "replace")
    return f"{answer.status} {said[:_LONGEST_SAID]}".rstrip()


def ends_with_namespace(answer: ApiAnswer) -> bool:
    """Tell whether something can't be created because its Namespace is being deleted, which is a 403 as well."""
    try:
        details = _status.decode(answer.body).details
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    causes = details.causes if details is not None else None
    return any(cause.reason == "NamespaceTerminating" for cause in causes or ())
