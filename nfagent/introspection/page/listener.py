"""The page as the agent serves it, where `[ui] listen` asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from aiohttp import web

from nfagent.clock import Clock
from nfagent.errors import HostError
from nfagent.introspection.page.access import PageAccess
from nfagent.introspection.page.application import handlers_of, page_application
from nfagent.introspection.page.token_file import kept_token
from nfagent.introspection.tcp_listener import TcpListener
from nfagent.model.listen_address import ListenAddress
from nfagent.system.background_task import background_task

log = logging.getLogger(__name__)
_RETRY_SECONDS = 5.0
_UNSERVED = "the page of nfagent ui isn't served"


class PageListener:
    """The page at one address, or at none."""

    def __init__(self, address: ListenAddress | None, folder: Path, clock: Clock) -> None:
        """Store the arguments. address: None serves no page; folder: of the token's file."""
        self._address = address
        self._folder = folder
        self._clock = clock
        served, setting = "the page of nfagent ui", "[ui] listen"
        self._listener = None if address is None else TcpListener(address, clock, served, setting)
        self._unmade = ""
        self._serving: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str:
        """Why the page isn't served; '' where it is, or needn't be."""
        return self._unmade or (self._listener.problem if self._listener is not None else "")

    def start(self, routes: Iterable[web.RouteDef]) -> None:
        """Serve the page, where the settings ask for it. routes: those of the agent's socket."""
        if self._address is not None and self._listener is not None:
            self._serving = background_task(self._run(self._address, self._listener, handlers_of(routes)))

    async def close(self) -> None:
        """Stop to serve."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait((self._serving,))

    async def _token(self) -> str:
        """Return the token, as soon as it can be kept."""
        while True:
            try:
                token = await asyncio.to_thread(kept_token, self._folder)  # the folder's disk may not answer
            except (OSError, HostError) as error:
                before, self._unmade = self._unmade, f"{_UNSERVED}: its token can't be kept: {error}"
                if self._unmade != before:
                    log.error("%s; retrying", self._unmade)
                await self._clock.wait(asyncio.Event(), _RETRY_SECONDS)
            else:
                self._unmade = ""
                return token

    async def _run(self, address: ListenAddress, listener: TcpListener, answers: dict[str, object]) -> None:
        token = await self._token()
        application = await asyncio.to_thread(page_application, PageAccess(token, address), answers)
        await listener.run(application)
