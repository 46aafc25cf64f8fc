"""Ports that a person asks about, as text: `5432`, `5432/tcp`, `8000-8080/tcp`, `udp`, `icmp`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nfagent.errors import UsageError
from nfagent.simulate.class_verdicts import LAST_PORT, PROTOCOLS, PortSpan

_PORT = re.compile(r"(?P<first>\d{1,5})(-(?P<last>\d{1,5}))?(/(?P<protocol>tcp|udp|sctp))?", re.ASCII)
_PORTLESS = {"icmp", "icmpv6", "portless"}


def asked_ports(texts: Iterable[str]) -> tuple[PortSpan, ...]:
    """Return the ports, disjoint, in the order of PROTOCOLS. Raises UsageError."""
    spans = [_parse(text) for text in texts]
    found: list[PortSpan] = []
    for protocol in (*PROTOCOLS, "portless"):
        for span in sorted((span for span in spans if span.protocol == protocol), key=lambda span: span.first):
            last = found[-1] if found else None
            if last is not None and last.protocol == protocol and span.first <= last.last + 1:
                found[-1] = PortSpan(last.protocol, last.first, max(last.last, span.last))
            else:
                found.append(span)
    return tuple(found)


def _parse(text: str) -> PortSpan:
    wanted = text.lower()
    if wanted in _PORTLESS:
        return PortSpan("portless")
    for protocol in PROTOCOLS:
        if wanted == protocol:
            return PortSpan(protocol, 1, LAST_PORT)
    match = _PORT.fullmatch(wanted)
    if match is not None:
        first, last = int(match["first"]), int(match["last"] or match["first"])
        named = next((name for name in PROTOCOLS if name == match["protocol"]), PROTOCOLS[0])
        if 1 <= first <= last <= LAST_PORT:
            return PortSpan(named, first, last)
    raise UsageError(f"{text!r} is no port", hint="write one like 5432, 53/udp, 8000-8080/tcp, udp, or icmp")
