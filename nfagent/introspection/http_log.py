"""What is logged of the agent's own socket: of requests that are none a line a minute, whatever comes and how often."""

from __future__ import annotations

import logging
from time import monotonic

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

_SAY_SECONDS = 60.0
_MOST_WORDS = 200


class MalformedRequest(Exception):  # noqa: N818 - nobody catches it: it stands in log records
    """Bytes that are no request, which aiohttp doesn't say itself."""


_PEERS_FAULTS = (HttpProcessingError, web.RequestPayloadError, MalformedRequest, ValueError)


class OncePerMinuteFilter(logging.Filter):
    """Lets through one record a minute, and writes a line where the peer is at fault: no traceback."""

    def __init__(self) -> None:
        """Begin with nothing said."""
        super().__init__()
        self._left_out = 0
        self._last = -_SAY_SECONDS

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to write a record."""
        if record.levelno < logging.WARNING:
            return False
        if monotonic() - self._last < _SAY_SECONDS:
            self._left_out += 1
            return False
        self._last = monotonic()
        more, self._left_out = (f" (and {self._left_out} more before)" if self._left_out else ""), 0
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, _PEERS_FAULTS):
            words = ascii(str(error)[:_MOST_WORDS]) if str(error).strip() else type(error).__name__
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.exc_info = record.exc_text = None
            record.msg, record.args = "what came to the agent's socket is no request: %s%s", (words, more)
        return True


log = logging.getLogger(__name__)
log.addFilter(OncePerMinuteFilter())
