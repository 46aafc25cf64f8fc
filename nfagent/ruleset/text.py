"""nft syntax: a whole table as people read it and `nft -f` loads it, and each statement of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nfagent.cluster.address import Family, Range, family_of, number
from nfagent.cluster.ordering import in_order
from nfagent.ruleset.objects import (
    FLOW_SECONDS,
    FLOW_SET_SIZE,
    TABLE,
    TABLE_FAMILY,
    Accept,
    Chain,
    Connection,
    ConntrackState,
    Dispatch,
    Drop,
    Element,
    FamilyInSet,
    FlowInSet,
    Foreign,
    Fragment,
    FromLink,
    Goto,
    HopLimitIs,
    Icmpv6Type,
    InSet,
    Jump,
    LinkLocalSource,
    LinkName,
    LocalSource,
    Masquerade,
    Match,
    NamedPort,
    NamedSet,
    NotLoopback,
    Packet,
    PacketNamedPort,
    PacketPort,
    ProtocolIs,
    Refresh,
    Return,
    Rule,
    Ruleset,
    ServerPort,
    ServicePort,
    ToPort,
    Unconfirmed,
    Unrouted,
    Verdict,
    VerdictMap,
    WayIs,
)

Annotate = Callable[[str], str]
"""Says in words what an address is, or ''."""

_IP = {4: "ip", 6: "ip6"}
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
_NFPROTO = {4: "ipv4", 6: "ipv6"}
_END = {"client": "ct original {} saddr", "server": "ct reply {} saddr"}


def table_text(ruleset: Ruleset, annotate: Annotate | None = None) -> str:
    """Write the table, in an order that depends on content alone; annotations come as comments behind elements."""
    return "".join(table_parts(ruleset, annotate))


def table_parts(ruleset: Ruleset, annotate: Annotate | None = None) -> Iterator[str]:
    """Write the same in parts, about a line each; an empty part says that none is ready yet."""
    if not ruleset.exists:
        yield f"# there is no table {TABLE_FAMILY} {TABLE}\n"
        return
    start = f"table {TABLE_FAMILY} {TABLE} {{\n\t"
    for block in _blocks(ruleset, annotate):
        for line in block:
            if line is None:
                yield ""
                continue
            yield start + line
            start = "\n\t"
        start = "\n\n\t"
    yield f"{start}\n}}\n" if start.startswith("table") else "\n}\n"


def _blocks(ruleset: Ruleset, annotate: Annotate | None) -> Iterator[Iterable[str | None]]:
    """Give the lines of every object; None where none is ready yet."""
    for name in sorted(ruleset.counters):
        yield f"counter {name} {{", "}"
    for name in sorted(ruleset.sets):
        yield _set_block(name, ruleset.sets[name], annotate)
    for name in sorted(ruleset.maps):
        yield _map_block(name, ruleset.maps[name], annotate)
    for name in _chain_order(ruleset):
        yield _chain_block(name, ruleset.chains[name])
    for kind, name in sorted(ruleset.foreign):
        yield (f"# not nfagent's: {kind} {name}",)


def _chain_order(ruleset: Ruleset) -> list[str]:
    """Put chains behind those that they go to, as nft wants them declared, base chains last."""
    return sorted(ruleset.chains, key=lambda name: (ruleset.chains[name].hook is not None, _chain_rank(name), name))


def _chain_rank(name: str) -> int:
    """Rank outcomes, then sections, then classes as they judge packets without an entry, then classes."""
    word, _, rest = name.partition("/")
    if word == "stray":
        return 1 if rest.partition("/")[0] in {"admin", "baseline"} else 2
    return {"allow": 0, "deny": 0, "admin": 1, "baseline": 1, "egress": 3, "ingress": 3}.get(word, 4)


def _set_block(name: str, item: NamedSet, annotate: Annotate | None) -> Iterator[str | None]:
    yield f"set {name} {{"
    yield from (f"\t{line}" for line in set_properties(item))
    ordered = in_order(item.elements, element_order)
    yield from _elements_lines((None if one is None else _written(one) for one in ordered), annotate)
    yield "}"


def _map_block(name: str, item: VerdictMap, annotate: Annotate | None) -> Iterator[str | None]:
    yield f"map {name} {{"
    yield f"\ttype {_TYPE[item.family]} : verdict"
    ordered = in_order(item.elements, number)
    pairs = (None if one is None else (f"{one} : goto {item.elements[one]}", one) for one in ordered)
    yield from _elements_lines(pairs, annotate)
    yield "}"


def _elements_lines(elements: Iterable[tuple[str, str] | None], annotate: Annotate | None) -> Iterator[str | None]:
    """Write elements, a line each; each comes as its text, and its address to be annotated."""
    before: tuple[str, str] | None = None
    for element in elements:
        if element is None:
            yield None
            continue
        yield "\telements = {" if before is None else _element_line(before, ",")
        text, address = element
        before = text, annotate(address) if annotate is not None and address else ""
    if before is not None:
        yield _element_line(before, "")
        yield "\t}"


def _element_line(element: tuple[str, str], comma: str) -> str:
    text, words = element
    return f"\t\t{text}{comma}{f'  # {words}' if words else ''}"


def _chain_block(name: str, chain: Chain) -> Iterator[str]:
    yield f"chain {name} {{"
    if chain.hook is not None:
        yield f"\t{hook_text(chain)}"
    yield from (f"\t{rule_text(rule)}" for rule in chain.rules)
    yield "}"


def hook_text(chain: Chain) -> str:
    """Write where a base chain is called; '' for another chain."""
    hook = chain.hook
    if hook is None:
        return ""
    return f"type {hook.type} hook {hook.name} priority {hook.priority}; policy accept;"


def set_properties(item: NamedSet) -> Iterator[str]:
    """Write a set's type, flags and comment, a line each."""
    address = _TYPE[item.family]
    match item.kind:
        case "family":
            yield "type nf_proto"
        case "link":
            yield "type ifname"
        case "service":
            yield "type inet_proto . inet_service"
        case "port":
            yield f"type {address} . inet_proto . inet_service"
        case "flow":
            yield f"type {address} . inet_proto . inet_service . {address} . inet_service"
            yield f"size {FLOW_SET_SIZE}"
            yield "flags dynamic,timeout"
            yield f"timeout {FLOW_SECONDS}s"
        case _:
            yield f"type {address}"
    if item.kind == "range":
        yield "flags interval"
    if item.comment:
        yield f'comment "{item.comment}"'


def map_properties(item: VerdictMap) -> str:
    """Write a verdict map's type."""
    return f"type {_TYPE[item.family]} : verdict"


def element_order(element: Element) -> tuple[int, int, str, int]:
    """Give what elements are sorted by: their addresses, as people expect them."""
    if isinstance(element, int):
        return (element, 0, "", 0)
    if isinstance(element, LinkName):
        return (0, 0, element.name, 0)
    if isinstance(element, ServicePort):
        return (0, 0, element.protocol, element.port)
    if isinstance(element, Range):
        return (element.family, element.first, "", 0)
    if isinstance(element, str):
        return (family_of(element), number(element), "", 0)
    return (family_of(element[0]), number(element[0]), element[1], element[2])


def _written(element: Element) -> tuple[str, str]:
    return element_text(element), _address(element)


def _address(element: Element) -> str:
    if isinstance(element, Range | int | LinkName | ServicePort):
        return ""
    return element if isinstance(element, str) else element[0]


def element_text(element: Element) -> str:
    """Write one element: an address, a range, a family, an interface, or address . protocol . port."""
    if isinstance(element, int):
        return _NFPROTO[element]
    if isinstance(element, LinkName):
        return f'"{element.name}"'
    if isinstance(element, ServicePort):
        return f"{element.protocol} . {element.port}"
    if isinstance(element, tuple):
        return " . ".join(map(str, element))
    return str(element)


def rule_text(rule: Rule) -> str:
    """Write a rule as one line."""
    parts = [match_text(match) for match in rule.matches]
    if rule.counter:
        parts.append(f'counter name "{rule.counter}"')
    if rule.log is not None:
        parts.append(f'log prefix "{rule.log.prefix}" group {rule.log.group}')
    if rule.verdict is not None:
        parts.append(verdict_text(rule.verdict))
    if rule.comment:
        parts.append(f'comment "{rule.comment}"')
    return " ".join(parts)


def key_text(key: Connection | Packet) -> str:
    """Write which address is looked up."""
    if isinstance(key, Packet):
        return f"{_IP[key.family]} {key.side}"
    return _END[key.end].format(_IP[key.family])


def match_text(match: Match) -> str:
    """Write one match."""
    match match:
        case InSet() | NamedPort() | PacketNamedPort() | FamilyInSet() | FlowInSet() | Refresh():
            return _by_set_text(match)
        case ProtocolIs(names):
            return f"meta l4proto {_one_of(names)}"
        case ServerPort(first, last):
            return f"ct reply proto-src {_numbers(first, last)}"
        case Icmpv6Type(names):
            return f"icmpv6 type {_one_of(names)}"
        case LocalSource() | NotLoopback() | Unrouted() | LinkLocalSource() | FromLink():
            return _origin_text(match)
        case Foreign(expression):
            return f"# not nfagent's: {expression}"
        case PacketPort() | ToPort() | Fragment() | HopLimitIs():
            return _header_text(match)
        case _:
            return _tracked_text(match)


def _origin_text(match: LocalSource | NotLoopback | Unrouted | LinkLocalSource | FromLink) -> str:
    match match:
        case LocalSource():
            return "fib saddr type local"
        case NotLoopback():
            return 'iifname != "lo"'
        case Unrouted():
            return "fib saddr . iif oif missing"
        case LinkLocalSource():
            return "ip6 saddr fe80::/10"
        case FromLink(name):
            return f"iifname @{name}"


def _header_text(match: PacketPort | ToPort | Fragment | HopLimitIs) -> str:
    match match:
        case ToPort(name):
            return f"meta l4proto . th dport @{name}"
        case PacketPort(protocol, first, last):
            return f"{protocol} dport {_numbers(first, last)}"
        case HopLimitIs(value):
            return f"ip6 hoplimit {value}"
        case Fragment(family):
            return "ip frag-off & 0x1fff != 0" if family == 4 else "exthdr frag exists"


def _numbers(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _by_set_text(match: InSet | NamedPort | PacketNamedPort | FamilyInSet | FlowInSet | Refresh) -> str:
    match match:
        case InSet(key, name, negated):
            return f"{key_text(key)} {'!= ' if negated else ''}@{name}"
        case NamedPort(family, name, way):
            port = "dport" if way == "original" else "sport"
            return f"{key_text(Connection('server', family))} . meta l4proto . th {port} @{name}"
        case PacketNamedPort(family, name):
            return f"{key_text(Packet('daddr', family))} . meta l4proto . th dport @{name}"
        case FamilyInSet(name, negated):
            return f"meta nfproto {'!= ' if negated else ''}@{name}"
        case FlowInSet(family, name):
            return f"{_flow_text(family)} @{name}"
        case Refresh(family, name):
            return f"update @{name} {{ {_flow_text(family)} }}"


def _flow_text(family: Family) -> str:
    return f"{_IP[family]} saddr . meta l4proto . th sport . {_IP[family]} daddr . th dport"


def _tracked_text(match: WayIs | ConntrackState | Unconfirmed) -> str:
    match match:
        case WayIs(way):
            return f"ct direction {way}"
        case ConntrackState(states):
            return f"ct state {','.join(states)}"
        case Unconfirmed():
            return "ct status ! confirmed"


def verdict_text(verdict: Verdict) -> str:
    """Write a verdict."""
    match verdict:
        case Accept():
            return "accept"
        case Drop():
            return "drop"
        case Goto(chain):
            return f"goto {chain}"
        case Jump(chain):
            return f"jump {chain}"
        case Return():
            return "return"
        case Dispatch(key, name):
            return f"{key_text(key)} vmap @{name}"
        case Masquerade(random_fully):
            return "masquerade fully-random" if random_fully else "masquerade"


def _one_of(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{{ {', '.join(names)} }}"
