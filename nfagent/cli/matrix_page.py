"""A matrix as one HTML page that loads nothing: its style and its script are in it, and its policy allows only these.

Strings of objects are in a JSON block, in which `<`, `>` and `&` are escaped; the script shows them as text.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

from nfagent.errors import UsageError
from nfagent.model.plurals import counted
from nfagent.model.printable import printable
from nfagent.simulate.matrix_answer import Matrix, MatrixEnd, MatrixRequest, span_text

MOST_GROUPS = 1500
"""Limit of a page: it has the square of this number of cells."""
_ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>Who reaches whom</h1>
<p>{scope}</p>
<p class="faint">By the policies in force; whether a server listens is not known here. A row is a client, a column a
server: Pods that policies can't tell apart. Press a cell for its reason, a name for all that it reaches.</p>
{notes}<noscript><p class="note">This page needs JavaScript. Without it: <code>nfagent matrix</code>.</p></noscript>
<div id="page" hidden>
<ul class="legend">
<li><b class="a">+</b> allowed</li>
<li><b class="s">~</b> allowed in part</li>
<li><b class="d">&minus;</b> denied</li>
<li><b class="u">?</b> not known</li>
<li><b class="n">·</b> no such connection</li>
</ul>
<div class="controls">
<label for="clients">Clients <input id="clients" type="search" autocomplete="off" placeholder="filter by name"></label>
<span id="clients-pages"><button type="button">previous rows</button> <button type="button">next rows</button></span>
<label for="servers">Servers <input id="servers" type="search" autocomplete="off" placeholder="filter by name"></label>
<span id="servers-pages"><button type="button">previous columns</button>
<button type="button">next columns</button></span>
</div>
<p id="shown" class="faint" role="status"></p>
<div class="both">
<div class="scroll" role="region" aria-label="matrix" tabindex="0">
<table id="grid" class="grid" role="grid" aria-label="Who reaches whom: arrow keys move, Enter shows the reason">
<thead></thead><tbody></tbody></table>
</div>
<section id="detail" class="detail" aria-live="polite" aria-label="reason" hidden></section>
</div>
</div>
</main>
<script type="application/json" id="matrix">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def matrix_page(found: Matrix, asked: MatrixRequest) -> str:
    """Return the page. Raises UsageError for a matrix that is too large for one."""
    if len(found.ends) > MOST_GROUPS:
        raise UsageError(
            f"{len(found.ends):,} groups of Pods are too many for a page: {MOST_GROUPS:,} at most",
            hint="narrow it with -n NS, or take -o json or csv",
        )
    style, script = _palette() + _asset("css"), _asset("js")
    where = f"namespace {asked.namespace}" if asked.namespace else "all namespaces"
    traffic = ", ".join(map(span_text, asked.ports)) or "all traffic"
    pods = counted(sum(end.pods for end in found.ends), "Pod")
    scope = f"{where}, {traffic}: {counted(len(found.ends), 'group')} of {pods}"
    return _PAGE.format(
        policy=(
            f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; "
            "form-action 'none'"
        ),
        title=_text(f"Who reaches whom: {where}"),
        style=style,
        script=script,
        scope=_text(scope),
        notes="".join(f'<p class="note">{_text(note)}</p>\n' for note in found.notes),
        data=json.dumps(_view(found, asked), separators=(",", ":")).translate(_ESCAPED),
    )


def _view(found: Matrix, asked: MatrixRequest) -> dict[str, Any]:
    return {
        "ports": [span_text(span) for span in asked.ports],
        "ends": [dict(_end(end)) for end in found.ends],
        "reasons": [[reason.allowed, printable(reason.words)] for reason in found.reasons],
        "said": [
            [[item.protocol, item.first, item.last, item.family, item.nodes, item.reason] for item in said]
            for said in found.said
        ],
        "letters": found.letters.decode(),
        "egress": found.egress.tolist(),
        "ingress": found.ingress.tolist(),
    }


def _end(end: MatrixEnd) -> Iterator[tuple[str, object]]:
    yield "name", printable(end.name)
    yield "pods", end.pods
    yield "namespaces", _printable(end.namespaces)
    yield "namespace_count", end.namespace_count
    yield "labels", _printable(end.labels)
    yield "label_sets", end.label_sets
    yield "names", _printable(end.names)
    yield "inside", end.inside
    yield "groups", end.groups


def _printable(texts: Iterable[str]) -> list[str]:
    return list(map(printable, texts))


def _text(words: str) -> str:
    return escape(printable(words))


def _asset(kind: str) -> str:
    return files("nfagent.cli").joinpath(f"matrix_page.{kind}").read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _palette() -> str:
    """Return the colours, which are those of the live page."""
    return files("nfagent.introspection.page").joinpath("files", "palette.css").read_text(encoding="utf-8")
