"""Requests of one purpose to the API server: retried with backoff, failures logged once.

A failure isn't an error for the caller: the request returns None, and `delay` says when to try again.
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
from nfagent.reporting.token_bucket import FORBIDDEN_RETRY_SECONDS, forbidden_retry_delay

log = logging.getLogger(__name__)
REQUEST_SECONDS = 15.0
"""Timeout of a request: a leader must not wait past its renew deadline."""

_LASTING_SECONDS = 60.0
_FORBIDDEN = 403
_RETRIABLE = frozenset({401, 408, 429})
_SERVER_ERRORS = 500
_MAX_MESSAGE = 300


class ApiReply(Protocol):
    """A response of the API server, of any status."""

    @property
    def status(self) -> int:
        """HTTP status."""
        ...

    @property
    def body(self) -> bytes:
        """The whole body."""
        ...

    @property
    def retry_after(self) -> float | None:
        """Seconds of a Retry-After header; None without one."""
        ...


class ApiRequests(Protocol):
    """A client of the API server; kube.client.ApiClient."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> ApiReply:
        """Return the response, of any status. The body is encoded as JSON. Raises ClusterError without a response."""
        ...


class RequestRetrier:
    """Sends requests of one purpose.

    failed:     requests without a usable response so far
    last_error: why the last one failed; '' after a success
    """

    def __init__(
        self,
        api: ApiRequests,
        clock: WallClock,
        jitter: Callable[[], float],
        nodes: Callable[[], int],
        purpose: str,
        *,
        forbidden_hint: str = "",
    ) -> None:
        """Start without failure.

        jitter:         returns a random number, 0 to 1
        nodes:          number of Nodes in the cluster: their agents spread their retries over a time that grows with it
        purpose:        subject of log lines: 'Events'
        forbidden_hint: what status 403 means, where it is expected; '' where it is a fault
        """
        self.failed = 0
        self.last_error = ""
        self._problem = self._noted = ""
        self._problem_since = 0.0
        self._api = api
        self._clock = clock
        self._jitter = jitter
        self._nodes = nodes
        self._purpose = purpose
        self._forbidden_hint = forbidden_hint
        self._backoff = Backoff()
        self._not_before = 0.0
        self._failing = False
        self._forbidden: set[str] = set()
        self._last_rejection = ""

    @property
    def problem(self) -> str:
        """Why requests have failed for a minute or longer, with their purpose; '' where they are forbidden as expected.

        Without what concerns one object alone, which is in `last_error`.
        """
        expected = self.forbidden and self._forbidden_hint and not self._failing
        lasts = self._clock.monotonic() - self._problem_since >= _LASTING_SECONDS
        return f"{self._purpose}: {self._problem}" if self._problem and lasts and not expected else ""

    @property
    def forbidden(self) -> bool:
        """Whether a request of this purpose is forbidden."""
        return bool(self._forbidden)

    def delay(self) -> float:
        """Return the seconds until the next request is allowed; 0 where it is now."""
        return max(0.0, self._not_before - self._clock.monotonic())

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        expected: Collection[int] = (),
    ) -> ApiReply | None:
        """Send a request; return the response, or None after a failure that is retried later.

        expected: statuses that count as a success here, although they don't elsewhere
        """
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await self._api.request(method, path, query=query, body=body, content_type=content_type)
        except ClusterError as error:
            self._failed(str(error))
            return None
        except TimeoutError:
            self._failed(f"no response to {method} {path} for {REQUEST_SECONDS:.0f} s")
            return None
        status = response.status
        if status in expected or not (status == _FORBIDDEN or status in _RETRIABLE or status >= _SERVER_ERRORS):
            self._succeeded(method)
            return response
        if status == _FORBIDDEN and is_namespace_terminating(response):
            return response
        message = f"{method} {path}: {status_message(response)}"
        if status == _FORBIDDEN:
            self._was_forbidden(method, message)
        else:
            self._failed(message, response.retry_after)
        return None

    def record_rejection(self, message: str, *, of_one_object: bool = False) -> None:
        """Record a response that a retry doesn't change; it is logged once, however often it comes.

        of_one_object: it says nothing of other requests of this purpose, as where the object's Namespace is deleted
        """
        self.failed += 1
        self.last_error = message
        if not of_one_object:
            self._note_problem(message)
        if message != self._last_rejection:
            log.warning("%s: %s", self._purpose, message)
        self._last_rejection = message

    def delay_after_forbidden(self) -> None:
        """Delay the next request for as long as after a forbidden one."""
        self._not_before = self._clock.monotonic() + forbidden_retry_delay(self._jitter())

    def _failed(self, message: str, asked: float | None = None) -> None:
        """Back off, for at least Retry-After, with jitter over the window of all agents."""
        self.failed += 1
        if not self._failing:
            log.warning("%s: request failed, retrying: %s", self._purpose, message)
        self._failing = True
        self.last_error = message
        self._note_problem(message)
        nodes, jitter = self._nodes(), self._jitter()
        kept = min(max(asked or 0.0, 0.0), FORBIDDEN_RETRY_SECONDS)
        seconds = kept + self._backoff.pause(WatchFailure("busy", message), nodes, jitter) + window(nodes) * jitter
        self._not_before = self._clock.monotonic() + seconds

    def _was_forbidden(self, method: str, message: str) -> None:
        self.failed += 1
        explained = f"{self._forbidden_hint or 'apply deploy/rbac.yaml'} ({message})"
        if method not in self._forbidden:
            level = logging.INFO if self._forbidden_hint else logging.WARNING
            log.log(level, "%s: request forbidden: %s", self._purpose, explained)
        self._forbidden.add(method)
        self.last_error = explained
        self._note_problem(explained)
        self.delay_after_forbidden()

    def _note_problem(self, problem: str) -> None:
        """Note why a request failed; what failed so before a request of another kind succeeded still lasts."""
        if not self._problem and problem != self._noted:
            self._problem_since = self._clock.monotonic()
        self._problem = self._noted = problem

    def _succeeded(self, method: str) -> None:
        """Record a success. Permission to read doesn't imply permission to write, so 403 is cleared per method."""
        if self._failing or method in self._forbidden:
            log.info("%s: requests succeed again", self._purpose)
        self._failing = False
        self._forbidden.discard(method)
        self.last_error = self._problem = ""
        self._backoff.succeeded()


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] | None = None


class _Status(msgspec.Struct):
    message: str = ""
    details: _Details | None = None


_status = msgspec.json.Decoder(_Status)


def status_message(response: ApiReply) -> str:
    """Return the HTTP status and the message of a meta/v1 Status."""
    try:
        message = _status.decode(response.body).message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = response.body[:_MAX_MESSAGE].decode("utf-8", "replace")
    return f"{response.status} {message[:_MAX_MESSAGE]}".rstrip()


def is_namespace_terminating(response: ApiReply) -> bool:
    """Return whether the status is 403 because the Namespace is being deleted, which forbids new objects."""
    try:
        details = _status.decode(response.body).details
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    causes = details.causes if details is not None else None
    return any(cause.reason == "NamespaceTerminating" for cause in causes or ())
