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
from nfagent.system.regular_file import read_regular

log = logging.getLogger(__name__)

_AHEAD_SECONDS = 60
_PAUSE_SECONDS = 5
"""Least time between two tries. One may start a process and an exec plugin, and all watches may need one at once."""

_LONGEST_PAUSE_SECONDS = 60
"""After failures the pause doubles up to this: a try takes most of a second of CPU, and a file may stay broken."""


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
        self._failures = self._refusals = 0
        self._failed_files: tuple[FileFingerprint, ...] = ()
        self._unresolved = self._unread = ""

    @property
    def problem(self) -> str:
        """Why credentials can't be resolved again, or a token can't be read, and those of before are used; else ''."""
        unresolved = f"credential refresh failed: {self._unresolved}" if self._unresolved else ""
        return "; ".join(filter(None, (unresolved, self._unread)))

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
                self._report(str(error), self._access)
                return self._access

    async def renewed(self, refused: ClientConfig) -> ClientConfig | None:
        """Resolve again after a 401; None where that was tried shortly before. Raises ClusterError."""
        async with self._finding:
            if self._access is not refused:
                return self._access
            if self._is_recent(self._refused_at, _pause(self._refusals)):
                return None
            # Credentials that are refused again and again aren't mended by resolving them.
            recent = self._is_recent(self._refused_at, 2 * _LONGEST_PAUSE_SECONDS)
            self._refusals = self._refusals + 1 if recent else 0
            self._refused_at = self._now()
            return await self._found()

    def headers(self, access: ClientConfig) -> list[tuple[str, str]]:
        """Return the headers of authentication and impersonation. Raises ClusterError where the token is missing."""
        return [*access.headers, *([("Authorization", value)] if (value := self._authorization(access)) else [])]

    async def _found(self) -> ClientConfig:
        self._tried_at = self._now()
        sources = self._access.sources if self._access is not None else ()
        before = fingerprints(sources)
        try:
            found = await self._find()
        except ClusterError:
            self._failures, self._failed_files = self._failures + 1, before
            raise
        # The files are known only now; one that changed while it was read is noticed at its next change.
        self._access, self._fingerprints, self._found_at = found, fingerprints(found.sources), self._now()
        self._token, self._failures = "", 0
        if self._unresolved:
            log.info("credentials of %s are refreshed again", found.origin)
            self._unresolved = ""
        return found

    def _report(self, reason: str, cached: ClientConfig) -> None:
        """Log why the credentials can't be resolved again, once for each reason."""
        if reason != self._unresolved:
            log.warning(
                "credential refresh failed: %s; using cached credentials of %s until they expire", reason, cached.origin
            )
            self._unresolved = reason

    def _note_token(self, file: str, reason: str) -> None:
        """Log why a token can't be read where another is used, once for each reason, and when it can again."""
        before, self._unread = self._unread, f"token {file}: {reason}" if reason else ""
        if self._unread and self._unread != before:
            log.warning("%s", self._unread)
        elif before and not self._unread:
            log.info("token %s is read again", file)

    def _is_due(self, access: ClientConfig) -> bool:
        if self._is_recent(self._tried_at):
            return False
        now = fingerprints(access.sources)
        # The same files gave an error before: nothing but a plugin or a file that they name can have changed.
        if self._failures and now == self._failed_files and self._is_recent(self._tried_at, _pause(self._failures)):
            return False
        return now != self._fingerprints or (
            access.expires is not None and self._now() >= access.expires - self._ahead(access.expires)
        )

    def _ahead(self, expires: float) -> float:
        """Return how many seconds before expiry to renew: a minute, but no more than a fifth of the lifetime."""
        return min(_AHEAD_SECONDS, max(0.0, expires - self._found_at) / 5)

    def _has_expired(self, access: ClientConfig) -> bool:
        return access.expires is not None and self._now() >= access.expires

    def _is_recent(self, moment: float, seconds: float = _PAUSE_SECONDS) -> bool:
        # abs: a clock that was set back must not block this for long.
        return abs(self._now() - moment) < seconds

    def _authorization(self, access: ClientConfig) -> str:
        if not access.token_file:
            return access.authorization
        try:
            # Blocking: the file is small and local, and the request takes a thousand times as long.
            token = read_regular(Path(access.token_file)).decode("ascii").strip()
            reason = "empty"
        except OSError as error:
            token, reason = "", error.strerror or "unreadable"
        except ValueError:
            token, reason = "", "not a token"
        instead = "the last one that was read" if self._token else f"that of {access.origin}"
        known = bool(self._token or access.authorization)
        self._note_token(access.token_file, f"{reason}; {instead} is used" if known and not token else "")
        self._token = token or self._token
        if self._token:
            return f"Bearer {self._token}"
        if access.authorization:
            return access.authorization
        raise ClusterError(
            f"{access.token_file}: {reason}", hint=f"requests to {access.server} need a token ({access.origin})"
        )


def _pause(failures: int) -> float:
    """Return the least seconds until the next try after so many failures in a row."""
    return min(_PAUSE_SECONDS * 2.0 ** min(failures, 10), _LONGEST_PAUSE_SECONDS)
