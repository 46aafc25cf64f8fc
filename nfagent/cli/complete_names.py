"""Completes the names of Pods, policies and namespaces in shells, from the running agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import click
from click.shell_completion import CompletionItem

_SECONDS = 2.0
"""A shell waits for so long at most."""

Completer: TypeAlias = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_names(kind: str) -> Completer:
    """Return the completion of an argument or option that names a kind: pods, policies or namespaces.

    Without an agent, or without root, there is nothing to propose.
    """

    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from nfagent.config import load_settings
        from nfagent.errors import NfagentError
        from nfagent.introspection.agent_client import get_json

        try:
            socket = load_settings(context.params.get("config")).socket_path
            found = get_json(socket, "/v1/names", {"kind": kind, "prefix": incomplete}, seconds=_SECONDS)
        except NfagentError:
            return []
        return [CompletionItem(name) for name in found.get("names", ()) if name.isprintable() and " " not in name]

    return complete
