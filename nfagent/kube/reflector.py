"""Following one resource: what to ask next, and what the answers change. Without I/O.

    listing ──last page──► watching        a list, where initial events aren't served
    initial ──end mark───► watching        initial events by the watch itself (`sendInitialEvents`)
    watching ──410───────► listing or initial
    any ──404────────────► missing         the server doesn't serve the kind; `look_again` starts anew

Changes are given as they are read: objects to put, names of those that are gone. What a complete list didn't name
is gone at its end, not before: a list that breaks off takes nothing away. A watch that ends goes on from the last
version that was read. The caller says what it holds already (`held`), so a list gives no more than the difference.

A list is one of the server's watch cache where that can serve it: of version "0" at first, whatever the cache holds,
then not older than what was read. Pages of a consistent read are asked for where it can't: after a list that was
expired or newer than the cache, and where the cache holds no objects of the kind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.checkpoint.codec import still_in_force
from nfagent.decode.issue_tracker import IssueTracker
from nfagent.decode.reader import DecodedObject, event_reader, reader
from nfagent.errors import DecodeError, ValidationIssue
from nfagent.kube.list_decoder import ListDecoder
from nfagent.kube.predecode import ObjectPredecoder
from nfagent.kube.reflector_requests import ADVICE, Key, LastGoodVersions, ObjectChange, ReflectorRequest, WatchFailure
from nfagent.kube.watch_codec import LineDecoder, ListPage, Status, decode_bookmark, decode_event, decode_status
from nfagent.model.gvk import Resource
from nfagent.model.objects import ObjectRef

PAGE_SIZE = 5000
_MISSING_AFTER = 3
"""How often a kind that was served must be found missing: an API server that starts says so of CRDs for a moment."""

Phase: TypeAlias = Literal["listing", "initial", "watching", "missing"]


class Reflector:
    """Follows one resource.

    synced:   everything was read once, or the kind is known to be missing
    listed:   so it was since the last `look_again`
    problems: objects that can't be read, or fail closed, each with what is wrong
    setback:  why the last answer led nowhere; None while all goes well
    pending:  what a list has given so far, for a caller who keeps that until the list is whole; another value when the
              list is over, or is to be read anew
    lists:    how many lists were read to their end
    """

    def __init__(
        self,
        resource: Resource,
        held: Callable[[str], Collection[Key]],
        *,
        page_size: int = PAGE_SIZE,
        last_good: LastGoodVersions | None = None,
    ) -> None:
        """Start with nothing read.

        held:      gives the keys of a kind's objects that are in force
        last_good: what an agent of before read last: it holds where an object can't be read from the start
        """
        self.resource = resource
        self.synced = False
        self.listed = False
        self.problems = IssueTracker[ObjectRef]()
        self.setback: WatchFailure | None = None
        self.pending: list[ObjectChange] = []
        self.lists = 0
        self.version = ""
        self.ahead = ObjectPredecoder(reader(resource), lambda: self._lines)
        self._read = self.ahead.read
        self._read_event = event_reader(resource)
        self._held = held
        self._last_good = last_good
        self._page_size = page_size
        self._initial_events = True
        self._consistent = False  # the next list must not be of a version that the cache or the caller names
        self._uncached = False  # the server keeps no watch cache of this kind
        self._phase: Phase = "initial"
        self._rest = ""
        self._lines = LineDecoder()
        self._body = ListDecoder()
        self._unlisted: set[Key] | None = None
        self._unmentioned: set[ObjectRef] = set()
        self._absences = 0
        self._failed_at = ""
        self._silent_at: str | None = None

    @property
    def phase(self) -> Phase:
        """Where it stands."""
        return self._phase

    @property
    def missing(self) -> bool:
        """Tell whether the server doesn't serve the kind."""
        return self._phase == "missing"

    @property
    def _stopped(self) -> bool:
        return self.setback is not None

    def request(self, watch_seconds: int) -> ReflectorRequest:
        """Give what to ask now; a watch is to end after so many seconds."""
        query = {"fieldSelector": self.resource.field_selector} if self.resource.field_selector else {}
        if self._phase == "listing":
            self._body = ListDecoder()
            return ReflectorRequest(self.resource.path, query | self._list_query(), watch=False)
        self._lines = LineDecoder()
        query |= {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(watch_seconds)}
        if self._phase == "initial":
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            if self.version and not self._consistent:
                # Not older than what was read: the server's cache can say that at once, without asking etcd.
                query["resourceVersion"] = self.version
        else:
            query["resourceVersion"] = self.version
        return ReflectorRequest(self.resource.path, query, watch=True)

    def take_part(self, chunk: bytes) -> Iterator[ObjectChange]:
        """Read bytes of a page: give what they change. Where `setback` is set after it, the page is over."""
        self.setback = None
        yield from self._page_objects(self._body.feed(chunk))

    def end_page(self) -> Iterator[ObjectChange]:
        """Take in that a page is complete: give what the rest of it changes, and with the last page what is gone."""
        self.setback = None
        try:
            page = self._body.end()
        except DecodeError as error:
            self._fall("broken", str(error))
            return
        yield from self._page_objects(page.objects)
        if not self._stopped:
            yield from self._turn_page(page)

    def take_chunk(self, chunk: bytes) -> Iterator[ObjectChange]:
        """Read bytes of a watch: give what they change. Where `setback` is set after it, the watch is over."""
        self.setback = None
        try:
            lines = self._lines.feed(chunk)
            for line in lines:
                at_once = self._read_event(line)
                yield from self._event(*decode_event(line)) if at_once is None else self._object(*at_once)
                if self._stopped:
                    return
        except DecodeError as error:
            self._fall("broken", str(error))

    def end(self, *, silent: bool = False) -> None:
        """Take in that a watch ended, or an answer broke off: the next request goes on from what was read.

        silent: it said nothing for too long. Once may be the connection; twice at one version means that the server
                waits for that version to come (its etcd is a backup of the day before, say): then a list is due
        Initial events without their end mark are a setback: what was read of them has to be read again.
        """
        if silent and self._phase == "watching":
            if self._silent_at == self.version:
                self.look_again()
                return
            self._silent_at = self.version
        if self._phase == "initial":
            self._forget_list()
            self.setback = WatchFailure("refused", "the API server ended the initial events before they were complete")
        elif self._phase == "listing" and not self._rest:
            # Read again from its beginning, of another version: what this one named says nothing about that.
            self._forget_list()

    @property
    def expected(self) -> bool:
        """Tell whether objects of the kind are in force, or were before the agent started."""
        held = bool(self._gone(self._held(self.resource.kind)))
        return held or (self._last_good is not None and self._last_good.knows(self.resource.kind))

    def withhold(self, reason: str) -> Iterator[ObjectChange]:
        """Take in that the server has the kind, in versions that aren't read: what was read of it before holds.

        Gives what an agent of before read, where this one hasn't read the kind yet.
        """
        if not self.synced and self._last_good is not None:
            yield from self._last_good.of_kind(self.resource.kind)
        self._absences = 0
        self.synced = self.listed = True
        self._halt(WatchFailure("refused", reason))

    def refuse(self, code: int, body: bytes, retry_after: float | None = None) -> Iterator[ObjectRef]:
        """Take in an answer that isn't 200; give what is gone, where the kind is served no more."""
        status = decode_status(body, code)
        self.setback = None
        if status.expired:
            self._expire(status)
        elif code == _NOT_FOUND and self.resource.optional:
            yield from self._absent(status)
        elif code in {_BAD_REQUEST, _UNPROCESSABLE} and self._phase == "initial":
            self._initial_events = False
            self._fall("again", "initial events aren't served; listing")
        else:
            wait = retry_after if retry_after is not None else status.retry_after
            kind: Literal["busy", "refused"] = "busy" if code == _TOO_MANY or wait is not None else "refused"
            self._halt(WatchFailure(kind, f"{status}{ADVICE.get(code, '')}", wait))

    def list_only(self) -> None:
        """List, for a caller who wants no watch."""
        self._initial_events = False
        self._restart()

    def look_again(self) -> None:
        """Start anew, from whatever the server has now; of a kind that it lacked, its cache says that."""
        self._consistent = self._phase != "missing"
        self.listed = False
        self.version = ""
        self._restart()

    def _list_query(self) -> dict[str, str]:
        """Give what a list is asked by: the server takes a limit beside a version as a read of exactly that one."""
        limit = {"limit": str(self._page_size)}
        if self._rest:
            return limit | {"continue": self._rest}
        if self._consistent or self._uncached:
            return limit
        if self.version:
            return {"resourceVersion": self.version, "resourceVersionMatch": "NotOlderThan"}
        # A watch cache passes over the limit here; without one, it keeps the answer short.
        return limit | {"resourceVersion": "0"}

    def _page_objects(self, objects: Iterable[msgspec.Raw]) -> Iterator[ObjectChange]:
        for raw in objects:
            self._begin_list()
            found = self._note(self._read(raw))
            if found is not None:
                yield from self._listed(found)
            if self._stopped:
                return

    def _turn_page(self, page: ListPage) -> Iterator[ObjectChange]:
        self._begin_list()
        if page.rest and not self._rest and not self._consistent and not self.version:
            self._uncached = True
        self._rest = page.rest
        if not page.rest:
            yield from self._end_list(page.version)

    def _event(self, word: str, raw: msgspec.Raw) -> Iterator[ObjectChange]:
        if word == "BOOKMARK":
            version, ends = decode_bookmark(raw)
            if self._phase == "initial" and ends:
                yield from self._end_list(version)
            elif self._phase == "watching":
                self.version = version or self.version
        elif word == "ERROR":
            self._failed(decode_status(raw))
        elif word in {"ADDED", "MODIFIED", "DELETED"}:
            yield from self._object(word, self._read(raw))
        else:
            self._fall("broken", f"the API server sent a watch event of type {word!r}")

    def _failed(self, status: Status) -> None:
        """Take in a watch's last event: what is wrong. The same again, without a step in between, ends in a list."""
        if status.expired:
            self._expire(status)
        elif status.code == _TOO_MANY:
            self._halt(WatchFailure("busy", str(status), status.retry_after))
        elif self._phase == "watching" and self._failed_at == self.version:
            self._fall("refused", str(status))
        else:
            self._failed_at = self.version
            self._halt(WatchFailure("refused", str(status), status.retry_after))

    def _object(self, word: str, read: DecodedObject | ValidationIssue) -> Iterator[ObjectChange]:
        """Take in an event's object."""
        found = self._note(read)
        if found is None:
            return
        if word == "DELETED":
            yield from self._deleted(found)
        elif self._phase == "initial":
            self._begin_list()
            yield from self._listed(found)
        else:
            if found.item is not None:
                yield found.item
            elif found.problems and (found.ref.namespace, found.ref.name) in self._held(self.resource.kind):
                self._say_in_force(found)
            self.version = found.version or self.version

    def _listed(self, found: DecodedObject) -> Iterator[ObjectChange]:
        key = (found.ref.namespace, found.ref.name)
        item = found.item
        if item is None and found.problems:
            item = None if self._last_good is None else self._last_good.of_object(found.ref)
            if item is not None or key in (self._unlisted or ()):
                self._say_in_force(found)
        if self._unlisted:
            self._unlisted.discard(key)
        self._unmentioned.discard(found.ref)
        if item is not None:
            yield item

    def _say_in_force(self, found: DecodedObject) -> None:
        self.problems[found.ref] = tuple(map(still_in_force, found.problems))

    def _deleted(self, found: DecodedObject) -> Iterator[ObjectChange]:
        self.problems.pop(found.ref, None)
        # What a list has given may not be held yet.
        certain = found.item is not None or self._phase != "watching"
        if certain or (found.ref.namespace, found.ref.name) in self._held(self.resource.kind):
            yield found.ref
        if self._phase == "watching":
            self.version = found.version or self.version

    def _note(self, found: DecodedObject | ValidationIssue) -> DecodedObject | None:
        """Keep what is wrong with an object; None where nobody knows which it is."""
        if isinstance(found, ValidationIssue):
            self._fall("broken", str(found))
            return None
        if found.problems:
            self.problems[found.ref] = found.problems
        elif self.problems:
            self.problems.pop(found.ref, None)
        return found

    def _begin_list(self) -> None:
        if self._unlisted is None:
            self._unlisted = set(self._held(self.resource.kind))
            self._unmentioned = set(self.problems)

    def _end_list(self, version: str) -> Iterator[ObjectChange]:
        if not version:
            self._fall("broken", "the API server ended the initial events without a version")
            return
        self._begin_list()  # an empty list has begun by its end
        for ref in self._gone(self._unlisted or ()):
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

    def _gone(self, keys: Collection[Key]) -> list[ObjectRef]:
        refs = [ObjectRef(self.resource.kind, namespace, name) for namespace, name in keys]
        return sorted(ref for ref in refs if self.resource.holds(ref))

    def _absent(self, status: Status) -> Iterator[ObjectRef]:
        """Take in that the server doesn't know the kind: where something is held, it must say so more than once."""
        self._absences += 1
        held = self._gone(self._held(self.resource.kind))
        if self.expected and self._absences < _MISSING_AFTER:
            self._fall("refused", str(status))
            return
        yield from held
        self.problems.clear()
        self._restart()
        self._phase = "missing"
        self.synced = self.listed = True
        self.setback = WatchFailure("missing", str(status))

    def _expire(self, status: Status) -> None:
        """List anew: a watch's version is too old to go on from, but a list not older than it is of now."""
        if status.unheard_of:
            self.version = ""
        self._consistent = self._consistent or status.unheard_of or self._phase != "watching"
        self._fall("expired", str(status))

    def _fall(self, kind: Literal["again", "expired", "refused", "broken"], reason: str) -> None:
        """Give up what was being read, and start anew: by a new list."""
        self.setback = WatchFailure(kind, reason)
        self._restart()

    def _halt(self, setback: WatchFailure) -> None:
        """Stop; the next request goes on from what was read, but for initial events, which begin anew."""
        self.setback = setback
        if self._phase == "initial":
            self._forget_list()

    def _restart(self) -> None:
        self._forget_list()
        self._phase = "initial" if self._initial_events else "listing"

    def _forget_list(self) -> None:
        self._rest = ""
        self.pending = []
        self._unlisted = None
        self._unmentioned = set()


_BAD_REQUEST = 400
_NOT_FOUND = 404
_UNPROCESSABLE = 422
_TOO_MANY = 429
