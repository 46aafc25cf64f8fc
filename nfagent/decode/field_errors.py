"""Reads an object field by field, and collects the errors of invalid fields.

An invalid field is a problem of the object. It is also named in `unread` if its last good value stays in force
(`retained_fields.with_last_good`); otherwise it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from nfagent.decode.fields import DocumentField
from nfagent.errors import ObjectError, ValidationIssue
from nfagent.model.objects import UNREADABLE, Labels

T = TypeVar("T")

_MOST_PROBLEMS = 8
"""Problems of one object that are reported in full; the others are counted."""


class FieldErrors:
    """The errors of one object's fields. A path is written as `spec.nodeName`."""

    def __init__(self, top: DocumentField) -> None:
        """Start without errors; `top` is the whole document."""
        self._top = top
        self._found: dict[ValidationIssue, None] = {}
        self._unread: dict[str, None] = {}

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """The problems, without duplicates; a last one counts those beyond the limit."""
        found = tuple(self._found)
        more = len(found) - _MOST_PROBLEMS
        if more <= 0:
            return found
        fields = "one more field can't" if more == 1 else f"{more} more fields can't"
        return (
            *found[:_MOST_PROBLEMS],
            ValidationIssue(object=self._top.owner, reason=f"{fields} be read; fix these first"),
        )

    @property
    def unread(self) -> tuple[str, ...]:
        """Names of the struct's fields that keep their last good value."""
        return tuple(self._unread)

    def add(self, error: ObjectError, keep: str = "") -> None:
        """Add an error; `keep`: the struct's field that keeps its last good value."""
        self._found[error.problem] = None
        if keep:
            self.keep(keep)

    def keep(self, name: str) -> None:
        """Keep the last good value of the struct's field."""
        self._unread[name] = None

    def read(self, path: str, read: Callable[[DocumentField], T], instead: T, keep: str = "") -> T:
        """Return the value of a field; on an error, add it and return `instead`."""
        try:
            return read(self._at(path))
        except ObjectError as error:
            self.add(error, keep)
            return instead

    def entries(self, path: str, read: Callable[[DocumentField], T], keep: str = "") -> list[T]:
        """Return the valid entries of a list; add the errors of the others."""
        return self.each(self.items(path, keep), read, keep)

    def items(self, at: str | DocumentField, keep: str = "") -> list[DocumentField]:
        """Return the entries of a list as fields; none if it isn't a list."""
        try:
            return list((self._at(at) if isinstance(at, str) else at).items())
        except ObjectError as error:
            self.add(error, keep)
            return []

    def each(self, fields: Iterable[DocumentField], read: Callable[[DocumentField], T], keep: str = "") -> list[T]:
        """Return the values of valid fields; add the errors of the others."""
        found: list[T] = []
        for field in fields:
            try:
                found.append(read(field))
            except ObjectError as error:
                self.add(error, keep)
        return found

    def labels(self, path: str) -> Labels:
        """Read a label map, sorted by key. An invalid value is UNREADABLE; an invalid map is one UNREADABLE pair.

        An invalid key is left out: no selector can have it.
        """
        try:
            field = self._at(path)
            given = field.mapping()
        except ObjectError as error:
            self.add(error, "labels")
            return ((UNREADABLE, UNREADABLE),)
        at = {key: f"{path}.{key}" if isinstance(key, str) else path for key in given}
        pairs = (self._label(DocumentField(field.owner, at[key], value), key) for key, value in given.items())
        return tuple(sorted(pair for pair in pairs if pair is not None))

    def _label(self, at: DocumentField, key: object) -> tuple[str, str] | None:
        try:
            read = DocumentField(at.owner, at.path, key).label_key()
        except ObjectError as error:
            self.add(error)
            return None
        try:
            return read, at.label_value()
        except ObjectError as error:
            self.add(error, "labels")
            return read, UNREADABLE

    def _at(self, path: str) -> DocumentField:
        field = self._top
        for key in path.split("."):
            field /= key
        return field
