"""What a command says: values as JSON or YAML, text, and remarks beside the answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from nfagent.cli.tables import coloured, marked, shown
from nfagent.errors import ValidationIssue
from nfagent.model.printable import printable_json, printable_lines


def emit(value: object, form: str) -> None:
    """Write a value to stdout, `form` being 'json' or 'yaml'."""
    if form == "yaml":
        import yaml

        from nfagent.cli.yaml_writer import KubectlDumper

        # What isn't printable is escaped by YAML's writer, where it may write ASCII alone.
        written = yaml.dump(value, Dumper=KubectlDumper, sort_keys=False, allow_unicode=True, width=120)
        if not written.replace("\n", "").isprintable():
            written = yaml.dump(value, Dumper=KubectlDumper, sort_keys=False, allow_unicode=False, width=120)
        click.echo(written, nl=False)
    else:
        click.echo(printable_json(json.dumps(value, indent=2, ensure_ascii=False)))


def say(lines: Iterable[str]) -> None:
    """Write lines to stdout, with their colours where somebody looks."""
    click.echo("\n".join(map(shown, lines)), color=coloured())


def say_text(text: str) -> None:
    """Write a text of several lines to stdout."""
    click.echo(printable_lines(text), nl=False)


def remark(word: str, message: object) -> None:
    """Say something about the answer on stderr: `warning: …`."""
    label = f"{word}:"
    if coloured(sys.stderr):
        label = marked(label, "red" if word == "error" else "yellow")
    click.echo(shown(f"{label} {message}"), err=True, color=coloured(sys.stderr))


def remark_standing(view: Mapping[str, Any]) -> bool:
    """Say on stderr what a view doesn't know, and what in it may be old; tell whether all that was asked is known."""
    for words in view["unknown"]:
        remark("not known", words)
    for words in view["notes"]:
        remark("warning", words)
    return bool(view["complete"])


def remark_problems(problems: Iterable[ValidationIssue]) -> bool:
    """Say what is wrong with the input on stderr, a line each; tell whether anything is."""
    found = list(problems)
    for problem in found:
        remark("warning", problem)
    return bool(found)
