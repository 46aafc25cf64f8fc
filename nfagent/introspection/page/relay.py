"""Answers of the agent, passed on from its unix socket as they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from nfagent.introspection.agent_client import FILTERED
from nfagent.introspection.error_answers import error_answer

_SILENT_SECONDS = 60.0
"""After which an agent counts as hung: a stream of records has a line every ten seconds."""
_PASSED = ("Content-Type", FILTERED)
_NO_AGENT = 502


class Relay:
    """Passes requests to the agent's socket."""

    def __init__(self, path: Path) -> None:
        """Store the socket's path; nothing is opened before `running`."""
        self._path = path
        self._session: aiohttp.ClientSession | None = None

    async def running(self, _application: web.Application) -> AsyncIterator[None]:
        """Hold the connections while an application runs: one of its `cleanup_ctx`."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=_SILENT_SECONDS)
        connector = aiohttp.UnixConnector(str(self._path), limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            self._session = session
            yield
        self._session = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a GET with the agent's answer to the same path behind `/v1/`, and the same query."""
        if self._session is None:
            return error_answer("this page is being closed", _NO_AGENT)
        asked = f"http://agent/v1/{request.path.partition('/v1/')[2]}?{request.rel_url.raw_query_string}"
        try:
            async with self._session.get(URL(asked, encoded=True)) as found:
                return await _passed_on(request, found)
        except (aiohttp.ClientConnectorError, ConnectionError) as error:
            return error_answer(f"no agent answers at {self._path}: {_reason(error)}", _NO_AGENT)
        except (aiohttp.ClientError, TimeoutError) as error:
            return error_answer(f"the agent at {self._path} does not answer: {_reason(error)}", _NO_AGENT)


async def _passed_on(request: web.Request, found: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = {name: found.headers[name] for name in _PASSED if name in found.headers}
    response = web.StreamResponse(status=found.status, headers=headers)
    try:
        await response.prepare(request)
        async for part in found.content.iter_any():
            await response.write(part)
        await response.write_eof()
    except (aiohttp.ClientError, TimeoutError):
        # The answer broke off: so does this one, which would look whole otherwise.
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError:
        with suppress(ConnectionError):
            found.close()  # the browser left
    return response


def _reason(error: Exception) -> str:
    reason = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return (reason.strerror if isinstance(reason, OSError) else "") or str(reason) or type(reason).__name__
