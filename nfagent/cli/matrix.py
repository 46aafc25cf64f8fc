"""`nfagent matrix`: who reaches whom, by groups of Pods that policies can't tell apart."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfagent.cli.options import config_option, manifests_option, namespace_option, node_option, view_settings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfagent.simulate.matrix_answer import Matrix, MatrixPart, MatrixRequest

_LONG = 5000
"""Pods, or pairs, from which on progress is shown."""
_FORMS = ("text", "html", "dot", "csv", "json")


@click.command(
    epilog="""\b
Example: nfagent matrix -n shop
         nfagent matrix -n shop --port 5432
         nfagent matrix -n shop -o html > shop.html"""
)
@namespace_option
@click.option(
    "--port",
    "ports",
    metavar="PORT",
    multiple=True,
    help="Only this port: 5432, 53/udp, 8000-8080/tcp, udp or icmp; repeatable.",
)
@manifests_option
@node_option
@config_option
@click.option("-o", "--output", type=click.Choice(_FORMS), default=_FORMS[0], show_default=True, help="Output format.")
@click.pass_context
def matrix(
    context: click.Context,
    *,
    namespace: str,
    ports: tuple[str, ...],
    manifests: Path | None,
    node: str,
    config: Path | None,
    output: str,
) -> None:
    """Show who reaches whom, by the policies in force: a row for each client, a column for each server.

    Pods that policies can't tell apart share a row and a column. These have the same namespace, and the same policies
    and rules select them: by their labels, by the ipBlocks that have their addresses, by their named ports. Pods of
    the host network, to which no policy applies, and Pods without an address, of which nothing is known, have rows of
    their own.

    With -n, only connections with an end in that namespace are judged, and Pods of other namespaces share a row where
    none of the verdicts differs.

    The page of -o html is one file that loads nothing; it shows the reason of a cell at a click. -o dot is for
    Graphviz, -o csv has a line for each cell.

    Policies alone are judged: whether a server listens, and routes between nodes, are not known here.

    Exit code 0: the whole matrix is shown; 2: it can't be made, or something in it is not known.
    """
    from nfagent.cli.backends import find_backend
    from nfagent.cli.output import write_remark
    from nfagent.simulate.asked_ports import asked_ports
    from nfagent.simulate.matrix_answer import MatrixRequest

    asked = MatrixRequest(namespace, asked_ports(ports))
    settings = view_settings_of(config, manifests, node)
    backend = find_backend(settings, from_files=manifests is not None)
    found = _collected(backend.matrix(asked))
    _write(found, asked, output)
    for note in found.notes:
        write_remark("warning", note)
    unknown = found.letters.count(b"u")
    if unknown:
        write_remark("not known", f"{unknown:,} of {len(found.letters):,} cells; the reasons are in -o html, csv, json")
    context.exit(2 if unknown else 0)


def _write(found: Matrix, asked: MatrixRequest, output: str) -> None:
    from nfagent.cli.output import emit, write_lines, write_whole

    match output:
        case "text":
            from nfagent.cli.matrix_text import matrix_lines

            write_lines(matrix_lines(found, asked))
        case "html":
            from nfagent.cli.matrix_page import matrix_page

            click.echo(matrix_page(found, asked), nl=False)
        case "dot":
            from nfagent.cli.matrix_files import dot_lines

            write_whole(dot_lines(found, asked))
        case "csv":
            from nfagent.cli.matrix_files import csv_lines

            for line in csv_lines(found, asked):
                click.echo(line)
        case _:
            from nfagent.cli.matrix_files import matrix_view

            emit(matrix_view(found, asked), "json")


def _collected(parts: Iterable[MatrixPart]) -> Matrix:
    """Return the whole matrix, with progress on a terminal. Raises HostError where the answer breaks off."""
    from nfagent.errors import HostError
    from nfagent.simulate.matrix_answer import Matrix

    found = Matrix()
    with _progress() as told:
        for part in parts:
            found.add(part)
            told(part)
    if not found.complete:
        raise HostError("the agent stopped before its answer was complete", hint="see: systemctl status nfagent")
    return found


@contextmanager
def _progress() -> Iterator[Callable[[MatrixPart], None]]:
    """Show on a terminal how much is done, on one line that is removed at the end."""
    shown = sys.stderr.isatty()
    words = {"pods": "grouped {:,} of {:,} Pods", "pairs": "judged {:,} of {:,} pairs"}

    def told(part: MatrixPart) -> None:
        if shown and part.total >= _LONG:
            click.echo(f"\r{words[part.stage].format(part.done, part.total)}\x1b[K", nl=False, err=True)

    try:
        yield told
    finally:
        if shown:
            click.echo("\r\x1b[K", nl=False, err=True)
