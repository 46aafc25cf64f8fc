"""Decoding of list pages, watch events, Status objects and lines."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from nfagent.errors import DecodeError
from nfagent.kube import watch_codec
from nfagent.kube.discovery import decode_discovery
from nfagent.kube.watch_codec import LineDecoder, decode_bookmark, decode_event, decode_page, decode_status
from tests.support.apiserver_documents import bookmark, encoded, end_mark, event, page, pod, status


def test_a_page_has_version_continue_token_and_objects() -> None:
    read = decode_page(page(pod("a"), pod("b"), version="7", rest="tok"))
    assert (read.version, read.rest, len(read.objects)) == ("7", "tok", 2)
    assert msgspec.json.decode(read.objects[1])["metadata"]["name"] == "b"


@pytest.mark.parametrize(
    "items",
    ['"items": null', '"items": []', '"more": 1'],
    ids=["items may be null", "items may be empty", "items may be left out"],
)
def test_a_list_without_objects(items: str) -> None:
    read = decode_page(f'{{"metadata": {{"resourceVersion": "7", "remainingItemCount": 3}}, {items}}}'.encode())
    assert (read.version, read.rest, read.objects) == ("7", "", ())


UNREADABLE_PAGES = {
    "nothing": b"",
    "a proxy's words": b"<html>captive portal</html>",
    "a list cut in its middle": page(pod("a"))[:-20],
    "a list": b"[]",
    "null": b"null",
    "items that are no list": b'{"metadata": {"resourceVersion": "7"}, "items": {}}',
    "no metadata": b'{"items": []}',
    "no version: a Status, which would read as an empty list": encoded(status(200)),
    "an empty version": page(version=""),
    "bytes that are no text": b'{"metadata": {"resourceVersion": "\xff"}}',
    "a shaft of brackets": b'{"items": [' + b"[" * 100_000,
    "a shaft of brackets in what isn't read": b'{"more": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", UNREADABLE_PAGES.values(), ids=UNREADABLE_PAGES)
def test_what_is_no_page_raises_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError, match="list of the API server can't be decoded"):
        decode_page(body)


def test_an_event_has_type_and_object() -> None:
    word, found = decode_event(event("MODIFIED", {"x": 1}))
    assert (word, msgspec.json.decode(found)) == ("MODIFIED", {"x": 1})


@pytest.mark.parametrize(
    "line",
    [
        b'{"type": "ADDED"}',
        b'{"object": {}}',
        b'{"type": 1, "object": {}}',
        b'{"type": "ADDED", "obj',
        b"null",
        b"\xff",
    ],
    ids=["no object", "no type", "a type that is no text", "half a line", "null", "bytes that are no text"],
)
def test_what_is_no_event_raises_a_decode_error(line: bytes) -> None:
    with pytest.raises(DecodeError, match="watch event of the API server can't be decoded"):
        decode_event(line)


BOOKMARKS = {
    "a bookmark moves the version on": (bookmark("12"), ("12", False)),
    "the end mark ends the initial events": (end_mark("12"), ("12", True)),
    "another annotation ends nothing": (
        event("BOOKMARK", {"metadata": {"resourceVersion": "12", "annotations": {"k8s.io/other": "true"}}}),
        ("12", False),
    ),
    "an end mark of false ends nothing": (
        event("BOOKMARK", {"metadata": {"annotations": {"k8s.io/initial-events-end": "false"}}}),
        ("", False),
    ),
}


@pytest.mark.parametrize(("line", "expected"), BOOKMARKS.values(), ids=BOOKMARKS)
def test_bookmarks(line: bytes, expected: tuple[str, bool]) -> None:
    assert decode_bookmark(decode_event(line)[1]) == expected


@pytest.mark.parametrize("found", ["5", "{}", "null", '{"metadata": {"resourceVersion": 5}}'])
def test_what_is_no_bookmark_raises_a_decode_error(found: str) -> None:
    with pytest.raises(DecodeError, match="bookmark of the API server can't be decoded"):
        decode_bookmark(msgspec.Raw(found.encode()))


FORBIDDEN = encoded(status(403, "Forbidden", "pods is forbidden"))
STATUSES = {
    "a Status reads as code, reason, message": (FORBIDDEN, 403, "403 Forbidden: pods is forbidden"),
    "the HTTP status stands in for a missing code": (b'{"reason": "Forbidden"}', 403, "403 Forbidden"),
    "a proxy's page is quoted on one line": (b"<html>\n  bad gateway\n</html>", 502, "502: <html> bad gateway </html>"),
    "no body at all": (b"", 503, "503"),
    "bytes that are no text": (b"\xffoops", 500, "500: �oops"),
    "fields of the wrong type": (b'{"code": "x"}', 500, '500: {"code": "x"}'),
    "nothing to go by": (b"{}", 0, "no reason given"),
}


@pytest.mark.parametrize(("body", "code", "words"), STATUSES.values(), ids=STATUSES)
def test_a_status_reads_as_one_line(body: bytes, code: int, words: str) -> None:
    assert str(decode_status(body, code)) == words


def test_an_invalid_status_of_an_error_event_has_a_message() -> None:
    assert str(decode_status(msgspec.Raw(b"5"))) == "no reason given"


def test_a_long_message_is_cut() -> None:
    long = "x" * 10_000
    assert len(str(decode_status(encoded(status(500, "Oops", long))))) < 600
    assert len(str(decode_status(long.encode(), 500))) < 600


EXPIRED = {
    "by its code": (status(410), True),
    "by its reason alone": (status(0, "Expired"), True),
    "by the older reason": (status(0, "Gone"), True),
    "where the version is of a future that the server doesn't know": (
        {
            **status(504, "Timeout", "Too large resource version"),
            "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]},
        },
        True,
    ),
    "not by another timeout": ({**status(504, "Timeout"), "details": {"causes": [{"reason": "Other"}]}}, False),
    "not by another code": (status(500, "InternalError", "Gone with the wind"), False),
}


@pytest.mark.parametrize(("document", "expected"), EXPIRED.values(), ids=EXPIRED)
def test_what_is_lost_is_reported(document: object, expected: bool) -> None:  # noqa: FBT001 - a table's column
    assert decode_status(encoded(document)).expired == expected


def test_a_status_has_the_seconds_to_wait() -> None:
    assert decode_status(encoded(status(429, "TooManyRequests", retry_after=7))).retry_after == 7
    assert decode_status(encoded(status(429))).retry_after is None


TEXT = b'{"a":1}\n\n{"b":2}\n  \n{"c":3}\n{"d"'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 1000])
def test_lines_are_the_same_for_every_split(size: int) -> None:
    lines = LineDecoder()
    found = [line for start in range(0, len(TEXT), size) for line in lines.feed(TEXT[start : start + size])]
    assert (found, lines.unfinished) == ([b'{"a":1}', b'{"b":2}', b'{"c":3}'], True)


def test_lines_that_end_leave_nothing_unfinished() -> None:
    lines = LineDecoder()
    assert (lines.feed(b"one\ntwo\n"), lines.unfinished, lines.feed(b"")) == ([b"one", b"two"], False, [])


def _in_parts(lines: LineDecoder, length: int) -> list[bytes]:
    return [line for _ in range(length) for line in lines.feed(b"x")]


def _at_once(lines: LineDecoder, length: int) -> list[bytes]:
    return lines.feed(b"x" * length)


@pytest.mark.parametrize("feed", [_in_parts, _at_once], ids=["in parts", "at once"])
def test_a_line_that_does_not_end_is_refused_in_time(
    feed: Callable[[LineDecoder, int], list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_codec, "LONGEST_LINE", 100)
    lines = LineDecoder()
    feed(lines, 100)
    assert lines.feed(b"\nnext") == [b"x" * 100]
    feed(lines, 96)
    with pytest.raises(DecodeError, match="longer than"):
        lines.feed(b"x")


GROUPS = {
    "kind": "APIGroupDiscoveryList",
    "items": [
        {
            "metadata": {"name": "networking.gke.io"},
            "versions": [
                {"version": "v1", "resources": [{"resource": "egressnatpolicies"}, {"resource": "other"}]},
                {"version": "v2", "freshness": "Stale"},
            ],
        },
        {"metadata": {"name": "empty.io"}},
    ],
}
DISCOVERIES = {
    "groups, versions and resources are named": (
        encoded(GROUPS),
        {("networking.gke.io/v1", "egressnatpolicies"), ("networking.gke.io/v1", "other")},
    ),
    "a server without any group": (b'{"kind": "APIGroupDiscoveryList"}', set()),
    "an older server's list says nothing of resources": (b'{"kind": "APIGroupList", "groups": []}', None),
    "a proxy's page says nothing": (b"<html>", None),
    "nothing says nothing": (b"", None),
}


@pytest.mark.parametrize(("body", "expected"), DISCOVERIES.values(), ids=DISCOVERIES)
def test_discovery(body: bytes, expected: set[tuple[str, str]] | None) -> None:
    assert decode_discovery(body) == expected
