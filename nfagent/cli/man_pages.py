"""Manual pages from the commands' own help, and nfagent.toml(5) from the commented settings file.

`python -m nfagent.cli.man_pages FOLDER nfagent.toml` writes them: nfagent.1, one page for each command and for each
command of a group (nfagent-lab-up.1), and nfagent.toml.5. click-man leaves out examples, commands that a group imports
when they are called, and the escapes that roff needs.

Invariant: the same commands and settings give the same bytes; SOURCE_DATE_EPOCH is the date, and without it there is
none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from inspect import cleandoc
from pathlib import Path

import click

from nfagent import __version__
from nfagent.cli import nfagent

_SPECIAL = str.maketrans(
    {"\\": "\\e", "-": "\\-", "~": "\\(ti", "^": "\\(ha", "`": "\\(ga", "'": "\\(aq", '"': "\\(dq"}
)
_SETTING = re.compile(r"# (?P<key>\w+) = (?P<default>.+)")
_SECTION = re.compile(r"\[(?P<name>\w+)\]")
_FILES = {
    "/etc/nfagent/nfagent.toml": "Settings, nfagent.toml(5).",
    "/etc/nfagent/conf.d/*.toml": "Settings that override it, in the order of their names.",
    "/etc/default/nfagent": "Environment of the service: settings as NFAGENT_<SECTION>_<KEY>.",
    "/run/nfagent/": "The agent's socket, which the other commands ask.",
    "/var/lib/nfagent/": "The last good version of each object, for the next start.",
    "/var/log/network/policy_action.log": "The verdict log, one JSON record a line.",
}
_EXIT_STATUS = {
    "0": "Yes: done, allowed, no difference.",
    "1": "No: denied, drift, refused input.",
    "2": "Wrong usage, a failure, or an answer that isn't known; standard error has the reason.",
}


def main(arguments: list[str]) -> None:
    """Write the pages of all commands, and that of the settings file, into a folder. Raises OSError."""
    folder, settings = Path(arguments[0]), Path(arguments[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in command_pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "nfagent.toml.5").write_text(settings_page(settings.read_text(encoding="utf-8")), encoding="utf-8")


def command_pages() -> dict[str, str]:
    """Return the page of each command, by its file name."""
    return {
        f"{_title(context)}.1": "\n".join(_command_lines(context)) + "\n" for context in _contexts(nfagent, "nfagent")
    }


def settings_page(settings: str) -> str:
    """Return nfagent.toml(5), from a settings file that has each setting commented, below what it means."""
    lines = [_header("nfagent.toml", 5), ".SH NAME", f"nfagent.toml \\- {_text('settings of nfagent')}"]
    lines += [".SH DESCRIPTION", "Read from", ".I /etc/nfagent/nfagent.toml", _text("or the file of --config: TOML.")]
    comment: list[str] = []
    entered = False
    for line in [*settings.splitlines(), ""]:
        section, setting = _SECTION.fullmatch(line), _SETTING.fullmatch(line)
        if (section or setting) and not entered:
            lines.append(".SH SETTINGS")
            entered = True
        if section:
            lines.append(f".SH [{_text(section['name'])}]")
            comment += [""] if comment else []
        elif setting:
            lines += [".TP", f"\\fB{_text(setting['key'])}\\fR = {_text(setting['default'])}", *map(_text, comment)]
            comment = []
        elif line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif comment:
            lines += [".PP", *map(_text, comment)]
            comment = []
    return "\n".join([*lines, ".SH SEE ALSO", _reference("nfagent"), _reference("nfagent-run"), ""])


def _contexts(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Yield the context of a command, and those of its commands."""
    context = click.Context(command, parent=parent, info_name=name, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None and not found.hidden:
                yield from _contexts(found, each, context)


def _command_lines(context: click.Context) -> Iterator[str]:
    command = context.command
    title = _title(context)
    yield _header(title, 1)
    yield from (".SH NAME", f"{title} \\- {_text(_summary(command))}")
    yield from (".SH SYNOPSIS", f"\\fB{_text(context.command_path)}\\fR")
    yield _text(" ".join(command.collect_usage_pieces(context)))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(command.help or "")
    options = [record for option in command.get_params(context) if (record := option.get_help_record(context))]
    yield from _definitions("OPTIONS", [record for record in options if record[0].startswith("-")])
    if isinstance(command, click.Group):
        yield from _commands(context, command)
    if command.epilog:
        yield ".SH EXAMPLES"
        yield from _examples(command.epilog)
    if context.parent is None:
        yield from _definitions("EXIT STATUS", _EXIT_STATUS.items())
        yield from _definitions("FILES", _FILES.items())
        yield from (".SH SEE ALSO", _reference("nfagent.toml", 5))
    else:
        yield from (".SH SEE ALSO", _reference(_title(context.parent)))


def _commands(context: click.Context, group: click.Group) -> Iterator[str]:
    yield ".SH COMMANDS"
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield from (".TP", _reference(f"{_title(context)}-{name}"), _text(_summary(command)))


def _definitions(heading: str, entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    entries = list(entries)
    if entries:
        yield f".SH {heading}"
    for term, meaning in entries:
        flags, _, value = term.partition(" [") if " [" in term else (term, "", "")
        yield from (".TP", f"\\fB{_text(flags)}\\fR" + (_text(f" [{value}") if value else ""), _text(meaning))


def _paragraphs(help_text: str) -> Iterator[str]:
    """Yield a help text's paragraphs; one that begins with click's backspace keeps its lines."""
    for paragraph in cleandoc(help_text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield from (".PP", ".nf", *map(_text, paragraph.splitlines()[1:]), ".fi")
        else:
            yield from (".PP", *map(_text, paragraph.splitlines()))


def _examples(epilog: str) -> Iterator[str]:
    lines = [line.removeprefix("Example:").strip() for line in epilog.replace("\b", "").strip().splitlines()]
    yield from (".nf", *map(_text, lines), ".fi")


def _summary(command: click.Command) -> str:
    """Return the first sentence of a help text, without its full stop."""
    first = cleandoc(command.help or "").split("\n\n", maxsplit=1)[0].replace("\n", " ")
    return re.split(r"[.:;] |\.$", first, maxsplit=1)[0]


def _title(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _reference(title: str, section: int = 1) -> str:
    return f"\\fB{_text(title)}\\fR({section})"


def _header(title: str, section: int) -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    date = datetime.fromtimestamp(int(epoch), UTC).strftime("%Y-%m-%d") if epoch else ""
    return f'.TH "{title.upper()}" {section} "{date}" "nfagent {__version__}" "nfagent"'


def _text(text: str) -> str:
    """Return a line of text for roff: no character of it is a request or an escape."""
    escaped = text.translate(_SPECIAL)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


if __name__ == "__main__":
    main(sys.argv[1:])
