"""The documented behaviours of ip-masq-agent, one row each: its keys, their defaults, its flags, and bad lists."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from nfagent.config import MasqueradeSection, Settings
from nfagent.decode.ip_masq import decode_ip_masq
from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue

PRIVATE = "10.1.1.1 172.16.1.1 192.168.1.1"
RESERVED = "100.64.1.1 192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1 240.0.0.1 255.255.255.254"
PUBLIC = "8.8.8.8 2001:db8::8"
LINK_LOCAL = "169.254.1.1 fe80::1"


class Row(NamedTuple):
    """Configurations of the ConfigMap, one after the other, and settings; destinations that see the Pod or the node."""

    pod: str
    node: str
    configs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = MappingProxyType({})
    problem: str = ""


def listed(*cidrs: str, key: str = "nonMasqueradeCIDRs", **others: object) -> str:
    return json.dumps({key: cidrs, **others})


def many(count: int, limit: int = 64) -> str:
    return listed(*(f"2001:db8:{number:x}::/48" for number in range(count)), cidrLimit=limit)


NINE, ELEVEN = "9.0.0.0/8", "11.0.0.0/8"
BEFORE = listed(NINE)
KEPT, HIDDEN = "9.1.1.1", "11.1.1.1 10.1.1.1"

ROWS = {
    "without a ConfigMap the private ranges see Pods": Row(PRIVATE, f"{RESERVED} {PUBLIC}"),
    "without a ConfigMap link-local destinations see Pods": Row(LINK_LOCAL, PUBLIC),
    "an omitted list is the default list": Row(PRIVATE, RESERVED, ("resyncInterval: 60s",)),
    "an empty list hides Pods from all that isn't link-local": Row(LINK_LOCAL, f"{PRIVATE} {PUBLIC}", (listed(),)),
    "a null list does so too": Row(LINK_LOCAL, f"{PRIVATE} {PUBLIC}", ("nonMasqueradeCIDRs:",)),
    "a list replaces the default list": Row(KEPT, f"{PRIVATE} {PUBLIC}", (listed(NINE),)),
    "a list has ranges of both families, without a switch": Row(
        "9.1.1.1 2001:db8:1::1", PUBLIC, (listed(NINE, "2001:db8:1::/48"),)
    ),
    "YAML is read as JSON is": Row(KEPT, HIDDEN, ("nonMasqueradeCIDRs:\n- 9.0.0.0/8\n",)),
    "letter case of keys doesn't matter": Row(KEPT, HIDDEN, (f'{{"NonMasqueradeCidrs": ["{NINE}"]}}',)),
    "all reserved ranges see Pods where the setting is on": Row(
        f"{PRIVATE} {RESERVED}", PUBLIC, (), {"all_reserved_ranges": True}
    ),
    "but not with a list of one's own": Row(KEPT, RESERVED, (listed(NINE),), {"all_reserved_ranges": True}),
    "masqLinkLocal hides Pods from IPv4 link-local": Row("fe80::1", "169.254.1.1", ("masqLinkLocal: true",)),
    "masqLinkLocalIPv6 hides Pods from IPv6 link-local": Row("169.254.1.1", "fe80::1", ("masqLinkLocalIPv6: true",)),
    "a list that names link-local hides nothing of it": Row(LINK_LOCAL, HIDDEN, (listed(NINE),)),
    "an interval of 0s does no harm": Row(KEPT, HIDDEN, (listed(NINE, resyncInterval="0s"),)),
    "64 CIDRs are allowed": Row("2001:db8:3f::1", HIDDEN, (many(64),)),
    "65 are not, and leave the list before": Row(KEPT, "2001:db8:3f::1", (BEFORE, many(65)), {}, "cidrLimit 64"),
    "1,000 are, with a limit of 1,000": Row("2001:db8:3e7::1", HIDDEN, (many(1000, 1000),)),
    "an invalid list without one before is the default list": Row(
        PRIVATE, "9.1.1.1", (listed("9.0.0.1/8"),), {}, "has host bits set; write 9.0.0.0/8"
    ),
    "host bits leave the list before": Row(KEPT, HIDDEN, (BEFORE, listed("11.0.0.1/8")), {}, "host bits"),
    "what is no CIDR leaves the list before": Row(KEPT, HIDDEN, (BEFORE, listed(ELEVEN, "x")), {}, "is not a CIDR"),
    "a text that can't be read at all leaves it too": Row(KEPT, HIDDEN, (BEFORE, "nonMasqueradeCIDRs: x"), {}, "list"),
    "an IPv4-mapped CIDR leaves the list before": Row(
        KEPT, HIDDEN, (BEFORE, listed("::ffff:11.0.0.0/104")), {}, "is an IPv4-mapped IPv6 CIDR; write it as"
    ),
    "the link-local switch of a refused list holds": Row(
        f"{KEPT} fe80::1", "169.254.1.1", (BEFORE, listed("x", masqLinkLocal=True)), {}, "is not a CIDR"
    ),
    "duplicates count once": Row(KEPT, HIDDEN, (listed(NINE, NINE),)),
    "CIDRs within others are part of them": Row(KEPT, HIDDEN, (listed(NINE, "9.1.0.0/16", "9.1.1.1/32"),)),
    "the whole IPv4 space sees Pods, and IPv6 doesn't": Row("8.8.8.8 11.1.1.1", "2001:db8::8", (listed("0.0.0.0/0"),)),
    "class E in the list sees Pods": Row("240.0.0.1", "239.1.1.1", (listed("240.0.0.0/4"),)),
    "only the inverse list hides Pods": Row(
        f"{PRIVATE} 8.8.8.8 2001:db8::8",
        "9.1.1.1 2001:db8:1::1",
        (listed(NINE, "2001:db8:1::/48", key="masqueradeCIDRs"),),
    ),
    "an empty inverse list hides them nowhere": Row(f"{PRIVATE} {PUBLIC}", "", (listed(key="masqueradeCIDRs"),)),
    "an inverse list of everything hides them but from link-local": Row(
        LINK_LOCAL, f"{PRIVATE} {PUBLIC}", (listed("0.0.0.0/0", "::/0", key="masqueradeCIDRs"),)
    ),
    "the list makes exceptions from the inverse list": Row(
        "9.1.1.1 8.8.8.8", "9.2.1.1", (listed("9.1.0.0/16", masqueradeCIDRs=[NINE]),)
    ),
    "a null inverse list is refused: it would show every Pod": Row(
        PRIVATE, PUBLIC, ("masqueradeCIDRs:",), {}, "is null; write [] to masquerade nothing"
    ),
    "an invalid inverse list leaves the one before": Row(
        "8.8.8.8 11.1.1.1",
        "9.1.1.1",
        (listed(NINE, key="masqueradeCIDRs"), listed("11.0.0.1/8", key="masqueradeCIDRs")),
        {},
        "masqueradeCIDRs[0] '11.0.0.1/8': has host bits set",
    ),
    "lists of the settings hold without a ConfigMap": Row(KEPT, HIDDEN, (), {"non_masquerade_cidrs": (NINE,)}),
    "an inverse list of the settings holds without one": Row(
        "11.1.1.1 10.1.1.1", "9.1.1.1", (), {"masquerade_cidrs": (NINE,)}
    ),
    "a ConfigMap has precedence over the settings": Row(
        "11.1.1.1 fe80::1",
        "9.1.1.1",
        (listed(ELEVEN),),
        {"non_masquerade_cidrs": (NINE,), "masq_link_local_ipv6": True},
    ),
    "link-local switches of the settings hold without one": Row(
        "fe80::1", "169.254.1.1", (), {"masq_link_local": True}
    ),
    "and of IPv6": Row("169.254.1.1", "fe80::1", (), {"masq_link_local_ipv6": True}),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_ip_masq_agent(row: Row) -> None:
    desired = DesiredState("n1", Settings(masquerade=MasqueradeSection(**row.settings)).masquerade_settings())
    problems: tuple[ValidationIssue, ...] = ()
    for text in row.configs:
        metadata = {"namespace": "kube-system", "name": "ip-masq-agent"}
        found = decode_ip_masq({"kind": "ConfigMap", "metadata": metadata, "data": {"config": text}})
        assert found is not None
        desired.put(found)
        problems = found.problems
    asked = f"{row.pod} {row.node}".split()
    seen = {address: any(item.contains(address) for item in desired.masquerade_exempt) for address in asked}
    assert [address for address, kept in seen.items() if kept] == row.pod.split()
    assert ([row.problem in str(problem) for problem in problems]) == ([True] if row.problem else [])
    assert desired.rebuilt().ruleset() == desired.ruleset()
