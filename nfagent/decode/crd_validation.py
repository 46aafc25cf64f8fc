"""Schema checks of mappings and lists, as the API server does by a CRD: known fields, one-of fields, list lengths.

No API server has validated a file, which would refuse or silently drop unknown fields. An unknown field is an error,
a misspelling or from a newer API, since it may restrict the fields beside it. Null is the same as absent. All functions
raise ObjectErrors, which say what to write instead.
"""

from __future__ import annotations

from nfagent.decode.fields import DocumentField

_TOP_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")


def known_fields(field: DocumentField, *names: str) -> None:
    """Check that a mapping has no other fields. Raises ObjectError."""
    for key, value in field.mapping().items():
        if value is None or key in names:
            continue
        if not isinstance(key, str):
            raise field.error(f"has a key that is no text; write only {_listed(names, 'and')}")
        raise (field / key).error(f"is not a field here; write only {_listed(names, 'and')}")


def known_top_fields(top: DocumentField) -> None:
    """Check that an object has only the fields that all kinds share: `Spec` is an error. Raises ObjectError."""
    for key, value in top.mapping().items():
        if value is not None and isinstance(key, str) and key and key not in _TOP_FIELDS:
            raise (top / key).error(f"is not a field here; write only {_listed(_TOP_FIELDS, 'and')}")


def only_field(field: DocumentField, *names: str) -> tuple[str, DocumentField]:
    """Return name and value of the only field that is set, which must be one of `names`. Raises ObjectError."""
    choices = _listed(names, "or")
    given = [key for key, value in field.mapping().items() if value is not None]
    for key in given:
        if not isinstance(key, str):
            raise field.error(f"has a key that is no text; write {choices}")
        if key not in names:
            raise (field / key).error(f"is not a field here; write {choices}")
    if not given:
        raise field.error(f"is {'missing' if field.missing else 'empty'}; write {choices}")
    if len(given) > 1:
        raise field.error(f"has {_listed(given, 'and')} side by side; write one of them")
    return given[0], field / given[0]


def entries(field: DocumentField, most: int, instead: str) -> list[DocumentField]:
    """Return the entries of a list: at least one, at most `most`. Raises ObjectError.

    instead: hint in the error for an empty list
    """
    found = list(field.items())
    if not found:
        raise field.error(f"is {'missing' if field.missing else 'empty'}; {instead}")
    at_most(field, most)
    return found


def at_most(field: DocumentField, most: int) -> None:
    """Check that a list has at most `most` entries. Raises ObjectError."""
    count = len(list(field.items()))
    if count > most:
        raise field.error(f"has {count} entries; write at most {most}")


def _listed(names: list[str] | tuple[str, ...], last: str) -> str:
    *others, final = names
    return f"{', '.join(others)} {last} {final}" if others else final
