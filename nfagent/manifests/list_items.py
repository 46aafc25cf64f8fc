"""A file's documents to objects: lists of them are opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from nfagent.manifests.yaml_loader import Document


def entries(documents: Iterable[Document]) -> Iterator[Document]:
    """Open lists: `kind: List`, and typed ones whose entries may leave kind and apiVersion out."""
    for line, document in documents:
        if document is None:
            continue
        if isinstance(document, dict) and is_list(document):
            for entry in document["items"] or ():
                yield line, _typed(entry, document)
        else:
            yield line, document


def is_list(document: dict[str, Any]) -> bool:
    """Tell whether an object is a list whose entries can be found."""
    kind = document.get("kind")
    # The API server writes an empty list of items as null.
    return isinstance(kind, str) and kind.endswith("List") and isinstance(document.get("items", ""), list | None)


def holds_others(document: dict[str, Any]) -> bool:
    """Tell whether an object is there for others alone, whether or not they can be found in it."""
    return is_list(document) or document.get("kind") == "List"


def _typed(entry: object, around: dict[str, Any]) -> object:
    kind = str(around["kind"]).removesuffix("List")
    if not isinstance(entry, dict) or not kind or "kind" in entry:
        return entry
    return {"apiVersion": around.get("apiVersion"), "kind": kind, **entry}
