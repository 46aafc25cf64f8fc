"""A reflector and an API server that compacts, disconnects, refuses requests and lacks kinds at random.

In every history: nothing that was there all the time is ever taken away, and when the server is well again, what the
reflector gave is what the server has. Decoders take any bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.decode.object_decoder import object_decoder
from nfagent.errors import DecodeError, ValidationIssue
from nfagent.kube.discovery import decode_discovery
from nfagent.kube.reflector import Reflector
from nfagent.kube.reflector_requests import ReflectorRequest
from nfagent.kube.watch_codec import LineDecoder, decode_bookmark, decode_event, decode_page, decode_status
from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.model.gvk import RESOURCES, Resource
from nfagent.model.objects import ObjectRef, Pod
from tests.support.apiserver_documents import (
    Document,
    RecordingSink,
    bookmark,
    broken_pod,
    encoded,
    end_mark,
    error,
    event,
    page,
    pod,
    status,
)

BY_KIND = {resource.kind: resource for resource in RESOURCES}
PODS, EGRESS = BY_KIND["Pod"], BY_KIND["EgressNATPolicy"]
NAMES = ("a", "b", "c", "d")
PAGE_SIZE = 2
_FAULTS = ("cut", "cut", "429", "500", "410", "not found", "error event", "garbage", "fine", "fine", "fine", "fine")


def egress(name: str, version: int, number: int) -> Document:
    destination = {"cidr": f"203.0.{number}.0/24"}
    return {
        "metadata": {"name": name, "resourceVersion": str(version)},
        "spec": {"action": "NoSNAT", "destinations": [destination]},
    }


UNKNOWN_ERROR = {
    **status(504, "Timeout", "Too large resource version"),
    "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]},
}


class ModelServer:
    """The objects of an API server, and its history of events.

    version:  of the last change
    oldest:   nothing before it is remembered: a watch from before is refused, the rest of a list too
    streams:  initial events are served
    exists:   the kind is served
    cached:   the version that its watch cache has got to; None where it keeps none
    """

    def __init__(self, resource: Resource, *, streams: bool) -> None:
        self.resource = resource
        self.streams = streams
        self.exists = True
        self.cached: int | None = 1
        self.version = 1
        self.oldest = 1
        self.objects: dict[str, Document] = {}
        self._history: list[tuple[int, str, Document]] = []
        self._snapshots: dict[int, list[Document]] = {}
        self._past: dict[int, list[Document]] = {1: []}

    def write(self, name: str, number: int) -> None:
        """Create or change an object."""
        self.version += 1
        word = "MODIFIED" if name in self.objects else "ADDED"
        made = (
            pod(name, self.version, f"10.64.0.{number}")
            if self.resource is PODS
            else egress(name, self.version, number)
        )
        self.objects[name] = made
        self._history.append((self.version, word, made))
        self._past[self.version] = list(self.objects.values())

    def spoil(self, name: str) -> None:
        """Change a Pod to what can't be read."""
        self.version += 1
        self.objects[name] = broken_pod(name, self.version)
        self._history.append((self.version, "MODIFIED", self.objects[name]))
        self._past[self.version] = list(self.objects.values())

    def delete(self, name: str) -> None:
        """Delete an object; the event has the version of its deletion."""
        found = self.objects.pop(name, None)
        if found is None:
            return
        self.version += 1
        last = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.version)}}
        self._history.append((self.version, "DELETED", last))
        self._past[self.version] = list(self.objects.values())

    def catch_up(self) -> None:
        """Update the watch cache, if there is one."""
        self.cached = self.version if self.cached is not None else None

    def compact(self) -> None:
        """Compact the history."""
        self.oldest = self.version
        self._snapshots.clear()

    def uninstall(self) -> None:
        """Delete the kind: its objects go first."""
        for name in list(self.objects):
            self.delete(name)
        self.exists = False
        self.compact()

    def answer(self, request: ReflectorRequest) -> tuple[int, bytes]:
        """Return status and body; the body of a watch has all events up to now."""
        if not self.exists:
            return 404, encoded(status(404, "NotFound"))
        query = request.query
        if not request.watch:
            return self._page(query)
        if "sendInitialEvents" in query:
            if not self.streams:
                return 422, encoded(status(422, "Invalid"))
            lines = [event("ADDED", found) for found in self.objects.values()]
            return 200, b"".join([*lines, end_mark(str(self.version))])
        since = int(query["resourceVersion"])
        if since < self.oldest:
            return 410, encoded(status(410, "Expired"))
        return 200, self._events(since) + bookmark(str(self.version))

    def _events(self, since: int) -> bytes:
        return b"".join(event(word, found) for version, word, found in self._history if version > since)

    def _page(self, query: dict[str, str]) -> tuple[int, bytes]:
        wanted = query.get("resourceVersion", "")
        if "continue" in query:
            assert not wanted, "a page is of its list's version"
            return self._rest(*map(int, query["continue"].split(".")))
        if wanted and self.cached is not None:
            assert wanted == "0" or "limit" not in query, "a limit beside a version means exactly that one"
            if int(wanted) > self.cached:
                return 504, encoded(UNKNOWN_ERROR)
            return 200, page(*self._past[self.cached], version=str(self.cached))
        self._snapshots[self.version] = list(self.objects.values())
        if "limit" in query:
            return self._rest(self.version, 0)
        return 200, page(*self.objects.values(), version=str(self.version))

    def _rest(self, version: int, start: int) -> tuple[int, bytes]:
        if version not in self._snapshots:
            return 410, encoded(status(410, "Expired"))
        found = self._snapshots[version]
        end = start + PAGE_SIZE
        rest = f"{version}.{end}" if end < len(found) else ""
        return 200, page(*found[start:end], version=str(version), rest=rest)


class Follower:
    """A reflector, with an unreliable connection to the server."""

    def __init__(self, server: ModelServer, data: st.DataObject) -> None:
        self.server = server
        self.holder = RecordingSink()
        self.reflector = Reflector(server.resource, self.holder.keys, page_size=PAGE_SIZE)
        self._draw = data.draw

    def ask(self, fault: str = "fine") -> None:
        """Send one request, and process the response."""
        if self.reflector.missing:
            self.reflector.relist()
        request = self.reflector.request(300)
        code, body = self.server.answer(request)
        match fault:
            case "429" | "500" | "410":
                code, body = int(fault), encoded(status(int(fault), "No", retry_after=1))
            case "not found":
                code, body = 404, b""
            case "garbage":
                body = body[: len(body) // 2] + b"<html>\n" + body[len(body) // 2 :]
            case "error event":
                lines = body.splitlines(keepends=True)
                lines.insert(
                    self._draw(st.integers(0, len(lines))), error(self._draw(st.sampled_from([410, 429, 500])))
                )
                body = b"".join(lines)
        cut = fault == "cut"
        take = self.holder.take
        if code != 200:
            take(self.reflector.end_with_error(code, body))
        elif not request.watch:
            self._list(body[: self._draw(st.integers(0, len(body) - 1))] if cut else body, whole=not cut)
        else:
            self._stream(body[: self._draw(st.integers(0, len(body)))] if cut else body)

    def _list(self, body: bytes, *, whole: bool) -> None:
        for chunk in self._chunks(body):
            self.holder.take(self.reflector.feed_page(chunk))
            if self.reflector.failure is not None:
                return
        if whole:
            self.holder.take(self.reflector.end_page())
        else:
            self.reflector.end()

    def _stream(self, body: bytes) -> None:
        for chunk in self._chunks(body):
            self.holder.take(self.reflector.feed_watch(chunk))
            if self.reflector.failure is not None:
                return
        self.reflector.end()

    def _chunks(self, body: bytes) -> Iterator[bytes]:
        size = self._draw(st.sampled_from([3, 50, 1000]))
        return (body[start : start + size] for start in range(0, len(body), size))

    @property
    def held(self) -> dict[str, Any]:
        """The present objects by name: address or destination."""
        return {item.ref.name: _content(item) for item in self.holder.items.values()}


def _content(item: object) -> str:
    if isinstance(item, Pod):
        return item.addresses[0]
    assert isinstance(item, EgressNATPolicy)
    return str(item.destinations[0])


def _of(document: Document) -> str:
    spec = document["spec"]
    return str(document["status"]["podIPs"][0]["ip"] if "status" in document else spec["destinations"][0]["cidr"])


def _happens(server: ModelServer, data: st.DataObject) -> None:
    """Change every object except `a`, which is there from the first to the last."""
    what = data.draw(st.sampled_from(["write", "write", "delete", "compact", "streams", "catches up"]))
    name = data.draw(st.sampled_from(NAMES[1:]))
    match what:
        case "write":
            server.write(name, data.draw(st.integers(2, 9)))
        case "delete":
            server.delete(name)
        case "compact":
            server.compact()
        case "catches up":
            server.catch_up()
        case "streams":
            server.streams = not server.streams


def _until_quiet(follower: Follower) -> None:
    """Restore connection and cache: a list, its pages and a watch are a dozen requests at most."""
    follower.server.catch_up()
    for _ in range(12):
        follower.ask()
    assert follower.reflector.failure is None
    assert follower.reflector.phase == "watching"


@settings(max_examples=45)
@given(st.data(), st.sampled_from([PODS, EGRESS]), st.booleans())
def test_a_reflector_converges_to_the_servers_objects_in_every_history(
    data: st.DataObject,
    resource: Resource,
    streams: bool,  # noqa: FBT001 - drawn
) -> None:
    server = ModelServer(resource, streams=streams)
    server.write("a", 1)
    server.cached = data.draw(st.sampled_from([None, server.version]))
    follower = Follower(server, data)
    faults = [fault for fault in _FAULTS if fault != "not found" or resource is PODS]
    for _ in range(data.draw(st.integers(1, 15))):
        if data.draw(st.booleans()):
            _happens(server, data)
        known = "a" in follower.held
        follower.ask(data.draw(st.sampled_from(faults)))
        assert "a" in follower.held or not known, "it was there all the time"
        assert ObjectRef(resource.kind, "shop" if resource is PODS else "", "a") not in follower.holder.given
    _until_quiet(follower)
    assert follower.held == {name: _of(found) for name, found in server.objects.items()}
    assert follower.reflector.version == str(server.version)


@settings(max_examples=30)
@given(st.data())
def test_a_kind_may_come_and_go(data: st.DataObject) -> None:
    server = ModelServer(EGRESS, streams=True)
    server.exists = data.draw(st.booleans())
    follower = Follower(server, data)
    for _ in range(data.draw(st.integers(1, 12))):
        what = data.draw(st.sampled_from(["install", "uninstall", "happens", "nothing"]))
        if what == "uninstall" and server.exists:
            server.uninstall()
        elif what == "install":
            server.exists = True
        elif what == "happens" and server.exists:
            _happens(server, data)
        follower.ask(data.draw(st.sampled_from(_FAULTS)))
    server.catch_up()
    for _ in range(12):
        follower.ask()
    assert follower.held == {name: _of(found) for name, found in server.objects.items()}
    assert (follower.reflector.missing, follower.reflector.synced) == (not server.exists, True)


@settings(max_examples=20)
@given(st.data())
def test_what_cannot_be_read_holds_its_last_good_version_and_is_told(data: st.DataObject) -> None:
    server = ModelServer(PODS, streams=True)
    server.write("a", 1)
    follower = Follower(server, data)
    follower.ask()
    server.spoil("a")
    for _ in range(data.draw(st.integers(1, 8))):
        _happens(server, data)
        follower.ask(data.draw(st.sampled_from([fault for fault in _FAULTS if fault != "not found"])))
        assert follower.held["a"] == "10.64.0.1"
    _until_quiet(follower)
    assert set(follower.reflector.problems) == {ObjectRef("Pod", "shop", "a")}
    server.write("a", 7)
    follower.ask()
    assert (follower.held["a"], dict(follower.reflector.problems)) == ("10.64.0.7", {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "name", "namespace", "spec", "status", "items", "type", "object", "labels", "code"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
SOME_BYTES = st.one_of(
    st.binary(max_size=40),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda text, at, byte: text[: at % len(text)] + byte + text[at % len(text) + 1 :],
        st.sampled_from(
            [page(pod("a"), version="3"), event("ADDED", pod("a"))[:-1], end_mark("3")[:-1], encoded(status(410))]
        ),
        st.integers(0, 1000),
        st.binary(max_size=2),
    ),
)


@settings(max_examples=60)
@given(SOME_BYTES)
def test_decoders_take_any_bytes(body: bytes) -> None:
    with suppress(DecodeError):
        assert decode_page(body).version
    with suppress(DecodeError):
        word, found = decode_event(body)
        assert isinstance(word, str)
        decode_bookmark(found)
    assert str(decode_status(body, 500))
    assert isinstance(decode_discovery(body), frozenset | None)


@settings(max_examples=60)
@given(SOME_BYTES, st.sampled_from(RESOURCES))
def test_objects_are_read_or_a_problem_is_reported_for_any_bytes(body: bytes, resource: Resource) -> None:
    read = object_decoder(resource)(msgspec.Raw(body))
    assert isinstance(read, ValidationIssue) or (
        read.ref.kind == resource.kind and (read.item is None or read.item.ref == read.ref)
    )


@settings(max_examples=40)
@given(SOME_BYTES, SOME_BYTES, st.sampled_from(RESOURCES))
def test_a_reflector_takes_any_bytes_and_takes_nothing_away_for_them(
    body: bytes, more: bytes, resource: Resource
) -> None:
    holder = RecordingSink()
    reflector = Reflector(resource, lambda _: [("shop", "held")])
    reflector.request(300)
    holder.take(reflector.feed_watch(body + b"\n" + more))
    reflector.end()
    holder.take(reflector.end_with_error(500, body))
    assert holder.gone == "" or b"initial-events-end" in body


@given(st.lists(st.binary(max_size=6), max_size=6), st.integers(1, 9))
def test_lines_come_whole_however_they_are_split(lines: list[bytes], size: int) -> None:
    wanted = [line.replace(b"\n", b"") for line in lines]
    text = b"".join(line + b"\n" for line in wanted)
    reading = LineDecoder()
    found = [line for start in range(0, len(text), size) for line in reading.feed(text[start : start + size])]
    assert (found, reading.unfinished) == ([line for line in wanted if line.strip()], False)
