"""`nfagent config`: every setting, its value, and where the value comes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfagent.cli.options import config_option, flag_options, flag_values, output_option

if TYPE_CHECKING:
    from nfagent.loaded_settings import ConfigView, SettingEntry


@click.command(
    "config",
    epilog="""\b
Example: nfagent config --changed
         sudo nfagent config --running -o json""",
)
@click.option("--changed", is_flag=True, help="Only settings that differ from their default.")
@click.option("--running", is_flag=True, help="Those of the running agent, instead of those of a start now.")
@flag_options
@config_option
@output_option("text", "json", "yaml", "toml")
def config_(*, changed: bool, running: bool, config: Path | None, output: str, **flags: Any) -> None:  # noqa: ANN401 - those of flag_options
    """Show every setting with its value, and where the value comes from.

    That is the default, /etc/nfagent/nfagent.toml, a file conf.d/*.toml beside it, a variable NFAGENT_* of this shell,
    or a flag; each overrides those before it. --running shows what the service has, with the variables of
    /etc/default/nfagent and the flags of its unit. Where both differ, stderr says so.

    Exit code 2: a setting is wrong, and stderr has file, key and value; or no agent runs, with --running.
    """
    import os

    from nfagent.cli.output import emit, write_lines, write_remark, write_whole
    from nfagent.config import Settings
    from nfagent.loaded_settings import load_with_origins
    from nfagent.setting_layers import unknown_variables

    loaded = load_with_origins(config, flags=flag_values(flags))
    if running:
        view = _required(loaded.settings.socket_path)
        entries, remarks = list(view.settings), [*view.unknown, *_of_reload(view)]
    else:
        entries, remarks = list(loaded.entries()), unknown_variables(os.environ, Settings)
        remarks += _of_agent(loaded.settings.socket_path, entries)
    shown = [entry for entry in entries if not changed or entry.value != entry.default]
    match output:
        case "text":
            write_lines(_table(shown))
        case "toml":
            write_whole(_toml(shown))
        case _:
            emit({"settings": list(map(_members, shown)), "remarks": remarks}, output)
    for words in remarks:
        write_remark("warning", words)


def _required(socket: Path) -> ConfigView:
    from nfagent.cli.running_settings import running_settings
    from nfagent.errors import UsageError

    view = running_settings(socket)
    if view is None:
        raise UsageError(f"no agent listens at {socket}; leave --running out, or run: systemctl start nfagent")
    return view


def _of_reload(view: ConfigView) -> Iterator[str]:
    """Yield what the last reload didn't apply."""
    for entry in view.pending:
        yield f"{entry} ({entry.origin}) needs a restart: systemctl restart nfagent"
    if view.problem:
        yield f"the last reload kept every setting as it was: {view.problem}"


def _of_agent(socket: Path, entries: list[SettingEntry]) -> Iterator[str]:
    """Yield the settings of which the running agent has another value, and why it can't be asked."""
    from nfagent.cli.running_settings import differing, running_settings
    from nfagent.errors import HostError, UsageError

    try:
        view = running_settings(socket)
    except (HostError, UsageError) as error:
        yield f"what the running agent has isn't known: {error}"
        return
    if view is not None:
        for _, there in differing(entries, view):
            yield f"the running agent has {there} ({there.origin})"


def _table(entries: list[SettingEntry]) -> list[str]:
    from nfagent.cli.tables import table
    from nfagent.loaded_settings import setting_text

    if not entries:
        return ["every setting has its default"]
    rows = ((entry.key, setting_text(entry.value), str(entry.origin)) for entry in entries)
    return table(("setting", "value", "from"), rows)


def _toml(entries: list[SettingEntry]) -> list[str]:
    """Return a settings file with these settings."""
    lines, section = list[str](), ""
    for entry in entries:
        into, _, key = entry.key.rpartition(".")
        if into != section:
            lines += ["", f"[{into}]"] if lines else [f"[{into}]"]
            section = into
        lines.append(f"{key}{str(entry).removeprefix(entry.key)}")
    return lines


def _members(entry: SettingEntry) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(entry)
    return found
