"""A matrix for other programs: JSON, CSV (RFC 4180), and a graph for Graphviz."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from nfagent.cli.matrix_text import allowed_text
from nfagent.model.plurals import counted
from nfagent.model.printable import printable
from nfagent.simulate.matrix_answer import Matrix, MatrixRequest, span_text

_CSV_HEADER = ("client", "client_pods", "server", "server_pods", "verdict", "allowed", "egress", "ingress")
_FORMULA = re.compile(r"[=+\-@\t\r]")


def matrix_view(found: Matrix, asked: MatrixRequest) -> dict[str, Any]:
    """Return the matrix as builtins for JSON.

    `cells` has one object for each pair that was judged; `egress` and `ingress` are positions in `said`, of which each
    is a list of ranges with the position of the reason in `reasons`.
    """
    return {
        "complete": b"u" not in found.letters,
        "notes": list(found.notes),
        "namespace": asked.namespace,
        "ports": [span_text(span) for span in asked.ports],
        "groups": msgspec.to_builtins(found.ends),
        "reasons": msgspec.to_builtins(found.reasons),
        "said": msgspec.to_builtins(found.said),
        "cells": list(_cells(found, asked)),
    }


def csv_lines(found: Matrix, asked: MatrixRequest) -> Iterator[str]:
    """Yield the lines of a CSV file: a header, then one for each pair that was judged."""
    yield _csv(_CSV_HEADER)
    for client, one in enumerate(found.ends):
        for server, other in enumerate(found.ends):
            verdict = found.verdict(client, server)
            if verdict is None:
                continue
            traffic = found.traffic(client, server)
            allowed = allowed_text(traffic, asked.ports) if verdict in {"some", "allowed"} else ""
            egress, ingress = (
                "; ".join(dict.fromkeys(found.reasons[number].words for number in numbers))
                for numbers in ([item.egress for item in traffic], [item.ingress for item in traffic])
            )
            yield _csv((one.name, str(one.pods), other.name, str(other.pods), verdict, allowed, egress, ingress))


def dot_lines(found: Matrix, asked: MatrixRequest) -> Iterator[str]:
    """Yield the lines of a directed graph: an arrow where something is allowed, dashed where a part of it is."""
    yield f"digraph {_quoted(asked.namespace or 'matrix')} {{"
    yield "  rankdir=LR; node [shape=box, style=rounded, fontname=sans]; edge [fontname=sans, fontsize=10];"
    yield "  // No arrow: denied, or nothing to judge. Dotted: not known."
    for number, end in enumerate(found.ends):
        style = "" if end.inside else ", color=gray50, fontcolor=gray30"
        yield f"  n{number} [label={_quoted(end.name, counted(end.pods, 'Pod'))}{style}];"
    for client in range(len(found.ends)):
        for server in range(len(found.ends)):
            match found.verdict(client, server):
                case "allowed":
                    yield f"  n{client} -> n{server};"
                case "some":
                    words = allowed_text(found.traffic(client, server), asked.ports)
                    yield f"  n{client} -> n{server} [style=dashed, label={_quoted(words)}];"
                case "unknown":
                    yield f'  n{client} -> n{server} [style=dotted, color=gray50, label="?"];'
    yield "}"


def _cells(found: Matrix, asked: MatrixRequest) -> Iterator[dict[str, Any]]:
    for client in range(len(found.ends)):
        for server in range(len(found.ends)):
            verdict = found.verdict(client, server)
            if verdict is None:
                continue
            egress, ingress = found.cell(client, server)
            cell: dict[str, Any] = {"client": client, "server": server, "verdict": verdict}
            if verdict == "some":
                cell["allowed"] = allowed_text(found.traffic(client, server), asked.ports)
            yield {**cell, "egress": egress, "ingress": ingress}


def _csv(row: tuple[str, ...]) -> str:
    """Return a line; a cell that a spreadsheet would take for a formula begins with an apostrophe."""
    written = io.StringIO()
    cells = [printable(cell) for cell in row]
    csv.writer(written, lineterminator="").writerow([f"'{cell}" if _FORMULA.match(cell) else cell for cell in cells])
    return written.getvalue()


def _quoted(*lines: str) -> str:
    r"""Return a string of the dot language: only `"` and `\` have a meaning in it; lines end with `\n`."""
    escaped = [printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(escaped) + '"'
