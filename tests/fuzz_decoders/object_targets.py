"""Targets: objects of the API server and of manifests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from nfagent.decode.object_decoder import DecodedObject, event_decoder, object_decoder
from nfagent.decode.registry import DECODERS
from nfagent.errors import DecodeError, NfagentError, ValidationIssue
from nfagent.kube.discovery import decode_discovery
from nfagent.kube.list_decoder import ListDecoder
from nfagent.kube.self_review import decode_access_review, decode_user, decode_version
from nfagent.kube.served_versions import decode_group, decode_resources
from nfagent.kube.watch_codec import (
    LineDecoder,
    ListPage,
    Status,
    decode_bookmark,
    decode_event,
    decode_page,
    decode_status,
)
from nfagent.manifests.file_content import read_documents
from nfagent.manifests.ip_masq_reader import decode_ip_masq_file
from nfagent.model.gvk import RESOURCES, SERVICES
from nfagent.reporting.lease import decode_lease
from tests.fuzz_decoders.target import FuzzTarget, pieces
from tests.support.apiserver_documents import added, bookmark, event, page, pod
from tests.support.valid_documents import VALID

_GOLDEN = Path(__file__).parents[1] / "golden"
_EXAMPLES = Path(__file__).parents[2] / "examples"
_READ = (*RESOURCES, SERVICES)
_DECODERS = tuple(object_decoder(resource) for resource in _READ)
_KINDS = tuple(resource.kind for resource in _READ)
_POD = next(resource for resource in RESOURCES if resource.kind == "Pod")
_NAMES = (
    *("apiVersion", "kind", "metadata", "name", "namespace", "labels", "spec", "status", "resourceVersion"),
    *("podSelector", "matchLabels", "matchExpressions", "operator", "values", "NotIn", "Exists", "ingress", "from"),
    *("ports", "endPort", "ipBlock", "cidr", "except", "policyTypes", "action", "priority", "tier", "podIPs", "ip"),
    *("10.0.0.0/8", "::/0", "::ffff:10.0.0.1", "fe80::1%eth0", "type", "object", "ADDED", "BOOKMARK", "items"),
)
_WORDS = (
    *(f'"{name}"'.encode() for name in _NAMES),
    *(b"null", b"true", b"-0", b"1e999", b"\\ud800", b"18446744073709551616", b"[[[[[[[[", b'{"a":{"a":{"a":'),
)


@cache
def documents() -> tuple[dict[str, Any], ...]:
    """Return a valid document of each kind, with its apiVersion."""
    named: dict[object, tuple[str, str]] = {decode: key for key, decode in DECODERS.items()}
    return tuple({"apiVersion": named[decode][0], "kind": named[decode][1], **valid} for decode, valid in VALID.items())


def _read_object(content: bytes) -> None:
    """Decode the object of the kind that the first byte picks."""
    if not content:
        return
    found = _DECODERS[content[0] % len(_DECODERS)](content[1:])
    assert isinstance(found, DecodedObject | ValidationIssue)
    if isinstance(found, DecodedObject) and found.item is not None:
        assert found.item.ref == found.ref
        hash(found.item)
        msgspec.json.encode(found.item)


def _object_seeds() -> Iterator[bytes]:
    for document in documents():
        yield bytes([_KINDS.index(document["kind"])]) + json.dumps(document).encode()


def _read_manifest(name: str, content: bytes) -> None:
    found = read_documents(name, content.decode("utf-8", "surrogateescape"))
    for issue in (found,) if isinstance(found, ValidationIssue) else found.problems:
        assert issue.reason
        assert str(issue)


def _read_yaml(content: bytes) -> None:
    _read_manifest("file.yaml", content)


def _read_json(content: bytes) -> None:
    _read_manifest("file.json", b"{" + content)


def _yaml_seeds() -> Iterator[bytes]:
    for file in sorted((*_GOLDEN.glob("*.yaml"), *_EXAMPLES.rglob("*.yaml"))):
        # A document at a time: inputs are short.
        yield from (part.encode() for part in file.read_text().split("\n---\n"))
    yield b"apiVersion: v1\nkind: List\nitems:\n- &a {apiVersion: v1, kind: Pod, metadata: {name: x}}\n- *a\n"
    yield b"%YAML 1.1\n--- !!map\n? kind\n: 'Pod'\n...\n--- |\n  text\n"


def _json_seeds() -> Iterator[bytes]:
    for document in documents():
        yield json.dumps(document).encode()[1:]
    yield json.dumps({"apiVersion": "v1", "kind": "PodList", "items": [pod("a"), pod("b")]}).encode()[1:]


def _read_watch(content: bytes) -> None:
    """Decode a stream in pieces, as the reflector does: a Pod's event in one step, or type and object in two."""
    lines = LineDecoder()
    quick, decode = event_decoder(_POD), object_decoder(_POD)
    for piece in pieces(content):
        for line in lines.feed(piece):
            fast = quick(line)
            with suppress(DecodeError):
                word, found = decode_event(line)
                _read_event(word, found)
                read = decode(found)
                assert isinstance(read, DecodedObject | ValidationIssue)
                assert fast is None or fast == (word, read)


def _read_event(word: str, found: msgspec.Raw) -> None:
    if word == "ERROR":
        str(decode_status(found))
    with suppress(DecodeError):
        decode_bookmark(found)


def _watch_seeds() -> Iterator[bytes]:
    ended = event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
    for size in (127, 40, 170):
        yield bytes([size]) + added(pod("a", app="web"), pod("b", 2)) + bookmark("9") + event("DELETED", pod("a", 12))
        yield bytes([size]) + ended + b"\r\n\n" + event("MODIFIED", pod("a", 3, "fd00::1"))


def _read_list(content: bytes) -> None:
    """Decode a list in pieces, and as a whole: both have the same objects, but for space in front of the first."""
    split, parts, body = ListDecoder(), list[msgspec.Raw](), content[1:]
    for piece in pieces(content):
        parts += split.feed(piece)
    ends: list[ListPage | None] = []
    for read_end in (split.end, lambda: decode_page(body)):
        try:
            ends.append(read_end())
        except DecodeError:
            ends.append(None)
    rest, whole = ends
    if whole is not None:
        assert rest is not None
        read = [bytes(found).lstrip(b" \t\r\n") for found in (*parts, *rest.objects)]
        assert read == [bytes(found) for found in whole.objects]
    for found in (*parts, *(rest.objects if rest else ())):
        _DECODERS[_KINDS.index("Pod")](found)


def _list_seeds() -> Iterator[bytes]:
    owned = {**pod("c"), "metadata": {"name": "c", "ownerReferences": [{"kind": "A"}, {"kind": "B"}, {"kind": "C"}]}}
    for size in (0, 7, 140, 200):
        yield bytes([size]) + page(pod("a"), owned, pod("b", app="web"), rest="next")
        yield bytes([size]) + page()
    # A piece ends behind the bracket: the first object then has the space in front.
    yield bytes([49]) + b'{"metadata": {"resourceVersion": "1"}, "items": [ {"kind": "Pod"}, {"kind": "Pod"}]}'
    yield b"\x7f" + b'{"items": [{"metadata": {"name": "a"}} , {"kind": "Pod"}], "metadata": {"resourceVersion": "1"}}'


def _read_response(content: bytes) -> None:
    decode_discovery(content)
    for decode in (decode_group, decode_resources, decode_lease, decode_access_review, decode_user, decode_version):
        with suppress(NfagentError):
            decode(content)
    found = decode_status(content, 503)
    assert isinstance(found, Status)
    assert str(found)
    assert found.expired in {True, False}
    assert found.retry_after is None or isinstance(found.retry_after, float)


def _response_seeds() -> Iterator[bytes]:
    details = {"retryAfterSeconds": 3, "causes": [{"reason": "ResourceVersionTooLarge"}]}
    status = {"kind": "Status", "code": 504, "reason": "Timeout", "message": "try again", "details": details}
    yield json.dumps(status).encode()
    yield b"<html>502 Bad Gateway</html>"
    yield b'{"major": "1", "minor": "34+", "gitVersion": "v1.34.1"}'
    yield b'{"versions": [{"version": "v1"}], "resources": [{"name": "pods"}]}'
    yield b'{"status": {"allowed": true, "userInfo": {"username": "a", "groups": ["b"]}}}'
    lease = {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-31T12:00:00.000000Z"}
    yield json.dumps({"metadata": {"resourceVersion": "7"}, "spec": lease}).encode()
    group = {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [{"resource": "deployments"}]}]}
    yield json.dumps({"kind": "APIGroupDiscoveryList", "items": [group]}).encode()


def _read_ip_masq(content: bytes) -> None:
    _, issues = decode_ip_masq_file("/etc/config/ip-masq-agent", content)
    assert all(issue.object and issue.reason for issue in issues)


def _ip_masq_seeds() -> Iterator[bytes]:
    yield b"nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - 2001:db8::/32\nmasqLinkLocal: true\nresyncInterval: 60s\n"
    yield b'{"nonMasqueradeCIDRs": ["10.0.0.0/8"], "cidrs": ["1.2.3.4/32"], "masqLinkLocalIPv6": false}'
    yield b"nonMasqueradeCIDRs: &a [10.0.0.1/8, 0x10, 1:2]\n"


TARGETS = (
    FuzzTarget(name="objects", read=_read_object, seeds=_object_seeds, words=_WORDS),
    FuzzTarget(name="manifests-yaml", read=_read_yaml, seeds=_yaml_seeds, longest=768),
    FuzzTarget(name="manifests-json", read=_read_json, seeds=_json_seeds, words=_WORDS, longest=1024),
    FuzzTarget(name="watch-streams", read=_read_watch, seeds=_watch_seeds, words=_WORDS, longest=1024),
    FuzzTarget(name="list-responses", read=_read_list, seeds=_list_seeds, words=_WORDS, longest=1024),
    FuzzTarget(name="api-responses", read=_read_response, seeds=_response_seeds, words=_WORDS, longest=512),
    FuzzTarget(name="ip-masq-agent-file", read=_read_ip_masq, seeds=_ip_masq_seeds, longest=512),
)
