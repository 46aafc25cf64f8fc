"""Output of commands: values as JSON or YAML, text, and remarks on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from nfagent.cli.tables import coloured, fitted, marked, shown, terminal_width
from nfagent.errors import ValidationIssue
from nfagent.model.printable import printable_json, printable_lines


def emit(value: object, form: str) -> None:
    """Write a value to stdout, `form` being 'json' or 'yaml'."""
    if form == "yaml":
        import yaml

        from nfagent.cli.yaml_writer import KubectlDumper

        # Restricted to ASCII, PyYAML escapes every character that isn't printable.
        written = yaml.dump(value, Dumper=KubectlDumper, sort_keys=False, allow_unicode=True, width=120)
        if not written.replace("\n", "").isprintable():
            written = yaml.dump(value, Dumper=KubectlDumper, sort_keys=False, allow_unicode=False, width=120)
        click.echo(written, nl=False)
    else:
        click.echo(printable_json(json.dumps(value, indent=2, ensure_ascii=False)))


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout, coloured on a terminal, and broken to its width."""
    width = terminal_width()
    write_whole(text for line in lines for text in fitted(line, width))


def write_whole(lines: Iterable[str]) -> None:
    """Write lines that programs or shells read to stdout: one each, whatever the width."""
    click.echo("\n".join(map(shown, lines)), color=coloured())


def write_text(text: str) -> None:
    """Write a text of several lines to stdout."""
    click.echo(printable_lines(text), nl=False)


def write_remark(word: str, message: object) -> None:
    """Write a remark about the answer to stderr: `warning: …`."""
    label = f"{word}:"
    if coloured(sys.stderr):
        label = marked(label, "red" if word == "error" else "yellow")
    for line in fitted(f"{label} {message}", terminal_width(sys.stderr)):
        click.echo(shown(line), err=True, color=coloured(sys.stderr))


def write_freshness(view: Mapping[str, Any]) -> bool:
    """Write to stderr what is unknown or may be stale in a view; return whether the view is complete."""
    for reason in view["unknown"]:
        write_remark("not known", reason)
    for note in view["notes"]:
        write_remark("warning", note)
    return bool(view["complete"])


def write_problems(problems: Iterable[ValidationIssue]) -> bool:
    """Write the problems of the input to stderr, one a line; return whether there are any."""
    found = list(problems)
    for problem in found:
        write_remark("warning", problem)
    return bool(found)
