"""Parses the JSON of libnftables (schema version 1, see libnftables-json(5)) to a ruleset.

Total: forms that nfagent never writes become UnknownExpr or `Ruleset.foreign`; text that isn't a listing is a
WireError. The values of counters are read by `parse_counters`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import Family, canonical, family_of
from nfagent.nftables.listing import entries
from nfagent.nftables.matches import Match
from nfagent.nftables.objects import (
    ABSENT,
    FLOW_SECONDS,
    FLOW_SET_SIZE,
    MARK_BITS,
    TABLE,
    TABLE_FAMILY,
    TABLE_FLAGS,
    Accept,
    Chain,
    Drop,
    Element,
    Goto,
    Hook,
    Jump,
    LinkName,
    Log,
    MarkSet,
    Masquerade,
    NamedSet,
    PortRange,
    ProtocolPort,
    Return,
    Rule,
    Ruleset,
    SetKind,
    SourceNat,
    Verdict,
    VerdictMap,
    VmapLookup,
)
from nfagent.nftables.parse_header import numbers, protocol_name
from nfagent.nftables.parse_match import foreign, parse_key, parse_match, parse_range, parse_update, set_reference
from nfagent.nftables.unknown_objects import is_identifier

_Json = dict[str, Any]
_Shape = TypeVar("_Shape", NamedSet, VerdictMap)
_SET_TYPES: dict[tuple[str, ...], tuple[SetKind, Family]] = {
    ("ipv4_addr",): ("address", 4),
    ("ipv6_addr",): ("address", 6),
    ("ipv4_addr", "inet_proto", "inet_service"): ("port", 4),
    ("ipv6_addr", "inet_proto", "inet_service"): ("port", 6),
    ("inet_service",): ("ports", 4),
    ("nf_proto",): ("family", 4),
    ("ipv4_addr", "ipv4_addr"): ("pair", 4),
    ("ipv6_addr", "ipv6_addr"): ("pair", 6),
    ("ifname",): ("link", 4),
    ("inet_proto", "inet_service"): ("service", 4),
    ("ipv4_addr", "inet_proto", "inet_service", "ipv4_addr", "inet_service"): ("flow", 4),
    ("ipv6_addr", "inet_proto", "inet_service", "ipv6_addr", "inet_service"): ("flow", 6),
}
_UNKNOWN = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""Errors that mean that an object of a listing has a form that nfagent never writes."""
_SET_OPTIONS = frozenset(("auto-merge", "gc-interval", "policy", "size", "stmt", "timeout"))
"""Further options of sets and maps: nfagent sets none, except `size` and `timeout` of dynamic sets."""
_COUNTED = [{"counter": None}]
"""The statement of a set whose elements have counters."""
_FAMILY: dict[str, Family] = {"ip": 4, "ip6": 6, "ipv4": 4, "ipv6": 6}


class CounterValue(msgspec.Struct, frozen=True):
    """Packets and bytes of a named counter."""

    packets: int
    bytes: int


def parse_listing(text: str, known: Ruleset = ABSENT, *, family: str = TABLE_FAMILY) -> Ruleset:
    """Read the JSON text of `list table inet nfagent`; `family`: of the table. Raises WireError.

    known: sets and maps equal to those of this ruleset are returned as the same objects, which saves memory
    """
    try:
        return _read(entries(text), known, family)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(f"libnftables output is not a listing: {error}") from None


def parse_ruleset(listing: object) -> Ruleset:
    """Read the parsed JSON of `list table inet nfagent`; a listing without the table is ABSENT. Raises WireError."""
    return _read(_entries(listing), ABSENT, TABLE_FAMILY)


def _read(entries: Iterable[object], known: Ruleset, family: str) -> Ruleset:
    reader = _Reader(known)
    for kind, item in _items(entries, family):
        reader.add(kind, item)
    return reader.ruleset()


def parse_counters(listing: object, *, family: str = TABLE_FAMILY) -> dict[str, CounterValue]:
    """Read the values of the table's named counters, by name; `family`: of the table. Raises WireError."""
    found = {}
    for kind, item in _items(_entries(listing), family):
        if kind == "counter":
            try:
                value = CounterValue(int(item.get("packets", 0)), int(item.get("bytes", 0)))
            except _UNKNOWN:
                raise WireError(f"libnftables listed a counter without packets and bytes: {item!r}") from None
            found[str(item.get("name"))] = value
    return found


def _entries(listing: object) -> list[object]:
    entries = listing.get("nftables") if isinstance(listing, dict) else None
    if not isinstance(entries, list):
        raise WireError("libnftables output is not a listing")
    return entries


def _items(entries: Iterable[object], family: str) -> Iterator[tuple[str, _Json]]:
    for entry in entries:
        if not isinstance(entry, dict) or len(entry) != 1:
            raise WireError(f"libnftables listed an entry that is not an object: {entry!r}")
        [(kind, item)] = entry.items()
        if kind != "metainfo" and isinstance(item, dict) and _in_table(kind, item, family):
            yield kind, item


def _in_table(kind: str, item: _Json, family: str) -> bool:
    table = item.get("name") if kind == "table" else item.get("table")
    return (item.get("family"), table) == (family, TABLE)


class _Reader:
    """Collects the objects of a listing."""

    def __init__(self, known: Ruleset) -> None:
        self._known = known
        self.exists = False
        self.sets: dict[str, NamedSet] = {}
        self.maps: dict[str, VerdictMap] = {}
        self.hooks: dict[str, Hook | None] = {}
        self.rules: dict[str, list[Rule]] = {}
        self.counters: set[str] = set()
        self.foreign: set[tuple[str, str]] = set()

    def add(self, kind: str, item: _Json) -> None:
        """Add one object; one of a form that nfagent never writes is foreign."""
        given = item.get("name")
        name = given if isinstance(given, str) else ""
        try:
            match kind:
                case "table":
                    self.exists = True
                    if item.get("flags"):
                        self.foreign.add(TABLE_FLAGS)  # nft 1.0.6 lists that there are flags, and not which
                case _ if not is_identifier(item.get("chain", name)):
                    self.foreign.add((kind, name))
                case "counter":
                    self.counters.add(name)
                case "set":
                    self.sets[name] = _shared(_named_set(item), self._known.sets.get(name))
                case "map":
                    self.maps[name] = _shared(_verdict_map(item), self._known.maps.get(name))
                case "chain":
                    self.hooks[name] = _hook(item)
                case "rule":
                    self.rules.setdefault(item["chain"], []).append(_known_rule(item))
                case _:
                    self.foreign.add((kind, name))
        except _UNKNOWN:
            self.foreign.add((kind, name))

    def ruleset(self) -> Ruleset:
        """Return the ruleset of all objects."""
        if not self.exists:
            return ABSENT
        chains = {name: Chain(tuple(self.rules.get(name, ())), hook) for name, hook in self.hooks.items()}
        return Ruleset(self.sets, self.maps, chains, frozenset(self.counters), frozenset(self.foreign))


def _shared(read: _Shape, known: _Shape | None) -> _Shape:
    return known if known is not None and known == read else read


def _named_set(item: _Json) -> NamedSet:
    types = item["type"]
    kind, family = _SET_TYPES[tuple(types) if isinstance(types, list) else (types,)]
    flags = _flags(item)
    if kind == "flow":
        return _flow_set(item, family)
    if flags == {"interval"} and kind in {"address", "ports"}:
        kind = "range" if kind == "address" else kind
    elif flags or kind == "ports":
        raise ValueError(flags)
    if kind == "address" and item.get("stmt") == _COUNTED:
        kind, item = "counted", {key: value for key, value in item.items() if key != "stmt"}
    if _SET_OPTIONS & item.keys():
        raise ValueError(item.keys())
    elements: frozenset[Element] = frozenset(_element(kind, entry) for entry in item.get("elem", []))
    return NamedSet(kind, family, elements, item.get("comment", ""))


def _flow_set(item: _Json, family: Family) -> NamedSet:
    # nft 1.0.6 lists no `dynamic`, nft 1.1 does. The kernel fills the set, so its elements aren't read.
    known, size = (_flags(item) - {"dynamic"}, item.get("timeout")), item.get("size")
    if known != ({"timeout"}, FLOW_SECONDS) or _SET_OPTIONS & item.keys() != {"size", "timeout"}:
        raise ValueError(item)
    if not isinstance(size, int) or size < FLOW_SET_SIZE:
        raise ValueError(size)
    return NamedSet("flow", family, comment=item.get("comment", ""), size=size)


def _flags(item: _Json) -> set[str]:
    flags = item.get("flags", [])  # one word, or several
    return {flags} if isinstance(flags, str) else set(flags)


def _element(kind: SetKind, entry: Any) -> Element:
    if kind == "address":
        return canonical(entry)
    if kind == "counted":
        return canonical(_counted(entry["elem"]))
    if kind == "port":
        address, protocol, port = entry["concat"]
        return canonical(address), protocol_name(protocol), int(port)
    if kind == "ports":
        return PortRange(*numbers(entry))
    if kind == "pair":
        first, second = map(canonical, entry["concat"])
        return first, second
    if kind == "family":
        return _FAMILY[entry]
    if kind == "link":
        return LinkName(msgspec.convert(entry, str))
    if kind == "service":
        protocol, port = entry["concat"]
        return ProtocolPort(protocol_name(protocol), int(port))
    return parse_range(entry)


def _counted(element: _Json) -> Any:
    """Return the value of an element that has a counter and nothing else."""
    if element.keys() != {"val", "counter"}:
        raise ValueError(element)
    return element["val"]


def _verdict_map(item: _Json) -> VerdictMap:
    kind, family = _SET_TYPES[(item["type"],)]
    if kind != "address" or item["map"] != "verdict" or item.get("flags") or "comment" in item:
        raise ValueError(item["type"])
    if _SET_OPTIONS & item.keys():
        raise ValueError(item.keys())
    elements = {canonical(address): str(verdict["goto"]["target"]) for address, verdict in item.get("elem", [])}
    return VerdictMap(family, elements)


def _hook(item: _Json) -> Hook | None:
    if "hook" not in item:
        return None
    if item.get("policy") != "accept":
        raise ValueError(item)
    return Hook(item["type"], item["hook"], item["prio"])


def _known_rule(item: _Json) -> Rule:
    try:
        return _rule(item)
    except _UNKNOWN:
        return Rule((foreign(item.get("expr")),))


def _rule(item: _Json) -> Rule:
    matches: list[Match] = []
    counter, log, mark, verdict = "", None, None, None
    for expression in item["expr"]:
        [(kind, value)] = expression.items()
        known = _statement(kind, value) if verdict is None else None
        if isinstance(known, MarkSet) and mark is None:
            mark = known
        elif known is not None and not isinstance(known, MarkSet):
            verdict = known
        elif kind == "counter" and isinstance(value, str) and not counter and log is None and mark is None:
            counter = value
        elif kind == "log" and value.keys() == {"prefix", "group"} and log is None and mark is None and verdict is None:
            log = Log(value["prefix"], value["group"])
        elif kind == "match" and not counter and log is None and mark is None and verdict is None:
            matches.append(parse_match(value))
        elif kind == "set" and not counter and log is None and mark is None and verdict is None:
            matches.append(parse_update(value))
        else:
            matches.append(foreign(expression))
    return Rule(tuple(matches), counter, log, verdict, item.get("comment", ""), mark)


def _statement(kind: str, value: Any) -> Verdict | MarkSet | None:
    """Read a statement behind which only a verdict, or nothing, comes; None for any other expression."""
    match kind:
        case "accept":
            return Accept()
        case "drop":
            return Drop()
        case "goto":
            return Goto(value["target"])
        case "jump":
            return Jump(value["target"])
        case "return":
            return Return()
        case "vmap":
            key = parse_key(value["key"])
            return VmapLookup(key, set_reference(value["data"])) if key is not None else None
        case "masquerade":
            return _masquerade(value or {})
        case "snat":
            return _source_nat(value)
        case "mangle":
            return _mark_set(value)
    return None


def _masquerade(value: Any) -> Masquerade | None:
    flags = value.get("flags", [])
    if value.keys() - {"flags", "port"} or flags not in ([], "fully-random", ["fully-random"]):
        return None
    ports = PortRange(*numbers(value["port"])) if "port" in value else None
    return Masquerade(random_fully=bool(flags), ports=ports)


def _source_nat(value: Any) -> SourceNat | None:
    if value.keys() - {"addr", "family"}:
        return None
    address = canonical(value["addr"])
    return SourceNat(address) if _FAMILY[value["family"]] == family_of(address) else None


def _mark_set(value: Any) -> MarkSet | None:
    """Read bits that a rule sets; nft lists the mark with the bits that stay or are set, and without all of them."""
    mark = {"meta": {"key": "mark"}}
    match value:
        case {"key": key, "value": {"|": [{"&": [source, int(left)]}, int(bits)]}} if key == source == mark:
            kept = left & ~bits
        case {"key": key, "value": {"|": [source, int(bits)]}} if key == source == mark:
            kept = ~bits & MARK_BITS
        case {"key": key, "value": {"&": [source, int(kept)]}} if key == source == mark:
            bits = 0
        case _:
            return None
    mask = ~kept & MARK_BITS
    return MarkSet(mask, bits) if mask and 0 <= bits <= MARK_BITS and 0 <= kept <= MARK_BITS else None
