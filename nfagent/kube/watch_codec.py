"""Decoding of list pages, watch events and Status objects.

    list:   {"metadata": {"resourceVersion": …, "continue": …}, "items": [OBJECT, …]}
    watch:  {"type": "ADDED"|"MODIFIED"|"DELETED"|"BOOKMARK"|"ERROR", "object": OBJECT}, one to a line
    Status: {"code": …, "reason": …, "message": …, "details": {"retryAfterSeconds": …}}

Source: meta/v1 ListMeta, WatchEvent and Status; Kubernetes' "API concepts".
"""

from __future__ import annotations

import msgspec

from nfagent.errors import DecodeError

LONGEST_LINE = 32 * 1024 * 1024
"""Bytes; etcd takes objects of 1.5 MiB by default."""

_INITIAL_EVENTS_END = "k8s.io/initial-events-end"
_LONGEST_MESSAGE = 500


class _ListMetadata(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815 - the API's name
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class ListPage(msgspec.Struct, frozen=True):
    """A page of a list.

    version: the list's resourceVersion: a watch from there misses nothing
    rest:    the `continue` token of the next page; '' on the last
    """

    version: str
    rest: str
    objects: tuple[msgspec.Raw, ...]


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _BookmarkMetadata(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815 - the API's name
    annotations: dict[str, str] | None = None


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMetadata


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct):
    retryAfterSeconds: float | None = None  # noqa: N815 - the API's name
    causes: list[_Cause] | None = None


class Status(msgspec.Struct, frozen=True):
    """A Status object of an error response, or the text that was sent instead."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait."""
        return self.details.retryAfterSeconds if self.details is not None else None

    @property
    def expired(self) -> bool:
        """Whether the requested version or `continue` token is compacted, or newer than the server's newest."""
        return self.code == _GONE or self.reason in {"Expired", "Gone"} or self.too_large

    @property
    def too_large(self) -> bool:
        """Whether the requested version is newer than the server's newest."""
        causes = (self.details.causes if self.details is not None else None) or ()
        return any(cause.reason == "ResourceVersionTooLarge" for cause in causes)

    def __str__(self) -> str:
        """Return `403 Forbidden: message`."""
        title = " ".join(part for part in (str(self.code or ""), self.reason) if part)
        return ": ".join(part for part in (title, self.message[:_LONGEST_MESSAGE]) if part) or "no reason given"


_GONE = 410

_PAGE = msgspec.json.Decoder(_List)
_EVENT = msgspec.json.Decoder(_Event)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)
_STATUS = msgspec.json.Decoder(Status)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_page(body: bytes) -> ListPage:
    """Decode a page of a list. Raises DecodeError."""
    try:
        read = _PAGE.decode(body)
    except _UNREADABLE as error:
        raise DecodeError(f"list of the API server can't be decoded: {error}") from None
    if not read.metadata.resourceVersion:
        # Not a list: it would decode as an empty one, which removes every object.
        raise DecodeError("list of the API server can't be decoded: it has no resourceVersion")
    return ListPage(read.metadata.resourceVersion, read.metadata.continue_, tuple(read.items or ()))


def decode_event(line: bytes) -> tuple[str, msgspec.Raw]:
    """Decode a line of a watch: the event's type, and its object. Raises DecodeError."""
    try:
        read = _EVENT.decode(line)
    except _UNREADABLE as error:
        raise DecodeError(f"watch event of the API server can't be decoded: {error}") from None
    return read.type, read.object


def decode_bookmark(found: msgspec.Raw) -> tuple[str, bool]:
    """Decode a bookmark: the version up to which all events were sent, and whether it ends the initial events.

    Raises DecodeError.
    """
    try:
        metadata = _BOOKMARK.decode(found).metadata
    except _UNREADABLE as error:
        raise DecodeError(f"bookmark of the API server can't be decoded: {error}") from None
    return metadata.resourceVersion, (metadata.annotations or {}).get(_INITIAL_EVENTS_END) == "true"


def decode_status(body: bytes | msgspec.Raw, code: int = 0) -> Status:
    """Decode a Status; another body (a proxy's page, or none) becomes one with the HTTP status code."""
    try:
        read = _STATUS.decode(body)
    except _UNREADABLE:
        text = bytes(body[:_LONGEST_MESSAGE] if isinstance(body, bytes) else b"").decode("utf-8", "replace")
        return Status(code=code, message=" ".join(text.split()))
    return msgspec.structs.replace(read, code=read.code or code)


class LineDecoder:
    """Splits the bytes of a watch into lines."""

    def __init__(self) -> None:
        """Start at the beginning of a line."""
        self._begun: list[bytes] = []
        self._length = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add bytes; return the lines that they complete. Raises DecodeError for a line that is too long."""
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines:
            lines[0] = b"".join([*self._begun, lines[0]])
            self._begun, self._length = [], 0
        self._keep(rest)
        return [line for line in lines if line.strip()]

    def ended_by(self, chunk: bytes, least: int) -> bytes | None:
        """Return the line that this chunk completes, if `least` bytes of it are buffered; the chunk isn't added."""
        rest, end, _ = chunk.partition(b"\n") if self._length >= least else (b"", b"", b"")
        return b"".join([*self._begun, rest]) if end else None

    def _keep(self, part: bytes) -> None:
        if part:
            self._begun.append(part)
            self._length += len(part)
        if self._length > LONGEST_LINE:
            raise DecodeError(f"watch event of the API server is longer than {LONGEST_LINE >> 20} MiB")

    @property
    def unfinished(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._begun)
