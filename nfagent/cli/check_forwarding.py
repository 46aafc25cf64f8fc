"""The checks whether this node forwards packets, for `nfagent check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nfagent.cli.check_result import Check

_SYSCTL = Path("/proc/sys")
_ADDRESSES = Path("/proc/net/if_inet6")
_GLOBAL = b"00"
"""The scope of an address in if_inet6 that isn't link-local, site-local or loopback; unique local ones have it too."""


def forwarding_checks(sysctls: Path = _SYSCTL, addresses: Path = _ADDRESSES) -> Iterator[Check]:
    """Yield a check for each family. IPv6 that this node doesn't have needs no forwarding."""
    yield _checked("IPv4", _value(sysctls, "net/ipv4/ip_forward"), "net.ipv4.ip_forward", "Pods reach nothing")
    value = _value(sysctls, "net/ipv6/conf/all/forwarding")
    if value == "0" and not _has_global(addresses):
        disabled = _value(sysctls, "net/ipv6/conf/all/disable_ipv6") == "1"
        why = "IPv6 is disabled here (net.ipv6.conf.all.disable_ipv6)" if disabled else "no interface has an address"
        beyond = "" if disabled else " of IPv6 beyond link-local"
        yield Check("IPv6 forwarding", "ok", f"off, and not needed: {why}{beyond}")
        return
    yield _checked("IPv6", value, "net.ipv6.conf.all.forwarding", "Pods with IPv6 addresses reach nothing by them")


def _checked(family: str, value: str | None, sysctl: str, cost: str) -> Check:
    name = f"{family} forwarding"
    if value is None:
        return Check(name, "ok", f"this kernel has no {family}")
    if value == "0":
        return Check(name, "warn", f"off: {cost} outside their node", f"sysctl -w {sysctl}=1")
    return Check(name, "ok", "on")


def _has_global(addresses: Path) -> bool:
    try:
        lines = addresses.read_bytes().split(b"\n")  # an interface's name is any bytes
    except OSError:
        return False
    return any(line.split()[3] == _GLOBAL for line in lines if len(line.split()) > 3)


def _value(sysctls: Path, name: str) -> str | None:
    try:
        return (sysctls / name).read_text("ascii").strip()
    except OSError:
        return None
