"""Log lines about the agent's socket: malformed requests are logged once a minute, however many arrive."""

from __future__ import annotations

import logging
from time import monotonic

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

_REPORT_SECONDS = 60.0
_MAX_MESSAGE = 200


class MalformedRequest(Exception):  # noqa: N818 - never caught: it is the exc_info of log records
    """Bytes that are no HTTP request, in cases that aiohttp has no exception for."""


_PEERS_FAULTS = (HttpProcessingError, web.RequestPayloadError, MalformedRequest, ValueError)


class OncePerMinuteFilter(logging.Filter):
    """Passes one record a minute; where the peer is at fault, as one line without a traceback."""

    def __init__(self) -> None:
        """Start with nothing logged."""
        super().__init__()
        self._left_out = 0
        self._last = -_REPORT_SECONDS

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record."""
        error = record.exc_info[1] if record.exc_info else None
        # A client that has closed its connection is at fault for nothing.
        if record.levelno < logging.WARNING or isinstance(error, ConnectionError):
            return False
        if monotonic() - self._last < _REPORT_SECONDS:
            self._left_out += 1
            return False
        self._last = monotonic()
        more, self._left_out = (f" (and {self._left_out} more before, not logged)" if self._left_out else ""), 0
        if isinstance(error, _PEERS_FAULTS):
            words = ascii(str(error)[:_MAX_MESSAGE]) if str(error).strip() else type(error).__name__
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.exc_info = record.exc_text = None
            record.msg, record.args = "malformed request on the agent's socket: %s%s", (words, more)
        return True


log = logging.getLogger(__name__)
log.addFilter(OncePerMinuteFilter())
