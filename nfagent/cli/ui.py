"""`nfagent ui`: the live page for a browser, over loopback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfagent.cli.options import config_option, settings_of

if TYPE_CHECKING:
    from nfagent.config import Settings
    from nfagent.model.listen_address import ListenAddress

_DEFAULT = "127.0.0.1:9465"


@click.command(
    epilog="""\b
Example: nfagent ui
         nfagent ui --address 127.0.0.1:8080"""
)
@click.option(
    "--address",
    metavar="ADDRESS:PORT",
    default="",
    help=f"Serve at this address of loopback.  [default: {_DEFAULT}]",
)
@config_option
def ui(*, address: str, config: Path | None) -> None:
    r"""Serve the live page: verdicts as they come, who talks to whom, policies with their counters, health.

    Open the address that is printed in a browser. It has a token: the user who has it can read the records. The page is
    served on loopback alone; on another machine, forward the port with ssh:

    \b
        ssh -L 9465:127.0.0.1:9465 root@NODE nfagent ui

    It runs until Ctrl-C, and asks the agent over its unix socket, for answers that change nothing. Where the settings
    have [ui] listen, the agent serves the page itself, and the command prints its address and ends; --address serves
    another one.

    Exit code 0: the address of the agent's page was printed; 130: Ctrl-C; 2: the page can't be served.
    """
    settings = settings_of(config)
    served = settings.ui_address()
    if served is not None and not address:
        click.echo(_url_of_agent(settings, served))
        return
    _serve(settings, _parsed(address or _DEFAULT))


def _parsed(address: str) -> ListenAddress:
    from nfagent.model.listen_address import parse_loopback
    from nfagent.model.netaddr import AddressError

    try:
        return parse_loopback(address)
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint="--address") from None


def _url_of_agent(settings: Settings, address: ListenAddress) -> str:
    """Return the address of the agent's page. Raises NoAgentError, HostError."""
    from nfagent.errors import HostError
    from nfagent.introspection.agent_client import NoAgentError, is_listening
    from nfagent.introspection.page.access import PageAccess
    from nfagent.introspection.page.token_file import NAME, read_token

    if not is_listening(settings.socket_path):
        raise NoAgentError(
            f"no agent listens at {settings.socket_path}: it serves the page", hint="nfagent ui --address"
        )
    folder = settings.socket_path.parent
    try:
        return PageAccess(read_token(folder), address).url
    except OSError as error:
        raise HostError(
            f"{folder / NAME}: {error.strerror or error}: the running agent was started without [ui] listen",
            hint="restart it, or serve the page yourself: nfagent ui --address 127.0.0.1:PORT",
        ) from None


def _serve(settings: Settings, address: ListenAddress) -> None:
    import asyncio

    from nfagent.cli.output import write_remark
    from nfagent.introspection.agent_client import is_listening
    from nfagent.introspection.page.foreground import serve_page

    if not is_listening(settings.socket_path):
        write_remark("warning", f"no agent listens at {settings.socket_path}: the page waits for it")
    asyncio.run(serve_page(address, settings.socket_path, click.echo))
