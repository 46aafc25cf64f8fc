"""What the schema of a CRD asks of mappings and lists: known fields, exactly one of them, so many entries.

A file has been through no API server, which would refuse, or silently drop, what isn't in the schema. A field
that isn't known may narrow what stands beside it, so it is a fault: it comes from a slip, or from a newer API.
Null is the same as absent. Everything here raises an ObjectError that says what to write instead.
"""

from __future__ import annotations

from nfagent.decode.fields import DocumentField

_TOP_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")


def known_fields(field: DocumentField, *names: str) -> None:
    """Refuse a mapping that has any other field than these."""
    for key, value in field.mapping().items():
        if value is None or key in names:
            continue
        if not isinstance(key, str):
            raise field.error(f"has a key that is no text; write only {_listed(names, 'and')}")
        raise (field / key).error(f"is not a field here; write only {_listed(names, 'and')}")


def known_top_fields(top: DocumentField) -> None:
    """Refuse an object that has any other field than objects of every kind: `Spec` for `spec` leaves that out."""
    for key, value in top.mapping().items():
        if value is not None and isinstance(key, str) and key and key not in _TOP_FIELDS:
            raise (top / key).error(f"is not a field here; write only {_listed(_TOP_FIELDS, 'and')}")


def only_field(field: DocumentField, *names: str) -> tuple[str, DocumentField]:
    """Give name and value of the one field that is set; it has to be one of these."""
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
    """Give the entries of a list, at least one and at most so many; `instead` says what to write without any."""
    found = list(field.items())
    if not found:
        raise field.error(f"is {'missing' if field.missing else 'empty'}; {instead}")
    at_most(field, most)
    return found


def at_most(field: DocumentField, most: int) -> None:
    """Refuse a list that has more entries."""
    count = len(list(field.items()))
    if count > most:
        raise field.error(f"has {count} entries; write at most {most}")


def _listed(names: list[str] | tuple[str, ...], last: str) -> str:
    *others, final = names
    return f"{', '.join(others)} {last} {final}" if others else final
