"""The settings of the running agent, for `nfagent config` and `nfagent check`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from nfagent.config import Settings
from nfagent.errors import HostError, UsageError
from nfagent.introspection.agent_client import NoAgentError, get_json
from nfagent.introspection.answer_format import answer_format
from nfagent.loaded_settings import ConfigView, SettingEntry

_OF_FILES = {"default", "file", "conf.d"}


def running_settings(socket: Path) -> ConfigView | None:
    """Return the settings of the agent that listens at a socket; None where none does. Raises HostError, UsageError."""
    try:
        content = get_json(socket, "/v1/config", {})
    except NoAgentError:
        return None
    with answer_format("the running agent's settings have"):
        return msgspec.convert(content, ConfigView)


def node_in_use(settings: Settings) -> str:
    """Return the name of this node: as the running agent has it, by a flag for instance, else as the settings say."""
    with suppress(HostError, UsageError):
        if (view := running_settings(settings.socket_path)) is not None:
            return view.node
    return settings.node_name


def differing(here: Iterable[SettingEntry], view: ConfigView) -> list[tuple[SettingEntry, SettingEntry]]:
    """Return the settings of which the running agent has another value, each as it is here and there."""
    there = {entry.key: entry for entry in view.settings}
    pairs = [(entry, there[entry.key]) for entry in here if entry.key in there]
    return [(entry, other) for entry, other in pairs if entry.value != other.value]


def is_outdated(here: SettingEntry, there: SettingEntry) -> bool:
    """Return whether a file has changed since the agent read it: neither value is of a variable or a flag."""
    return here.origin.kind in _OF_FILES and there.origin.kind in _OF_FILES
