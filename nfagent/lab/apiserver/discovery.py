"""What an API server serves, read from its aggregated discovery (apidiscovery.k8s.io/v2). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec

ROOTS = ("/api", "/apis")
ACCEPT = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class ServedResource(msgspec.Struct, frozen=True):
    """One served kind: its group ('' for v1), version, plural, and whether it is namespaced."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    has_status: bool
    verbs: frozenset[str]

    def path(self, namespace: str = "", name: str = "") -> str:
        """Return the path of one object; without a name, of all in a Namespace; without both, of all."""
        base = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"/namespaces/{quote(namespace)}" if self.namespaced and namespace else ""
        return f"{base}{inside}/{self.plural}" + (f"/{quote(name)}" if name else "")


def resources(listed: dict[str, Any]) -> Iterator[ServedResource]:
    """Read an APIGroupDiscoveryList; a group's preferred version comes first."""
    for group in listed["items"]:
        for version in group["versions"]:
            # A group whose extension server is unreachable has no resources.
            for entry in version.get("resources", ()):
                # An entry with subresources only has no kind.
                if entry.get("responseKind", {}).get("kind"):
                    yield ServedResource(
                        group=group["metadata"].get("name", ""),
                        version=version["version"],
                        kind=entry["responseKind"]["kind"],
                        plural=entry["resource"],
                        namespaced=entry["scope"] == "Namespaced",
                        has_status=any(part["subresource"] == "status" for part in entry.get("subresources", ())),
                        verbs=frozenset(entry["verbs"]),
                    )
