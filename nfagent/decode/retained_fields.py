"""Keeps the last good value of an object's invalid fields.

Without these values, policies in force would be lifted: no policy isolates a Pod without addresses, and no deny rule
selects a Node without its label. It is unknown which older entry of a list an invalid entry replaces. So older
addresses and ranges are kept for each family without a valid entry, and older named ports by name.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from nfagent.model.netaddr import Range, family_of
from nfagent.model.objects import (
    UNREADABLE,
    ContainerPort,
    Labels,
    Namespace,
    NetworkLogging,
    Node,
    Pod,
    ServiceCIDR,
)

Partial = TypeVar("Partial", Namespace, Node, Pod, ServiceCIDR, NetworkLogging)


def with_last_good(item: Partial, before: Partial | None) -> Partial:
    """Return the object with its unread fields taken from the version before, if there is one."""
    if not item.unread or before is None:
        return item
    kept = {name: _kept(name, getattr(item, name), getattr(before, name)) for name in item.unread}
    return msgspec.structs.replace(item, **kept)


def _kept(name: str, now: Any, before: Any) -> Any:  # noqa: ANN401 - a field's value, of the same type before and now
    match name:
        case "labels":
            return _labels(now, before)
        case "ports":
            return _ports(now, before)
        case "addresses":
            families = {family_of(address) for address in now}
            return (*now, *(address for address in before if family_of(address) not in families))
        case "cidrs" | "pod_cidrs":
            return _ranges(now, before)
        case _:
            return before


def _labels(now: Labels, before: Labels) -> Labels:
    if (UNREADABLE, UNREADABLE) in now:
        return before
    known = dict(before)
    return tuple((key, known.get(key, UNREADABLE) if value == UNREADABLE else value) for key, value in now)


def _ports(now: tuple[ContainerPort, ...], before: tuple[ContainerPort, ...]) -> tuple[ContainerPort, ...]:
    names = {port.name for port in now}
    return (*now, *(port for port in before if port.name not in names))


def _ranges(now: tuple[Range, ...], before: tuple[Range, ...]) -> tuple[Range, ...]:
    families = {item.family for item in now}
    return (*now, *(item for item in before if item.family not in families))
