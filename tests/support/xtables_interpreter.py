"""An interpreter of ipsets and iptables chains: the verdict that the kernel would have for a packet.

It reads the words of the rules, as iptables does, and takes the packets of `nft_interpreter`: a hook of nftables is the
built-in chains that such a packet passes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import msgspec

from nfagent.model.netaddr import Family, number, text
from nfagent.nftables.objects import Log
from nfagent.xtables.objects import ChainKey, HookChain, IpSet, TableName, XtChain, XtRule, XtRuleset
from tests.support.nft_interpreter import HookName, HookPacket, PacketResult, _is_group

Test: TypeAlias = Callable[[HookPacket], bool]

_PATHS: dict[HookName, tuple[tuple[TableName, HookChain], ...]] = {
    "prerouting": (("raw", "PREROUTING"), ("mangle", "PREROUTING")),
    "forward": (("mangle", "PREROUTING"), ("mangle", "FORWARD"), ("mangle", "POSTROUTING"), ("nat", "POSTROUTING")),
    "input": (("mangle", "PREROUTING"), ("mangle", "INPUT")),
    "output": (("mangle", "OUTPUT"), ("mangle", "POSTROUTING"), ("nat", "POSTROUTING")),
}
_ICMPV6 = {
    130: "mld-listener-query",
    131: "mld-listener-report",
    132: "mld-listener-done",
    133: "nd-router-solicit",
    134: "nd-router-advert",
    135: "nd-neighbor-solicit",
    136: "nd-neighbor-advert",
    137: "nd-redirect",
    143: "mld2-listener-report",
}
_BITS = {4: 32, 6: 128}
_HAVE_PORTS = ("tcp", "udp", "sctp")


class Walk(msgspec.Struct):
    """What a packet met so far; added: the members that rules added to sets."""

    mark: int = 0
    logs: list[Log] = []
    counters: list[str] = []
    translated: bool = False
    source: str = ""
    added: list[tuple[str, tuple[object, ...]]] = []


class _Step(NamedTuple):
    tests: tuple[Test, ...]
    counter: str
    target: tuple[str, ...]


class XtMachine:
    """One ruleset at a time; a chain is compiled when a packet first enters it."""

    def __init__(self, ruleset: XtRuleset) -> None:
        self.ruleset = ruleset
        self._walk = Walk()
        self._compiled: dict[ChainKey, tuple[XtChain, tuple[_Step, ...]]] = {}

    def _chain(self, key: ChainKey) -> tuple[_Step, ...]:
        chain = self.ruleset.chains[key]
        known = self._compiled.get(key)
        if known is None or known[0] is not chain:
            known = self._compiled[key] = chain, tuple(self._step(key[0], rule) for rule in chain.rules)
        return known[1]

    def run(self, hook: HookName, packet: HookPacket) -> PacketResult:
        walk = self._walk = Walk(mark=packet.mark)
        conntrack = packet.conntrack
        for table, built_in in _PATHS[hook]:
            if table == "nat" and (conntrack.state not in {"new", "related"} or conntrack.confirmed):
                continue
            chain = self.ruleset.hooks.get((packet.family, table, built_in))
            if chain is not None and self._enter((packet.family, table, chain), packet) == "drop":
                return PacketResult("drop", tuple(walk.logs), tuple(walk.counters))
        return PacketResult("accept", tuple(walk.logs), tuple(walk.counters), walk.translated, walk.source, walk.mark)

    @property
    def added(self) -> list[tuple[str, tuple[object, ...]]]:
        """The members that rules added to sets, for the last packet."""
        return self._walk.added

    def _enter(self, key: tuple[Family, TableName, str], packet: HookPacket) -> str:
        """Return 'drop', 'accept' of the nat table, or '' where the chain returns."""
        for tests, counter, target in self._chain(key):
            if not all(test(packet) for test in tests):
                continue
            if counter:
                self._walk.counters.append(counter)
            decided = self._act(target, key, packet)
            if decided is not None:
                return decided
        return ""

    def _act(self, target: tuple[str, ...], key: tuple[Family, TableName, str], packet: HookPacket) -> str | None:
        """Return what the chain ends with; None to go on with the next rule."""
        walk = self._walk
        match target:
            case ():
                return None
            case ("-j", "DROP"):
                return "drop"
            case ("-j", "RETURN"):
                return ""
            case ("-j", "MARK", "--set-xmark", words):
                value, mask = (int(word, 16) for word in words.split("/"))
                walk.mark = walk.mark & ~mask ^ value
            case ("-j", "NFLOG", "--nflog-prefix", prefix, *group):
                walk.logs.append(Log(prefix, int(group[1]) if group else 0))
            case ("-j", "SET", "--add-set", name, sides, "--exist"):
                walk.added.append((name, _member(self.ruleset.sets[name], sides, packet) or ()))
            case ("-j", "MASQUERADE", *_):
                walk.translated = True
                return "accept"
            case ("-j", "SNAT", "--to-source", address):
                walk.source = address
                return "accept"
            case ("-g", chain):
                return self._enter((*key[:2], chain), packet)
            case ("-j", chain):
                return self._enter((*key[:2], chain), packet) or None
            case _:
                raise ValueError(target)
        return None

    def _step(self, family: Family, rule: XtRule) -> _Step:
        counter = next((match[3] for match in rule.matches if match[:2] == ("-m", "nfacct")), "")
        tests = tuple(self.test(family, match) for match in rule.matches if match[:2] != ("-m", "nfacct"))
        return _Step(tests, counter, rule.target)

    def test(self, family: Family, match: tuple[str, ...]) -> Test:
        match match:
            case ("!", "-i", "lo"):
                return lambda packet: not packet.loopback
            case ("-s" | "-d" as side, prefix):
                return _within(side, prefix, family)
            case ("-o", name):
                return lambda packet: packet.out_link == name
            case ("-p", protocol):
                nft = "icmpv6" if protocol == "ipv6-icmp" else protocol
                return lambda packet: packet.protocol == nft
            case ("-f",) | ("-m", "ipv6header", "--header", "ipv6-frag", "--soft"):
                return lambda packet: packet.fragment
            case ("-m", "set", *words):
                return self._set_test(words)
            case ("-m", "mark", *words):
                return self._mark_test(words)
            case ("-m", "conntrack", *words):
                return _conntrack_test(words)
            case ("-m", module, *words):
                return _module_test(module, words)
        raise ValueError(match)

    def _set_test(self, words: list[str]) -> Test:
        negated = words[0] == "!"
        name, sides = words[-2:]
        return lambda packet: _in_set(self.ruleset.sets[name], sides, packet) != negated

    def _mark_test(self, words: list[str]) -> Test:
        negated = words[0] == "!"
        value, mask = (int(word, 16) for word in words[-1].split("/"))
        return lambda _: (self._walk.mark & mask == value) != negated


def _within(side: str, prefix: str, family: Family) -> Test:
    address, _, length = prefix.partition("/")
    first = _number(address)
    last = first + (1 << (_BITS[family] - int(length))) - 1
    if side == "-s":
        return lambda packet: first <= _number(packet.saddr) <= last
    return lambda packet: first <= _number(packet.daddr) <= last


def _conntrack_test(words: list[str]) -> Test:
    match words:
        case ["--ctstate", "SNAT"]:
            return lambda packet: packet.conntrack.known and packet.conntrack.translated
        case ["--ctstate", states]:
            wanted = states.lower().split(",")
            return lambda packet: packet.conntrack.state in wanted
        case ["--ctdir", direction]:
            return lambda packet: packet.conntrack.known and packet.conntrack.way == direction.lower()
        case ["!", "--ctstatus", "CONFIRMED"]:
            return lambda packet: packet.conntrack.known and not packet.conntrack.confirmed
        case ["--ctstatus", "SEEN_REPLY"]:
            return lambda packet: packet.conntrack.known and packet.conntrack.answered
        case ["--ctorigsrc", address]:
            return lambda packet: packet.conntrack.known and packet.conntrack.client == address
        case ["--ctreplsrc", address]:
            return lambda packet: packet.conntrack.known and packet.conntrack.server == address
    raise ValueError(words)


def _has_type(kinds: list[str], packet: HookPacket) -> bool:
    """Return what xt_addrtype does: of several types one is enough for IPv4, IPv6 must be of all of them.

    No packet here is to an address of the node, which is `LOCAL`.
    """
    is_group = _is_group(packet.daddr)
    found = {"UNICAST": not is_group, "LOCAL": False, "BROADCAST": is_group, "MULTICAST": is_group}
    return (any if packet.family == 4 else all)(found[kind] for kind in kinds)


def _module_test(module: str, words: list[str]) -> Test:
    match module, words:
        case "addrtype", ["--src-type", "LOCAL"]:
            return lambda packet: packet.local_source
        case "addrtype", ["!", "--src-type", "LOCAL"]:
            return lambda packet: not packet.local_source
        case "addrtype", ["--dst-type", kinds]:
            return partial(_has_type, kinds.split(","))
        case ("tcp", ["--tcp-flags", "RST", "RST"]):
            return lambda packet: packet.reset
        case ("tcp" | "udp" | "sctp", [option, numbers]):
            first, _, last = numbers.partition(":")
            low, high = int(first), int(last or first)
            if option == "--sport":
                return lambda packet: not packet.fragment and low <= packet.sport <= high
            return lambda packet: not packet.fragment and low <= packet.dport <= high
        case "icmp6", ["--icmpv6-type", written]:
            kind, _, code = written.partition("/")
            name = _ICMPV6[int(kind)]
            return lambda packet: packet.icmpv6_type == name and (not code or packet.icmpv6_code == int(code))
        case "hl", ["--hl-eq", hops]:
            return lambda packet: packet.hop_limit == int(hops)
        case "length", ["--length", numbers]:
            most = int(numbers.partition(":")[2])
            return lambda packet: packet.payload + 40 <= most
        case "pkttype", ["--pkt-type", kind]:
            return lambda packet: packet.group_frame and kind == "broadcast"
        case "statistic", ["--mode", "random", "--probability", probability]:
            share = float(probability)
            return lambda packet: packet.drawn % 1000 < share * 1000
        case "rpfilter", ["--invert"]:
            return lambda packet: packet.unrouted
    raise ValueError((module, words))


def _in_set(item: IpSet, sides: str, packet: HookPacket) -> bool:
    members: frozenset[Any] = item.members
    found = _member(item, sides, packet)
    if found is None:
        return False
    match item.type:
        case "hash:net":
            return any((_masked(found[0], length, item.family), length) in members for length in range(1, 129))
        case "hash:net,iface":
            return any(member[2] == found[1] for member in members)
        case "hash:ip" | "bitmap:port":
            return found[0] in members
        case _:
            return found in members


def _member(item: IpSet, sides: str, packet: HookPacket) -> tuple[Any, ...] | None:
    """Return the parts of a packet that a set looks up; None where it has none."""
    ports = {"src": packet.sport, "dst": packet.dport}
    addresses = {"src": packet.saddr, "dst": packet.daddr}
    flags = sides.split(",")
    if "port" in item.type and (packet.protocol not in _HAVE_PORTS or packet.fragment):
        return None
    match item.type:
        case "bitmap:port":
            return (ports[flags[0]],) if packet.protocol != "sctp" else None
        case "hash:ip" | "hash:net":
            return (addresses[flags[0]],)
        case "hash:net,iface":
            return addresses[flags[0]], packet.link
        case "hash:ip,port":
            return addresses[flags[0]], packet.protocol, ports[flags[1]]
        case "hash:ip,port,ip":
            return addresses[flags[0]], packet.protocol, ports[flags[1]], addresses[flags[2]]


@lru_cache(maxsize=1 << 18)
def _masked(address: str, length: int, family: Family) -> str:
    if length > _BITS[family]:
        return ""
    shift = _BITS[family] - length
    return _text(family, _number(address) >> shift << shift)


@lru_cache(maxsize=65536)
def _text(family: Family, value: int) -> str:
    return text(family, value)


@lru_cache(maxsize=65536)
def _number(address: str) -> int:
    return number(address)
