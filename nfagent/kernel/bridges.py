"""Linux bridges that Pods hang on, and whether netfilter sees what passes between their ports.

Frames from one port of a bridge to another are judged only where br_netfilter brings them to the forward hook. Each
network namespace switches it by sysctls, each family by its own, and a bridge may switch it on for itself. What is
seen here is of the network namespace of the thread that asks, wherever /sys was mounted.
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
"""The sysctl that switches a family on, for all bridges of a network namespace."""

_SYSCTL = Path("/proc/sys")


class Bridge(msgspec.Struct, frozen=True, order=True):
    """A bridge that connects veths, and the families that are judged between its ports."""

    name: str
    judged: tuple[Family, ...]


def bridges() -> list[Bridge]:
    """List the bridges of this network namespace that have a veth as a port, by name. Raises KernelError."""
    return sorted(bridge for bridge, index in _bridges() if _has_veth(index))


def unjudged_bridges() -> list[tuple[str, Family]]:
    """List the bridges whose Pods reach each other past the rules, and by which family. Raises KernelError."""
    families: tuple[Family, ...] = (4, 6) if (_SYSCTL / "net" / "ipv6").exists() else (4,)
    # Ports are looked for last, and only where it matters: a node has hundreds of them.
    return sorted(
        (bridge.name, family)
        for bridge, index in _bridges()
        if not set(families) <= set(bridge.judged) and _has_veth(index)
        for family in families
        if family not in bridge.judged
    )


def judged(bridge: Interface, switches: dict[Family, str | None]) -> tuple[Family, ...]:
    """Tell which families netfilter sees between a bridge's ports.

    switches: the value of each family's sysctl; None where there is none, as without the module br_netfilter: then
              the bridge's own option has no effect
    """
    return tuple(
        family for family, value in switches.items() if value is not None and (value != "0" or family in bridge.calls)
    )


def mending(families: Iterable[Family]) -> str:
    """Give the command that has packets of these families judged on every bridge of this network namespace."""
    wanted = [SWITCHES[family] for family in sorted(set(families))]
    module = "" if all(_read(name) is not None for name in wanted) else "modprobe br_netfilter && "
    return f"{module}sysctl -w {' '.join(f'{name}=1' for name in wanted)}"


class BridgeWatch:
    """Says in the log when packets between Pods on a bridge begin to pass the rules by, and when they no longer do."""

    def __init__(self) -> None:
        """Start with nothing said."""
        self._unjudged: frozenset[tuple[str, Family]] = frozenset()
        self._problem = ""

    def look(self) -> None:
        """Look now; takes a fraction of a millisecond. A kernel that doesn't answer is a line in the log."""
        try:
            now = frozenset(unjudged_bridges())
        except KernelError as error:
            if str(error) != self._problem:
                log.warning("whether packets within bridges are judged isn't known: %s", error)
            self._problem = str(error)
            return
        self._problem = ""
        fresh, mended = now - self._unjudged, self._unjudged - now
        self._unjudged = now
        if fresh:
            command = mending(family for _, family in fresh)
            log.warning(
                "packets between Pods on %s pass the rules by; for policies to hold: %s", in_words(fresh), command
            )
        if mended:
            log.info("mended: no packets between Pods on %s pass the rules by any more", in_words(mended))

    @property
    def unjudged(self) -> tuple[str, str]:
        """Give what `look` found last, in words, and the command that mends it; both '' where nothing is amiss."""
        if not self._unjudged:
            return "", ""
        return in_words(self._unjudged), mending(family for _, family in self._unjudged)

    async def run(self, seconds: float = 60.0) -> None:
        """Look now, and again every so many seconds, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(seconds)

    def status(self) -> list[dict[str, Any]]:
        """Give what `look` found last, for `dump state`: [{'bridge': 'cbr0', 'unjudged': ['IPv4', 'IPv6']}]."""
        return [
            {"bridge": bridge, "unjudged": [f"IPv{family}" for family in families]}
            for bridge, families in _by_bridge(self._unjudged).items()
        ]


def in_words(unjudged: Iterable[tuple[str, Family]]) -> str:
    """Name bridges and families: 'bridge cbr0 (IPv4, IPv6), bridge docker0 (IPv6)'."""
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
    """List all bridges, each with its index."""
    found = {link.index: link for link in _links("bridge") if link.kind == "bridge"}
    if not found:
        return []
    switches = {family: _read(name) for family, name in SWITCHES.items()}
    return [(Bridge(link.name, judged(link, switches)), index) for index, link in found.items()]


def _has_veth(bridge: int) -> bool:
    return any((link.kind, link.master) == ("veth", bridge) for link in _links("veth", bridge))


def _links(kind: str, master: int = 0) -> Iterator[Interface]:
    """List interfaces, more of them than were asked for where the kernel doesn't know the kind; some come twice."""
    try:
        with rtnetlink_socket() as opened:
            for part in listed_links(opened, kind, master):
                yield from part
    except OSError as error:
        raise KernelError(f"interfaces can't be listed: {os.strerror(error.errno or 0)}") from error
    except WireError as error:
        raise KernelError(f"interfaces can't be listed: {error}") from None


def _read(name: str) -> str | None:
    try:
        return (_SYSCTL / name.replace(".", "/")).read_text("ascii").strip()
    except OSError:
        return None
