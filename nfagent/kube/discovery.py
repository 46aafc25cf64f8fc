"""Which resources an API server serves: its aggregated discovery document.

One document names every group, version and resource. Requested with its ETag, it costs the server nothing while it
doesn't change. Source: apidiscovery.k8s.io/v2 APIGroupDiscoveryList; servers before 1.30 have it as v2beta1.
"""

from __future__ import annotations

import msgspec

ACCEPT = ",".join(
    [
        *(
            f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            for version in ("v2", "v2beta1")
        ),
        "application/json",
    ]
)
PATH = "/apis"


class _Resource(msgspec.Struct):
    resource: str


class _Version(msgspec.Struct):
    version: str
    resources: list[_Resource] | None = None


class _Metadata(msgspec.Struct):
    name: str = ""


class _Group(msgspec.Struct):
    metadata: _Metadata
    versions: list[_Version] | None = None


class _Groups(msgspec.Struct):
    kind: str
    items: list[_Group] | None = None


_GROUPS = msgspec.json.Decoder(_Groups)


def decode_discovery(body: bytes) -> frozenset[tuple[str, str]] | None:
    """Return (apiVersion, plural) of every resource in named groups; None where the document can't be read."""
    try:
        read = _GROUPS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if read.kind != "APIGroupDiscoveryList":
        return None
    return frozenset(
        (f"{group.metadata.name}/{version.version}", served.resource)
        for group in read.items or ()
        for version in group.versions or ()
        for served in version.resources or ()
    )
