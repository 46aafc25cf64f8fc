"""An address and a TCP port to listen at, as a setting has them."""

from __future__ import annotations

import re

import msgspec

from nfagent.model.netaddr import AddressError, Family, canonical, family_of

_WRITTEN = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<four>[^\[\]:]+)):(?P<port>\d{1,5})", re.ASCII)
_LAST_PORT = 65535


class ListenAddress(msgspec.Struct, frozen=True):
    """A canonical address of this machine, or 0.0.0.0 or :: for all of them, and a TCP port."""

    host: str
    port: int

    @property
    def family(self) -> Family:
        """The address family."""
        return family_of(self.host)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host == "::1" or self.host.startswith("127.")

    def __str__(self) -> str:
        """Return it as it is written in the settings and in URLs."""
        return f"[{self.host}]:{self.port}" if self.family == 6 else f"{self.host}:{self.port}"


def parse_listen_address(written: str) -> ListenAddress:
    """Return ADDRESS:PORT, an IPv6 address in brackets. Raises AddressError: names aren't resolved."""
    match = _WRITTEN.fullmatch(written)
    if match is None or not 1 <= int(match["port"]) <= _LAST_PORT:
        raise AddressError("write ADDRESS:PORT, like 127.0.0.1:9464 or [::1]:9464")
    host = canonical(match["six"] or match["four"])
    if (family_of(host) == 4) != (match["six"] is None):
        raise AddressError("write an IPv6 address in brackets, an IPv4 address without: 127.0.0.1:9464, [::1]:9464")
    return ListenAddress(host, int(match["port"]))


def parse_loopback(written: str) -> ListenAddress:
    """Return ADDRESS:PORT of loopback. Raises AddressError."""
    found = parse_listen_address(written)
    if not found.is_loopback:
        raise AddressError(
            "write an address of loopback, like 127.0.0.1:9465 or [::1]:9465: nothing is encrypted, and who sees the "
            "token on a network could read the records; from another machine: ssh -L 9465:127.0.0.1:9465 NODE"
        )
    return found
