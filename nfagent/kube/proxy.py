"""Which proxy a request goes through, as kubectl and every Go program choose it.

Source: golang.org/x/net/http/httpproxy. `HTTPS_PROXY` is for https servers and `HTTP_PROXY` for http ones, in capitals
or not; `NO_PROXY` lists what is asked directly: names (with everything below them), `.domain` or `*.domain` (only what
is below), addresses, each of these with `:port` or without, CIDRs, or `*` for all. The machine itself is never asked
through a proxy.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from nfagent.errors import ClusterError

_PORTS = {"http": "80", "https": "443"}


def environments_proxy(server: str, environment: Mapping[str, str]) -> str:
    """Name the proxy that the environment has for a server's URL; empty where it is asked directly."""
    parts = urlsplit(server)
    proxy = _variable(environment, f"{parts.scheme}_proxy")
    host = (parts.hostname or "").lower()
    if not proxy or _is_this_machine(host):
        return ""
    port = str(parts.port or "") or _PORTS.get(parts.scheme, "")
    if any(_covers(entry.strip().lower(), host, port) for entry in _variable(environment, "no_proxy").split(",")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def checked_proxy(proxy: str, origin: str) -> str:
    """Give a proxy's URL if it can be used. Raises ClusterError for what no HTTP proxy is.

    origin: where the URL comes from, in words
    """
    try:
        usable = urlsplit(proxy).scheme in _PORTS and bool(urlsplit(proxy).hostname)
    except ValueError:
        usable = False
    if not usable:
        raise ClusterError(
            f"proxy {without_password(proxy)} of {origin} can't be used",
            hint="write http://HOST:PORT or https://HOST:PORT (SOCKS isn't supported)",
        )
    return proxy


def without_password(url: str) -> str:
    """Show a URL to people: without the user and password that it may have."""
    scheme, mark, rest = url.rpartition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name.upper()) or environment.get(name) or ""


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _is_this_machine(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _covers(entry: str, host: str, port: str) -> bool:
    """Tell whether an entry of NO_PROXY, in lower case, is about a host. Entries that can't be read are about none."""
    if not entry or entry == "*":
        return entry == "*"
    address = _address(host)
    if "/" in entry:
        return address is not None and _contains(entry, address)
    name, only_port = _split(entry)
    if only_port not in {"", port} or not name:
        return False
    if (named := _address(name)) is not None:
        return named == address
    domain = name.removeprefix("*")
    if domain.startswith("."):
        return host.endswith(domain)
    return host == name or host.endswith(f".{name}")


def _contains(cidr: str, address: IPv4Address | IPv6Address) -> bool:
    try:
        network = ip_network(cidr, strict=False)
    except ValueError:
        return False
    return address.version == network.version and address in network


def _split(entry: str) -> tuple[str, str]:
    """Part `host:port` and `[::1]:port`; an IPv6 address without brackets has no port."""
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":")
    name, mark, port = entry.partition(":")
    return (name, port) if mark and ":" not in port else (entry, "")
