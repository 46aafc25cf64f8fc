"""Expands lists among a file's documents: `kind: List`, and typed ones such as PodList."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from nfagent.manifests.document_parser import LocatedDocument


def entries(documents: Iterable[LocatedDocument]) -> Iterator[LocatedDocument]:
    """Return all documents, lists replaced by their items; items of typed lists may omit kind and apiVersion."""
    for line, document in documents:
        if document is None:
            continue
        if isinstance(document, dict) and is_list(document):
            for entry in document["items"] or ():
                yield line, _with_list_type(entry, document)
        else:
            yield line, document


def is_list(document: dict[str, Any]) -> bool:
    """Return whether an object is a list with items that can be read."""
    kind = document.get("kind")
    # The API server writes an empty list of items as null.
    return isinstance(kind, str) and kind.endswith("List") and isinstance(document.get("items", ""), list | None)


def is_container(document: dict[str, Any]) -> bool:
    """Return whether an object is a list, with readable items or not."""
    return is_list(document) or document.get("kind") == "List"


def _with_list_type(entry: object, around: dict[str, Any]) -> object:
    kind = str(around["kind"]).removesuffix("List")
    if not isinstance(entry, dict) or not kind or "kind" in entry:
        return entry
    return {"apiVersion": around.get("apiVersion"), "kind": kind, **entry}
