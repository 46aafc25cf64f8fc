"""`nfagent ui`: serves the page until it is interrupted, with the answers of the agent's unix socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nfagent.errors import HostError
from nfagent.introspection.page.access import PageAccess, new_token
from nfagent.introspection.page.application import ANSWERS, page_application
from nfagent.introspection.page.relay import Relay
from nfagent.introspection.tcp_listener import bound, runner_of, serve
from nfagent.model.listen_address import ListenAddress


async def serve_page(address: ListenAddress, socket_path: Path, started: Callable[[str], None]) -> None:
    """Serve the page at an address until cancelled. Raises HostError where the address can't be used.

    socket_path: the agent's socket
    started:     called with the address to open, once it can be
    """
    access, relay = PageAccess(new_token(), address), Relay(socket_path)
    application = page_application(access, {asked: relay.answer for _, asked in ANSWERS})
    application.cleanup_ctx.append(relay.running)
    try:
        opened = bound(address)
    except OSError as error:
        raise HostError(
            f"cannot serve the page at {address}: {error.strerror or error}", hint="choose another port with --address"
        ) from None
    runner = runner_of(application, ends_with_client=True)  # so that the agent has one reader less
    await runner.setup()
    try:
        if runner.server is None:
            raise HostError(f"cannot serve the page at {address}: aiohttp has no server")
        started(access.url)
        await serve(opened, runner.server)
    finally:
        opened.close()
        await runner.cleanup()
