"""Linux bridges with Pods as ports, and whether netfilter filters traffic between the ports.

Packets from one port of a bridge to another are filtered only where br_netfilter passes them to the forward hook. Each
network namespace has a sysctl for it, one per address family, and a bridge may turn it on for itself. All reads are of
the network namespace of the calling thread, whichever /sys is mounted.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from nfagent.errors import KernelError, WireError
from nfagent.kernel.rtnetlink import listed_links, rtnetlink_socket
from nfagent.model.netaddr import Family
from nfagent.netlink.rtnl_link import Interface

log = logging.getLogger(__name__)

SWITCHES: dict[Family, str] = {4: "net.bridge.bridge-nf-call-iptables", 6: "net.bridge.bridge-nf-call-ip6tables"}
"""The sysctl that filters a family on all bridges of a network namespace."""

_SYSCTL = Path("/proc/sys")


class Bridge(msgspec.Struct, frozen=True, order=True):
    """A bridge with veth ports, and the address families that netfilter filters between its ports."""

    name: str
    filtered: tuple[Family, ...]


def bridges() -> list[Bridge]:
    """Return the bridges of this network namespace with at least one veth port, by name. Raises KernelError."""
    return sorted(bridge for bridge, index in _bridges() if _has_veth(index))


def unfiltered_bridges() -> list[tuple[str, Family]]:
    """Return the bridges on which traffic between Pods is not filtered, each with the family. Raises KernelError."""
    families: tuple[Family, ...] = (4, 6) if (_SYSCTL / "net" / "ipv6").exists() else (4,)
    # Ports are listed last, and only for unfiltered bridges: a node has hundreds of ports.
    return sorted(
        (bridge.name, family)
        for bridge, index in _bridges()
        if not set(families) <= set(bridge.filtered) and _has_veth(index)
        for family in families
        if family not in bridge.filtered
    )


def filtered_families(bridge: Interface, sysctls: dict[Family, str | None]) -> tuple[Family, ...]:
    """Return the families that netfilter filters between a bridge's ports.

    sysctls: the value of each family's sysctl, None where it doesn't exist. Without the module br_netfilter none
             exists, and the bridge's own option has no effect
    """
    return tuple(
        family for family, value in sysctls.items() if value is not None and (value != "0" or family in bridge.nf_call)
    )


def fix_command(families: Iterable[Family]) -> str:
    """Return the command that filters these families on every bridge of this network namespace."""
    wanted = [SWITCHES[family] for family in sorted(set(families))]
    module = "" if all(_path(name).exists() for name in wanted) else "modprobe br_netfilter && "
    return f"{module}sysctl -w {' '.join(f'{name}=1' for name in wanted)}"


class BridgeWatch:
    """Logs when traffic between Pods on a bridge stops being filtered, and when it is filtered again.

    unread: why the bridges can't be read, '' where they can: what is known of them is from before
    """

    def __init__(self) -> None:
        """Start without a reported bridge."""
        self._unfiltered: frozenset[tuple[str, Family]] = frozenset()
        self.unread = ""

    def refresh(self) -> None:
        """Read the bridges now, in a fraction of a millisecond. A failure is logged once."""
        try:
            now = frozenset(unfiltered_bridges())
        except KernelError as error:
            if str(error) != self.unread:
                log.warning("cannot check whether bridges are filtered: %s; retrying", error)
            self.unread = str(error)
            return
        self.unread = ""
        found, resolved = now - self._unfiltered, self._unfiltered - now
        self._unfiltered = now
        if found:
            command = fix_command(family for _, family in found)
            log.warning(
                "traffic between Pods on %s is not filtered: br_netfilter is off; run: %s",
                describe_bridges(found),
                command,
            )
        if resolved:
            log.info("resolved: traffic between Pods on %s is filtered or gone", describe_bridges(resolved))

    @property
    def unfiltered(self) -> tuple[str, str]:
        """Return the unfiltered bridges as text, and the command that fixes them; both '' where all are filtered."""
        if not self._unfiltered:
            return "", ""
        return describe_bridges(self._unfiltered), fix_command(family for _, family in self._unfiltered)

    @property
    def problem(self) -> str:
        """What isn't filtered, or why that isn't known; '' where all is filtered."""
        bridges = describe_bridges(self._unfiltered)
        unfiltered = f"traffic between Pods on {bridges} is not filtered: br_netfilter is off" if bridges else ""
        unread = f"cannot check whether bridges are filtered: {self.unread}" if self.unread else ""
        return "; ".join(filter(None, (unfiltered, unread)))

    async def run(self, seconds: float = 60.0) -> None:
        """Read the bridges now and every so many seconds, until cancelled."""
        while True:
            self.refresh()
            await asyncio.sleep(seconds)

    def status(self) -> list[dict[str, Any]]:
        """Return the unfiltered bridges for `dump state`: [{'bridge': 'cbr0', 'unjudged': ['IPv4', 'IPv6']}]."""
        return [
            {"bridge": bridge, "unjudged": [f"IPv{family}" for family in families]}
            for bridge, families in _by_bridge(self._unfiltered).items()
        ]


def describe_bridges(unjudged: Iterable[tuple[str, Family]]) -> str:
    """Return bridges and families as text: 'bridge cbr0 (IPv4, IPv6), bridge docker0 (IPv6)'."""
    return ", ".join(
        f"bridge {bridge} ({', '.join(f'IPv{family}' for family in families)})"
        for bridge, families in _by_bridge(unjudged).items()
    )


def _by_bridge(unjudged: Iterable[tuple[str, Family]]) -> dict[str, list[Family]]:
    found: dict[str, list[Family]] = {}
    for bridge, family in sorted(unjudged):
        found.setdefault(bridge, []).append(family)
    return found


def _bridges() -> list[tuple[Bridge, int]]:
    """Return all bridges, each with its interface index."""
    found = {link.index: link for link in _links("bridge") if link.kind == "bridge"}
    if not found:
        return []
    sysctls = {family: _read(name) for family, name in SWITCHES.items()}
    return [(Bridge(link.name, filtered_families(link, sysctls)), index) for index, link in found.items()]


def _has_veth(bridge: int) -> bool:
    return any((link.kind, link.master) == ("veth", bridge) for link in _links("veth", bridge))


def _links(kind: str, master: int = 0) -> Iterator[Interface]:
    """Read interfaces. A kernel without the kind returns all interfaces; an interrupted dump repeats some."""
    try:
        with rtnetlink_socket() as opened:
            for part in listed_links(opened, kind, master):
                yield from part
    except OSError as error:
        raise KernelError(f"cannot list interfaces: {os.strerror(error.errno or 0)}") from error
    except WireError as error:
        raise KernelError(f"cannot list interfaces: {error}") from None


def _path(name: str) -> Path:
    return _SYSCTL / name.replace(".", "/")


def _read(name: str) -> str | None:
    """Return a sysctl, None where there is none. Raises KernelError where it can't be read: it may have any value."""
    try:
        return _path(name).read_text("ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KernelError(f"cannot read {name}: {error.strerror or error}") from error
