"""Which of the optional kinds an API server serves, and in which versions."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nfagent.model.gvk import RESOURCES, Resource

Served = frozenset[tuple[str, str]]
"""(apiVersion, plural), as kube.discovery returns them."""

OPTIONAL = tuple(resource for resource in RESOURCES if resource.optional)


class ResourceAvailability(msgspec.Struct, frozen=True):
    """Whether and in which versions one kind is served.

    served: in the version that nfagent reads
    others: the served versions, where that one isn't served
    """

    resource: Resource
    served: bool
    others: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """The version that nfagent reads, without its group."""
        return self.resource.api_version.rpartition("/")[2]

    @property
    def absent(self) -> bool:
        """Whether the kind is served in no version."""
        return not self.served and not self.others

    def __str__(self) -> str:
        """Return `NetworkLogging v1alpha1`, or `NetworkLogging served as v1, but read as v1alpha1`."""
        if self.served:
            return f"{self.resource.kind} {self.version}"
        served = f"served as {' and '.join(self.others)}" if self.others else "not served"
        return f"{self.resource.kind} {served}, but read as {self.version}"


def resource_availability(served: Served, resources: Iterable[Resource] = OPTIONAL) -> tuple[ResourceAvailability, ...]:
    """Return the availability of each kind."""
    return tuple(_serving(served, resource) for resource in resources)


def _serving(served: Served, resource: Resource) -> ResourceAvailability:
    if (resource.api_version, resource.plural) in served:
        return ResourceAvailability(resource, served=True)
    there = (version.rpartition("/") for version, plural in served if plural == resource.plural)
    return ResourceAvailability(
        resource, served=False, others=tuple(sorted(last for group, _, last in there if group == resource.group))
    )


class _GroupVersion(msgspec.Struct):
    version: str


class _Group(msgspec.Struct):
    versions: list[_GroupVersion] | None = None


class _Entry(msgspec.Struct):
    name: str


class _Resources(msgspec.Struct):
    resources: list[_Entry] | None = None


_GROUP = msgspec.json.Decoder(_Group)
_RESOURCES = msgspec.json.Decoder(_Resources)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_group(body: bytes) -> tuple[str, ...]:
    """Return a group's versions (meta/v1 APIGroup), where discovery isn't aggregated; () where it can't be read."""
    try:
        return tuple(each.version for each in _GROUP.decode(body).versions or ())
    except _UNREADABLE:
        return ()


def decode_resources(body: bytes) -> tuple[str, ...]:
    """Return the plurals of a group's version (meta/v1 APIResourceList); () where it can't be read."""
    try:
        return tuple(each.name for each in _RESOURCES.decode(body).resources or ())
    except _UNREADABLE:
        return ()
