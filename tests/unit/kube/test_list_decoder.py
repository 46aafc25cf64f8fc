"""Incremental decoding of a list: the same objects for every split, and little memory."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from nfagent.errors import DecodeError
from nfagent.kube import list_decoder
from nfagent.kube.list_decoder import ListDecoder
from nfagent.kube.watch_codec import decode_page
from tests.support.apiserver_documents import page, pod

OWNED = {**pod("o"), "metadata": {"name": "o", "ownerReferences": [{"apiVersion": "v1"}, {"apiVersion": "v2"}]}}
HEIRS = {
    **pod("h"),
    "metadata": {
        "name": "h",
        "ownerReferences": [{"apiVersion": "v1", "kind": '}, {"kind": "\\'} for _ in range(9)],
    },
}
QUOTED = pod("s", words='"}, {"metadata": {"name": "no object"')
CUSTOM = {"apiVersion": "policy.example/v1", "kind": "EgressNATPolicy", "metadata": {"name": "e"}}


def compact(body: bytes) -> bytes:
    """Encode as the API server does: without spaces."""
    return json.dumps(json.loads(body), separators=(",", ":")).encode() + b"\n"


BODIES: dict[str, bytes] = {
    "an empty list": page(),
    "one without items": b'{"metadata":{"resourceVersion":"5"},"items":null}',
    "one object": page(pod("a")),
    "many objects": page(*(pod(name) for name in "abcdefgh"), rest="t"),
    "as the API server writes them": compact(page(pod("a"), pod("b"), pod("c"))),
    "objects with text that looks like the start of another": page(OWNED, QUOTED, OWNED, pod("a")),
    "objects that name their kind": compact(page(CUSTOM, CUSTOM, CUSTOM)),
    "objects with many owners": page(pod("a"), HEIRS, OWNED, HEIRS, pod("b")),
    "objects with many owners, as they come": compact(page(pod("a"), HEIRS, OWNED, HEIRS, pod("b"))),
    "objects that begin with anything": page({"spec": 1}, pod("a"), {"status": 2}, pod("b")),
    "the version behind the objects": b'{"items":[{"metadata":{}},{"metadata":{}}],"metadata":{"resourceVersion":"5"}}',
}


def read(body: bytes, size: int) -> tuple[list[object], str, str, int]:
    """Return all objects, version, continue token, and the number of objects before the end."""
    reading = ListDecoder()
    found = [raw for start in range(0, len(body), size) for raw in reading.feed(body[start : start + size])]
    last = reading.end()
    values = [msgspec.json.decode(raw) for raw in (*found, *last.objects)]
    return values, last.version, last.rest, len(found)


@pytest.mark.parametrize("size", [1, 3, 50, 100_000])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_decodes_to_the_same_objects_for_every_split(body: bytes, size: int) -> None:
    whole = decode_page(body)
    values, version, rest, _ = read(body, size)
    assert (version, rest) == (whole.version, whole.rest)
    assert values == [msgspec.json.decode(raw) for raw in whole.objects]


@pytest.mark.parametrize("body", [page(*(pod(name) for name in "abcdefgh")), BODIES["objects that name their kind"]])
def test_all_objects_but_the_last_are_returned_before_the_end(body: bytes) -> None:
    values, _, _, early = read(body, 100)
    assert early == len(values) - 1


BROKEN = {
    "nothing": b"",
    "what is no JSON": b"<html>",
    "a Status": b'{"kind":"Status","code":410}',
    "a list without a version": b'{"metadata":{},"items":[{"metadata":{}},{"metadata":{}}]}',
    "half a list": page(pod("a"), pod("b"))[:-20],
    "a list without its end": page(pod("a"), pod("b"))[:-2],
    "garbage between two objects": page(pod("a"), pod("b")).replace(b"}, {", b"}, x {"),
    "garbage behind the end": page(pod("a")) + b"x",
}


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_what_is_no_list_is_an_error_at_its_end(body: bytes, size: int) -> None:
    with pytest.raises(DecodeError):
        read(body, size)


class Counted:
    """The JSON decoder, and how many bytes it has read."""

    def __init__(self) -> None:
        self.bytes = 0
        self._decoder = msgspec.json.Decoder(msgspec.Raw)

    def decode(self, content: bytes) -> msgspec.Raw:
        self.bytes += len(content)
        return self._decoder.decode(content)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param({"metadata": {"ownerReferences": [{"apiVersion": "v1"}] * 5000}}, id="an object with many owners"),
        pytest.param({"spec": 1}, id="an object with another first field"),
    ],
)
def test_decoding_time_is_linear_in_the_size_of_the_body(
    first: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = compact(page(pod("a"), first, *(pod(f"p-{number}") for number in range(2000))))
    decoder = Counted()
    monkeypatch.setattr(list_decoder, "_ANY", decoder)
    assert len(read(body, 65536)[0]) == 2002
    assert decoder.bytes < 3 * len(body), "the decoder looks through a few parts twice"


class Searched:
    """The expression that finds the list, and how many bytes it has looked through."""

    def __init__(self) -> None:
        self.bytes = 0
        self._expression = list_decoder._ITEMS  # noqa: SLF001

    def search(self, content: bytearray, start: int = 0) -> re.Match[bytes] | None:
        found = self._expression.search(content, start)
        self.bytes += (len(content) if found is None else found.end()) - start
        return found


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"x" * 50_000, id="anything else"),
        pytest.param(b'"items" ' * 6_000, id="the name of the list alone"),
        pytest.param(b'"items":' + b" " * 50_000, id="the name of the list, and space"),
    ],
)
def test_a_body_whose_list_does_not_begin_is_looked_through_once(words: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"metadata": ' + words * 4
    expression = Searched()
    monkeypatch.setattr(list_decoder, "_ITEMS", expression)
    reading = ListDecoder()
    assert not [found for start in range(0, len(body), 1000) for found in reading.feed(body[start : start + 1000])]
    assert expression.bytes < 3 * len(body)
