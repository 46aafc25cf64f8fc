"""Reading an object field by field, so that one that can't be read takes no other along.

What can't be read is noted as a problem of the object, and in `unread` by the name of the struct's field where the
last good version's value stays in force (`last_good.with_last_good`). What isn't named there is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from nfagent.decode.fields import DocumentField
from nfagent.errors import ObjectError, ValidationIssue
from nfagent.model.objects import UNREADABLE, Labels

T = TypeVar("T")

_MOST_PROBLEMS = 8
"""Of one object; the rest is counted."""


class FieldErrors:
    """What can't be read of one object. Paths are written as `spec.nodeName`."""

    def __init__(self, top: DocumentField) -> None:
        """Start without any, at the top of the object's document."""
        self._top = top
        self._found: dict[ValidationIssue, None] = {}
        self._unread: dict[str, None] = {}

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """The problems, each once, the first ones in full."""
        found = tuple(self._found)
        more = len(found) - _MOST_PROBLEMS
        if more <= 0:
            return found
        fields = "one more field can't" if more == 1 else f"{more} more fields can't"
        return (
            *found[:_MOST_PROBLEMS],
            ValidationIssue(object=self._top.owner, reason=f"{fields} be read; mend these first"),
        )

    @property
    def unread(self) -> tuple[str, ...]:
        """The names of the struct's fields that stay as the last good version has them."""
        return tuple(self._unread)

    def note(self, error: ObjectError, keep: str = "") -> None:
        """Note what is wrong; `keep`: the struct's field whose last good value stays."""
        self._found[error.problem] = None
        if keep:
            self.keep(keep)

    def keep(self, name: str) -> None:
        """Have the last good value of the struct's field stay."""
        self._unread[name] = None

    def read(self, path: str, read: Callable[[DocumentField], T], instead: T, keep: str = "") -> T:
        """Read a field; note what is wrong with it, and return what stands in its place."""
        try:
            return read(self._at(path))
        except ObjectError as error:
            self.note(error, keep)
            return instead

    def entries(self, path: str, read: Callable[[DocumentField], T], keep: str = "") -> list[T]:
        """Read a list's entries; return those that can be read."""
        return self.each(self.items(path, keep), read, keep)

    def items(self, at: str | DocumentField, keep: str = "") -> list[DocumentField]:
        """Return a list's entries unread; none where it is no list."""
        try:
            return list((self._at(at) if isinstance(at, str) else at).items())
        except ObjectError as error:
            self.note(error, keep)
            return []

    def each(self, fields: Iterable[DocumentField], read: Callable[[DocumentField], T], keep: str = "") -> list[T]:
        """Read fields; return those that can be read."""
        found: list[T] = []
        for field in fields:
            try:
                found.append(read(field))
            except ObjectError as error:
                self.note(error, keep)
        return found

    def labels(self, path: str) -> Labels:
        """Read a label map, sorted by key; a value that can't be read is UNREADABLE, and so is a map that is none.

        A key that can't be read is left out: no selector can name it.
        """
        try:
            field = self._at(path)
            given = field.mapping()
        except ObjectError as error:
            self.note(error, "labels")
            return ((UNREADABLE, UNREADABLE),)
        at = {key: f"{path}.{key}" if isinstance(key, str) else path for key in given}
        pairs = (self._label(DocumentField(field.owner, at[key], value), key) for key, value in given.items())
        return tuple(sorted(pair for pair in pairs if pair is not None))

    def _label(self, at: DocumentField, key: object) -> tuple[str, str] | None:
        try:
            read = DocumentField(at.owner, at.path, key).label_key()
        except ObjectError as error:
            self.note(error)
            return None
        try:
            return read, at.label_value()
        except ObjectError as error:
            self.note(error, "labels")
            return read, UNREADABLE

    def _at(self, path: str) -> DocumentField:
        field = self._top
        for key in path.split("."):
            field /= key
        return field
