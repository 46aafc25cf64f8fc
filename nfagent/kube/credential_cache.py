"""The access in use, and when to find it anew: before it expires, when its files change, when it is refused."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from pathlib import Path

from nfagent.errors import ClusterError
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.tls import FileFingerprint, stamps

log = logging.getLogger(__name__)

_AHEAD_SECONDS = 60
_PAUSE_SECONDS = 5
"""Least time between two tries. Finding can start a process and a plugin, and every watch may ask for it at once."""


class CredentialCache:
    """Credentials that stay fresh. Many may ask at once: one finds, the others wait for it."""

    def __init__(self, find: Callable[[], Awaitable[ClientConfig]], now: Callable[[], float]) -> None:
        """Know how to find.

        now: seconds since the epoch
        """
        self._find = find
        self._now = now
        self._access: ClientConfig | None = None
        self._stamps: tuple[FileFingerprint, ...] = ()
        self._found_at = self._tried_at = self._refused_at = -math.inf
        self._token = ""
        self._finding = asyncio.Lock()

    async def access(self) -> ClientConfig:
        """Give the access. Raises ClusterError where there is none, or what there was has expired."""
        if self._access is not None and not self._is_due(self._access):
            return self._access
        async with self._finding:
            if self._access is not None and not self._is_due(self._access):
                return self._access
            try:
                return await self._found()
            except ClusterError as error:
                if self._access is None or self._is_over(self._access):
                    raise
                log.warning("credentials are not renewed: %s; the old ones (%s) stay", error, self._access.origin)
                return self._access

    async def renewed(self, refused: ClientConfig) -> ClientConfig | None:
        """Find anew after a 401; None where that was tried just now. Raises ClusterError."""
        async with self._finding:
            if self._access is not refused:
                return self._access
            if self._is_recent(self._refused_at):
                return None
            self._refused_at = self._now()
            return await self._found()

    def headers(self, access: ClientConfig) -> list[tuple[str, str]]:
        """Give the headers that say who we are, by the newest token. Raises ClusterError where there is none."""
        return [*access.headers, *([("Authorization", value)] if (value := self._authorization(access)) else [])]

    async def _found(self) -> ClientConfig:
        self._tried_at = self._now()
        found = await self._find()
        # Which files to look at is known only now; one that changes while it is read is seen the next time it changes.
        self._access, self._stamps, self._found_at = found, stamps(found.sources), self._now()
        self._token = ""
        return found

    def _is_due(self, access: ClientConfig) -> bool:
        if self._is_recent(self._tried_at):
            return False
        return stamps(access.sources) != self._stamps or (
            access.expires is not None and self._now() >= access.expires - self._ahead(access.expires)
        )

    def _ahead(self, expires: float) -> float:
        """Give seconds before the end: a minute, but no more than a fifth of a short life."""
        return min(_AHEAD_SECONDS, max(0.0, expires - self._found_at) / 5)

    def _is_over(self, access: ClientConfig) -> bool:
        return access.expires is not None and self._now() >= access.expires

    def _is_recent(self, moment: float) -> bool:
        # A clock that was set back doesn't stop anything for long.
        return abs(self._now() - moment) < _PAUSE_SECONDS

    def _authorization(self, access: ClientConfig) -> str:
        if not access.token_file:
            return access.authorization
        try:
            # Small, local, and read for a request that takes a thousand times as long.
            token = Path(access.token_file).read_text(encoding="ascii").strip()
            reason = "is empty"
        except OSError as error:
            token, reason = "", error.strerror or "can't be read"
        except ValueError:
            token, reason = "", "is no token"
        self._token = token or self._token
        if self._token:
            return f"Bearer {self._token}"
        if access.authorization:
            return access.authorization
        raise ClusterError(
            f"{access.token_file}: {reason}: without a token {access.server} can't be asked ({access.origin})",
            hint=f"write a token to {access.token_file}",
        )
