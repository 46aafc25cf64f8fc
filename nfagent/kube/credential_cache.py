"""The client config in use; it is resolved again before it expires, when its files change, and after a 401."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from pathlib import Path

from nfagent.errors import ClusterError
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.tls import FileFingerprint, fingerprints

log = logging.getLogger(__name__)

_AHEAD_SECONDS = 60
_PAUSE_SECONDS = 5
"""Least time between two tries. One may start a process and an exec plugin, and all watches may need one at once."""


class CredentialCache:
    """The credentials of one API server. Concurrent callers wait for one resolution."""

    def __init__(self, find: Callable[[], Awaitable[ClientConfig]], now: Callable[[], float]) -> None:
        """Keep the functions; nothing is resolved yet.

        find: resolves the client config; raises ClusterError
        now:  returns seconds since the epoch
        """
        self._find = find
        self._now = now
        self._access: ClientConfig | None = None
        self._fingerprints: tuple[FileFingerprint, ...] = ()
        self._found_at = self._tried_at = self._refused_at = -math.inf
        self._token = ""
        self._finding = asyncio.Lock()

    async def access(self) -> ClientConfig:
        """Return the client config. Raises ClusterError where there is none, or it has expired and can't be renewed."""
        if self._access is not None and not self._is_due(self._access):
            return self._access
        async with self._finding:
            if self._access is not None and not self._is_due(self._access):
                return self._access
            try:
                return await self._found()
            except ClusterError as error:
                if self._access is None or self._has_expired(self._access):
                    raise
                log.warning(
                    "credential refresh failed: %s; using cached credentials of %s until they expire",
                    error,
                    self._access.origin,
                )
                return self._access

    async def renewed(self, refused: ClientConfig) -> ClientConfig | None:
        """Resolve again after a 401; None where that was tried less than 5 s ago. Raises ClusterError."""
        async with self._finding:
            if self._access is not refused:
                return self._access
            if self._is_recent(self._refused_at):
                return None
            self._refused_at = self._now()
            return await self._found()

    def headers(self, access: ClientConfig) -> list[tuple[str, str]]:
        """Return the headers of authentication and impersonation. Raises ClusterError where the token is missing."""
        return [*access.headers, *([("Authorization", value)] if (value := self._authorization(access)) else [])]

    async def _found(self) -> ClientConfig:
        self._tried_at = self._now()
        found = await self._find()
        # The files are known only now; one that changed while it was read is noticed at its next change.
        self._access, self._fingerprints, self._found_at = found, fingerprints(found.sources), self._now()
        self._token = ""
        return found

    def _is_due(self, access: ClientConfig) -> bool:
        if self._is_recent(self._tried_at):
            return False
        return fingerprints(access.sources) != self._fingerprints or (
            access.expires is not None and self._now() >= access.expires - self._ahead(access.expires)
        )

    def _ahead(self, expires: float) -> float:
        """Return how many seconds before expiry to renew: a minute, but no more than a fifth of the lifetime."""
        return min(_AHEAD_SECONDS, max(0.0, expires - self._found_at) / 5)

    def _has_expired(self, access: ClientConfig) -> bool:
        return access.expires is not None and self._now() >= access.expires

    def _is_recent(self, moment: float) -> bool:
        # abs: a clock that was set back must not block this for long.
        return abs(self._now() - moment) < _PAUSE_SECONDS

    def _authorization(self, access: ClientConfig) -> str:
        if not access.token_file:
            return access.authorization
        try:
            # Blocking: the file is small and local, and the request takes a thousand times as long.
            token = Path(access.token_file).read_text(encoding="ascii").strip()
            reason = "empty"
        except OSError as error:
            token, reason = "", error.strerror or "unreadable"
        except ValueError:
            token, reason = "", "not a token"
        self._token = token or self._token
        if self._token:
            return f"Bearer {self._token}"
        if access.authorization:
            return access.authorization
        raise ClusterError(
            f"{access.token_file}: {reason}", hint=f"requests to {access.server} need a token ({access.origin})"
        )
