"""List and watch of one resource: the next request, and the changes that responses contain. Without I/O.

    listing ──last page──► watching        a list, where the server has no initial events
    initial ──end mark───► watching        initial events from the watch itself (`sendInitialEvents`)
    watching ──410───────► listing or initial
    any ──404────────────► missing         the server doesn't serve the kind; `relist` starts over

Changes are returned as they are decoded: objects that were added or modified, references of removed ones. Objects that
a complete list doesn't contain are removed at its end: an interrupted list removes nothing. A watch that ends is
continued from the last version that was read. There is no store beside the desired state, whose keys `keys` returns.

A list is served from the server's watch cache where possible: at version "0" first, which is any version, then not
older than what was read. Pages of a consistent read are requested where it isn't: after a list that was expired or
newer than the cache, and where the server doesn't cache the kind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.checkpoint.codec import with_in_force_note
from nfagent.decode.issue_tracker import IssueTracker
from nfagent.decode.object_decoder import DecodedObject, event_decoder, object_decoder
from nfagent.errors import DecodeError, ValidationIssue
from nfagent.kube.list_decoder import ListDecoder
from nfagent.kube.predecode import ObjectPredecoder
from nfagent.kube.reflector_requests import ADVICE, Key, LastGoodVersions, ReflectorRequest, WatchFailure
from nfagent.kube.watch_codec import LineDecoder, ListPage, Status, decode_bookmark, decode_event, decode_status
from nfagent.model.gvk import ObjectChange, Resource
from nfagent.model.objects import ObjectRef

PAGE_SIZE = 5000
_MISSING_AFTER = 3
"""How many 404s in a row make a kind missing that was served: a starting API server returns a few for its CRDs."""

Phase: TypeAlias = Literal["listing", "initial", "watching", "missing"]


class Reflector:
    """Lists and watches one resource.

    synced:   the resource was listed once, or is known to be missing
    listed:   the same since the last `relist`
    problems: objects that can't be decoded, or fail closed, each with its issues
    failure:  why the last response was of no use; None without a failure
    pending:  the changes of an incomplete list, for a caller that applies it as a whole; another list object when the
              list is complete, or begins again
    lists:    how many lists were read to their end
    """

    def __init__(
        self,
        resource: Resource,
        keys: Callable[[str], Collection[Key]],
        *,
        page_size: int = PAGE_SIZE,
        last_good: LastGoodVersions | None = None,
    ) -> None:
        """Start with no object read.

        keys:      returns the keys of a kind's objects in the desired state
        last_good: last good versions of the previous run; one stays in force where its object can't be decoded
        """
        self.resource = resource
        self.synced = False
        self.listed = False
        self.problems = IssueTracker[ObjectRef]()
        self.failure: WatchFailure | None = None
        self.pending: list[ObjectChange] = []
        self.lists = 0
        self.version = ""
        self.predecoder = ObjectPredecoder(object_decoder(resource), lambda: self._lines)
        self._read = self.predecoder.read
        self._read_event = event_decoder(resource)
        self._keys = keys
        self._last_good = last_good
        self._page_size = page_size
        self._initial_events = True
        self._consistent = False  # the next list must be a consistent read, without a version
        self._uncached = False  # the server keeps no watch cache of this kind
        self._phase: Phase = "initial"
        self._rest = ""
        self._lines = LineDecoder()
        self._body = ListDecoder()
        self._not_listed: set[Key] | None = None
        self._unmentioned: set[ObjectRef] = set()
        self._absences = 0
        self._failed_at = ""
        self._timed_out_at: str | None = None

    @property
    def phase(self) -> Phase:
        """The state in the diagram above."""
        return self._phase

    @property
    def missing(self) -> bool:
        """Whether the server doesn't serve the kind."""
        return self._phase == "missing"

    @property
    def _stopped(self) -> bool:
        return self.failure is not None

    def request(self, watch_seconds: int) -> ReflectorRequest:
        """Return the next request; the server ends a watch after that many seconds."""
        query = {"fieldSelector": self.resource.field_selector} if self.resource.field_selector else {}
        if self._phase == "listing":
            self._body = ListDecoder()
            return ReflectorRequest(self.resource.path, query | self._list_query(), watch=False)
        self._lines = LineDecoder()
        query |= {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(watch_seconds)}
        if self._phase == "initial":
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            if self.version and not self._consistent:
                # Not older than what was read: the server can serve that from its cache, without etcd.
                query["resourceVersion"] = self.version
        else:
            query["resourceVersion"] = self.version
        return ReflectorRequest(self.resource.path, query, watch=True)

    def feed_page(self, chunk: bytes) -> Iterator[ObjectChange]:
        """Decode a part of a page and return its changes. Where `failure` is set afterwards, the page is over."""
        self.failure = None
        yield from self._page_objects(self._body.feed(chunk))

    def end_page(self) -> Iterator[ObjectChange]:
        """End a page: return the changes of its rest and, after the last page, the removed objects."""
        self.failure = None
        try:
            page = self._body.end()
        except DecodeError as error:
            self._start_over("broken", str(error))
            return
        yield from self._page_objects(page.objects)
        if not self._stopped:
            yield from self._finish_page(page)

    def feed_watch(self, chunk: bytes) -> Iterator[ObjectChange]:
        """Decode a part of a watch and return its changes. Where `failure` is set afterwards, the watch is over."""
        self.failure = None
        try:
            lines = self._lines.feed(chunk)
            for line in lines:
                at_once = self._read_event(line)
                yield from self._event(*decode_event(line)) if at_once is None else self._object(*at_once)
                if self._stopped:
                    return
        except DecodeError as error:
            self._start_over("broken", str(error))

    def end(self, *, timed_out: bool = False) -> None:
        """End a watch or an interrupted response: the next request continues from what was read.

        timed_out: the read timeout expired. Once may be the connection. Twice at one version means that the server
                   waits for that version (after a restore of etcd, for example): then the next request lists
        Initial events without their end mark are a failure: they are read again.
        """
        if timed_out and self._phase == "watching":
            if self._timed_out_at == self.version:
                self.relist()
                return
            self._timed_out_at = self.version
        if self._phase == "initial":
            self._forget_list()
            self.failure = WatchFailure("refused", "the API server ended the initial events before they were complete")
        elif self._phase == "listing" and not self._rest:
            # The list starts over at another version, and what was read of this one doesn't count there.
            self._forget_list()

    @property
    def has_objects(self) -> bool:
        """Whether objects of the kind are in force, or were in the previous run of the agent."""
        in_force = bool(self._removed(self._keys(self.resource.kind)))
        return in_force or (self._last_good is not None and self._last_good.knows(self.resource.kind))

    def keep_in_force(self, reason: str) -> Iterator[ObjectChange]:
        """Keep the objects in force where the server has the kind only in versions that nfagent can't read.

        Returns the last good versions of the previous run, if this run hasn't listed the kind yet.
        """
        if not self.synced and self._last_good is not None:
            yield from self._last_good.of_kind(self.resource.kind)
        self._absences = 0
        self.synced = self.listed = True
        self._halt(WatchFailure("refused", reason))

    def end_with_error(self, code: int, body: bytes, retry_after: float | None = None) -> Iterator[ObjectRef]:
        """Note a response other than 200; return the removed objects, where the kind is no longer served."""
        status = decode_status(body, code)
        self.failure = None
        if status.expired:
            self._expire(status)
        elif code == _NOT_FOUND and self.resource.optional:
            yield from self._note_absent(status)
        elif code in {_BAD_REQUEST, _UNPROCESSABLE} and self._phase == "initial":
            self._initial_events = False
            self._start_over("again", "the API server has no initial events; listing")
        else:
            wait = retry_after if retry_after is not None else status.retry_after
            kind: Literal["busy", "refused"] = "busy" if code == _TOO_MANY or wait is not None else "refused"
            self._halt(WatchFailure(kind, f"{status}{ADVICE.get(code, '')}", wait))

    def list_only(self) -> None:
        """List without initial events, for a caller that doesn't watch."""
        self._initial_events = False
        self._restart()

    def relist(self) -> None:
        """Start over with a consistent read; for a kind that was missing, any version will do."""
        self._consistent = self._phase != "missing"
        self.listed = False
        self.version = ""
        self._restart()

    def _list_query(self) -> dict[str, str]:
        """Return the query of a list. With a limit, the server reads a version as exactly that version."""
        limit = {"limit": str(self._page_size)}
        if self._rest:
            return limit | {"continue": self._rest}
        if self._consistent or self._uncached:
            return limit
        if self.version:
            return {"resourceVersion": self.version, "resourceVersionMatch": "NotOlderThan"}
        # A watch cache ignores the limit here; without one, the limit keeps the response short.
        return limit | {"resourceVersion": "0"}

    def _page_objects(self, objects: Iterable[msgspec.Raw]) -> Iterator[ObjectChange]:
        for raw in objects:
            self._begin_list()
            found = self._note(self._read(raw))
            if found is not None:
                yield from self._list_object(found)
            if self._stopped:
                return

    def _finish_page(self, page: ListPage) -> Iterator[ObjectChange]:
        self._begin_list()
        if page.rest and not self._rest and not self._consistent and not self.version:
            self._uncached = True
        self._rest = page.rest
        if not page.rest:
            yield from self._end_list(page.version)

    def _event(self, event_type: str, raw: msgspec.Raw) -> Iterator[ObjectChange]:
        if event_type == "BOOKMARK":
            version, ends = decode_bookmark(raw)
            if self._phase == "initial" and ends:
                yield from self._end_list(version)
            elif self._phase == "watching":
                self.version = version or self.version
        elif event_type == "ERROR":
            self._error_event(decode_status(raw))
        elif event_type in {"ADDED", "MODIFIED", "DELETED"}:
            yield from self._object(event_type, self._read(raw))
        else:
            self._start_over("broken", f"the API server sent a watch event of type {event_type!r}")

    def _error_event(self, status: Status) -> None:
        """Note the error that ends a watch. A second one at the same version leads to a list."""
        if status.expired:
            self._expire(status)
        elif status.code == _TOO_MANY:
            self._halt(WatchFailure("busy", str(status), status.retry_after))
        elif self._phase == "watching" and self._failed_at == self.version:
            self._start_over("refused", str(status))
        else:
            self._failed_at = self.version
            self._halt(WatchFailure("refused", str(status), status.retry_after))

    def _object(self, event_type: str, read: DecodedObject | ValidationIssue) -> Iterator[ObjectChange]:
        """Return the change of an event's object."""
        found = self._note(read)
        if found is None:
            return
        if event_type == "DELETED":
            yield from self._deleted(found)
        elif self._phase == "initial":
            self._begin_list()
            yield from self._list_object(found)
        else:
            if found.item is not None:
                yield found.item
            elif found.problems and (found.ref.namespace, found.ref.name) in self._keys(self.resource.kind):
                self._note_in_force(found)
            self.version = found.version or self.version

    def _list_object(self, found: DecodedObject) -> Iterator[ObjectChange]:
        key = (found.ref.namespace, found.ref.name)
        item = found.item
        if item is None and found.problems:
            item = None if self._last_good is None else self._last_good.of_object(found.ref)
            if item is not None or key in (self._not_listed or ()):
                self._note_in_force(found)
        if self._not_listed:
            self._not_listed.discard(key)
        self._unmentioned.discard(found.ref)
        if item is not None:
            yield item

    def _note_in_force(self, found: DecodedObject) -> None:
        self.problems[found.ref] = tuple(map(with_in_force_note, found.problems))

    def _deleted(self, found: DecodedObject) -> Iterator[ObjectChange]:
        self.problems.pop(found.ref, None)
        # Objects of an incomplete list may not be in the desired state yet.
        certain = found.item is not None or self._phase != "watching"
        if certain or (found.ref.namespace, found.ref.name) in self._keys(self.resource.kind):
            yield found.ref
        if self._phase == "watching":
            self.version = found.version or self.version

    def _note(self, found: DecodedObject | ValidationIssue) -> DecodedObject | None:
        """Keep an object's issues; return None where the object can't be identified."""
        if isinstance(found, ValidationIssue):
            self._start_over("broken", str(found))
            return None
        if found.problems:
            self.problems[found.ref] = found.problems
        elif self.problems:
            self.problems.pop(found.ref, None)
        return found

    def _begin_list(self) -> None:
        if self._not_listed is None:
            self._not_listed = set(self._keys(self.resource.kind))
            self._unmentioned = set(self.problems)

    def _end_list(self, version: str) -> Iterator[ObjectChange]:
        if not version:
            self._start_over("broken", "the API server ended the initial events without a resourceVersion")
            return
        self._begin_list()  # an empty list begins at its end
        for ref in self._removed(self._not_listed or ()):
            yield ref
        for ref in self._unmentioned:
            self.problems.pop(ref, None)
        self._forget_list()
        self.lists += 1
        self._absences = 0
        self._failed_at = ""
        self._consistent = False
        self.version = version
        self._phase = "watching"
        self.synced = self.listed = True

    def _removed(self, keys: Collection[Key]) -> list[ObjectRef]:
        refs = [ObjectRef(self.resource.kind, namespace, name) for namespace, name in keys]
        return sorted(ref for ref in refs if self.resource.contains(ref))

    def _note_absent(self, status: Status) -> Iterator[ObjectRef]:
        """Note a 404 of the kind: where objects are in force, it takes several in a row to remove them."""
        self._absences += 1
        removed = self._removed(self._keys(self.resource.kind))
        if self.has_objects and self._absences < _MISSING_AFTER:
            self._start_over("refused", str(status))
            return
        yield from removed
        self.problems.clear()
        self._restart()
        self._phase = "missing"
        self.synced = self.listed = True
        self.failure = WatchFailure("missing", str(status))

    def _expire(self, status: Status) -> None:
        """List again. A watch's version is too old to continue from; a list not older than it is current."""
        if status.too_large:
            self.version = ""
        self._consistent = self._consistent or status.too_large or self._phase != "watching"
        self._start_over("expired", str(status))

    def _start_over(self, kind: Literal["again", "expired", "refused", "broken"], reason: str) -> None:
        """Drop what was being read, and start over with a list."""
        self.failure = WatchFailure(kind, reason)
        self._restart()

    def _halt(self, failure: WatchFailure) -> None:
        """Stop; the next request continues from what was read, except for initial events, which start over."""
        self.failure = failure
        if self._phase == "initial":
            self._forget_list()

    def _restart(self) -> None:
        self._forget_list()
        self._phase = "initial" if self._initial_events else "listing"

    def _forget_list(self) -> None:
        self._rest = ""
        self.pending = []
        self._not_listed = None
        self._unmentioned = set()


_BAD_REQUEST = 400
_NOT_FOUND = 404
_UNPROCESSABLE = 422
_TOO_MANY = 429
