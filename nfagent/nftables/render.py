"""Renders a table, and each statement of it, in nft syntax: readable, and loaded by `nft -f`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nfagent.model.netaddr import Range, family_of, number
from nfagent.model.printable import printable_lines
from nfagent.model.slices import sort_in_slices
from nfagent.nftables.objects import (
    FLOW_SECONDS,
    INTERVAL_KINDS,
    MARK_BITS,
    TABLE,
    TABLE_FAMILY,
    Accept,
    Chain,
    Drop,
    Element,
    Goto,
    Jump,
    LinkName,
    MarkSet,
    Masquerade,
    NamedSet,
    PortRange,
    ProtocolPort,
    Return,
    Rule,
    Ruleset,
    SourceNat,
    Verdict,
    VerdictMap,
    VmapLookup,
    address_of,
)
from nfagent.nftables.render_match import NFPROTO, key_text, match_text
from nfagent.policy.chain_plan import AUDIT_PARTS

Annotate = Callable[[str], str]
"""Returns a comment about an address, or ''."""

_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}


def table_text(ruleset: Ruleset, annotate: Annotate | None = None) -> str:
    """Return the table in nft syntax, in an order that depends only on content.

    annotate: adds comments after elements
    """
    return "".join(table_parts(ruleset, annotate))


def table_parts(ruleset: Ruleset, annotate: Annotate | None = None) -> Iterator[str]:
    """Yield the same text in parts of about a line; an empty part while none is ready."""
    if not ruleset.exists:
        yield f"# there is no table {TABLE_FAMILY} {TABLE}\n"
        return
    start = f"table {TABLE_FAMILY} {TABLE} {{\n\t"
    for block in _blocks(ruleset, annotate):
        for line in block:
            if line is None:
                yield ""
                continue
            yield start + printable_lines(line).replace("\n", "\\n")
            start = "\n\t"
        start = "\n\n\t"
    yield f"{start}\n}}\n" if start.startswith("table") else "\n}\n"


def _blocks(ruleset: Ruleset, annotate: Annotate | None) -> Iterator[Iterable[str | None]]:
    """Yield the lines of every object; None while none is ready."""
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
    """Return chains after those that they refer to, as nft requires, and base chains last."""
    return sorted(ruleset.chains, key=lambda name: (ruleset.chains[name].hook is not None, _chain_rank(name), name))


_RANKS = {"count": -1, "allow": 0, "deny": 0, "audit-deny": 0, "egress": 4, "ingress": 4}
_AUDIT_RANKS: dict[str, int] = {part: rank for rank, part in enumerate(AUDIT_PARTS)}
_SHARED_WORDS = {"admin", "policy", "baseline"}


def _chain_rank(name: str) -> tuple[int, int]:
    """Return the rank of a chain: counts, verdicts, audit mode, tiers, untracked, policy sets, and what refers to them.

    Of audit mode the chains come in the order of its parts.
    """
    word, _, rest = name.partition("/")
    if word.startswith("errors-"):
        return 6, 0
    shared = rest.partition("/")[0] if word == "stray" else word
    if shared == "audit":
        part = name.removeprefix("stray/").partition("/")[2].partition("/")[0]
        return 1, _AUDIT_RANKS.get(part, 0)
    if shared in _SHARED_WORDS:
        return 2, 0
    return (3 if word == "stray" else _RANKS.get(word, 5)), 0


def _set_block(name: str, item: NamedSet, annotate: Annotate | None) -> Iterator[str | None]:
    yield f"set {name} {{"
    yield from (f"\t{line}" for line in set_properties(item))
    ordered = sort_in_slices(item.elements, element_order)
    yield from _elements_lines((None if one is None else _written(one) for one in ordered), annotate)
    yield "}"


def _map_block(name: str, item: VerdictMap, annotate: Annotate | None) -> Iterator[str | None]:
    yield f"map {name} {{"
    yield f"\ttype {_TYPE[item.family]} : verdict"
    ordered = sort_in_slices(item.elements, number)
    pairs = (None if one is None else (map_element_text(one, item.elements[one]), one) for one in ordered)
    yield from _elements_lines(pairs, annotate)
    yield "}"


def _elements_lines(elements: Iterable[tuple[str, str] | None], annotate: Annotate | None) -> Iterator[str | None]:
    """Yield a line for each element, which is given as its text and the address to annotate."""
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
    """Return the hook of a base chain in nft syntax; '' for another chain."""
    hook = chain.hook
    if hook is None:
        return ""
    return f"type {hook.type} hook {hook.name} priority {hook.priority}; policy accept;"


_FLAGGED = dict.fromkeys(INTERVAL_KINDS, "flags interval") | {"counted": "counter"}


def set_properties(item: NamedSet) -> Iterator[str]:
    """Yield type, flags and comment of a set, a line each."""
    address = _TYPE[item.family]
    match item.kind:
        case "family":
            yield "type nf_proto"
        case "ports":
            yield "type inet_service"
        case "link":
            yield "type ifname"
        case "service":
            yield "type inet_proto . inet_service"
        case "port":
            yield f"type {address} . inet_proto . inet_service"
        case "pair":
            yield f"type {address} . {address}"
        case "flow":
            yield f"type {address} . inet_proto . inet_service . {address} . inet_service"
            yield f"size {item.size}"
            yield "flags dynamic,timeout"
            yield f"timeout {FLOW_SECONDS}s"
        case _:
            yield f"type {address}"
    if item.kind in _FLAGGED:
        yield _FLAGGED[item.kind]
    if item.comment:
        yield f'comment "{item.comment}"'


def map_properties(item: VerdictMap) -> str:
    """Return the type of a verdict map."""
    return f"type {_TYPE[item.family]} : verdict"


def element_order(element: Element) -> tuple[int, int, str, int]:
    """Return the sort key of an element: by address, as a number."""
    if isinstance(element, int):
        return (element, 0, "", 0)
    if isinstance(element, LinkName):
        return (0, 0, element.name, 0)
    if isinstance(element, ProtocolPort):
        return (0, 0, element.protocol, element.port)
    if isinstance(element, Range):
        return (element.family, element.first, "", 0)
    if isinstance(element, PortRange):
        return (element.first, 0, "", 0)
    if isinstance(element, str):
        return (family_of(element), number(element), "", 0)
    if len(element) == 2:
        return (family_of(element[0]), number(element[0]), "", number(element[1]))
    return (family_of(element[0]), number(element[0]), element[1], element[2])


def _written(element: Element) -> tuple[str, str]:
    return element_text(element), address_of(element)


def element_text(element: Element) -> str:
    """Return an element in nft syntax: address, range, family, interface, or a concatenation of these."""
    if isinstance(element, int):
        return NFPROTO[element]
    if isinstance(element, LinkName):
        return f'"{element.name}"'
    if isinstance(element, ProtocolPort):
        return f"{element.protocol} . {element.port}"
    if isinstance(element, tuple):
        return " . ".join(map(str, element))
    return str(element)


def map_element_text(address: str, chain: str) -> str:
    """Return an element of a verdict map in nft syntax."""
    return f"{address} : goto {chain}"


def rule_text(rule: Rule) -> str:
    """Return a rule in nft syntax, one line."""
    parts = [match_text(match) for match in rule.matches]
    if rule.counter:
        parts.append(f'counter name "{rule.counter}"')
    if rule.log is not None:
        parts.append(f'log prefix "{rule.log.prefix}" group {rule.log.group}')
    if rule.mark is not None:
        parts.append(mark_text(rule.mark))
    if rule.verdict is not None:
        parts.append(verdict_text(rule.verdict))
    if rule.comment:
        parts.append(f'comment "{rule.comment}"')
    return " ".join(parts)


def mark_text(item: MarkSet) -> str:
    """Return a statement that sets bits of the packet mark in nft syntax."""
    kept = ~item.mask & MARK_BITS
    value = f" | {item.value:#010x}" if item.value else ""
    return f"meta mark set meta mark & {kept | item.value:#010x}{value}"


def verdict_text(verdict: Verdict) -> str:
    """Return a verdict in nft syntax."""
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
        case VmapLookup(key, name):
            return f"{key_text(key)} vmap @{name}"
        case Masquerade(random_fully, ports):
            to_ports = "" if ports is None else f" to :{ports}"
            return f"masquerade{to_ports}{' fully-random' if random_fully else ''}"
        case SourceNat(address):
            return f"snat {'ip' if family_of(address) == 4 else 'ip6'} to {address}"
