"""Finds masquerade and SNAT rules of other programs that translate Pods' traffic otherwise than nfagent does.

The kernel runs the nat chains at hook postrouting by priority, and the first that translates a connection decides; at
the same priority the chain that was added last runs first. A chain that doesn't translate leaves the connection to the
next. So a rule of another program takes the Pod's address from traffic that should keep it in whatever order the chains
run, and gives traffic that nfagent translates another address where its chain runs first.

Packets of Pods are taken to have no mark: a mark asks for masquerade (kube-proxy's 0x4000, the portmap plugin's
0x2000), and what is marked, such as traffic to a node port, is meant to be translated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.model.netaddr import FAMILIES, Range, without
from nfagent.nftables import names
from nfagent.nftables.foreign_rules import ForeignRule, ForeignTable, Ranges, common, joined, of_family
from nfagent.nftables.masquerade_chains import MASQUERADE_CHAIN, SRCNAT_PRIORITY
from nfagent.nftables.objects import NamedSet, Ruleset

_SOURCES = frozenset(names.set_name("pods", family) for family in FAMILIES)
_KEPT = frozenset(names.set_name(word, family) for word in ("cluster", "nonmasq") for family in FAMILIES)
_KEPT_BY_POLICIES = tuple(names.egress_nat_set((), family) for family in FAMILIES)
_DEEPEST = 16
"""The kernel refuses more nested jumps, and chains that lead to themselves."""
_MOST_BLOCKS = 64
_MOST_WORK = 1_000_000
"""Ranges that a walk compares. Chains that jump to others twice double the paths through them at each level."""
_NAMED = 3


class TranslatedTraffic(msgspec.Struct, frozen=True):
    """What nfagent does with traffic of this node's Pods.

    pods: the Pods' addresses
    kept: destinations that see the Pod's address
    """

    pods: Ranges
    kept: Ranges


class NatConflict(msgspec.Struct, frozen=True, kw_only=True):
    """A rule of another program that translates Pods' traffic otherwise than nfagent.

    table, chain, rule: where it is, as its tool shows it
    base:               the base chain that leads to it
    effect:             'kept': Pods' addresses are replaced where they should be kept; 'source': traffic that nfagent
                        masquerades leaves with another address
    destinations:       those concerned: the first ranges, and how many more there are
    certain:            False where the rule has further conditions, which part of the traffic may meet
    fix:                what to do
    """

    table: str
    chain: str
    base: str
    rule: str
    effect: str
    destinations: str
    certain: bool
    fix: str

    def __str__(self) -> str:
        """Return one sentence with table, chain and rule."""
        through = "" if self.base == self.chain else f" (from {self.base})"
        verb = "translates" if self.certain else "may translate"
        what = (
            f"traffic of Pods to {self.destinations}, which should keep the Pod's address"
            if self.effect == "kept"
            else f"traffic of Pods to {self.destinations} to another address, before nfagent masquerades it"
        )
        return f"{self.table}, chain {self.chain}{through}: rule `{self.rule}` {verb} {what}"


def translated_traffic(ruleset: Ruleset) -> TranslatedTraffic | None:
    """Return what the ruleset of nfagent does with Pods' traffic; None where it masquerades nothing.

    A destination is kept if some Pod of this node keeps its address towards it.
    """
    if MASQUERADE_CHAIN not in ruleset.chains:
        return None
    pods = joined(*(_members(found) for name, found in ruleset.sets.items() if name in _SOURCES))
    kept = (_members(found) for name, found in ruleset.sets.items() if name not in _SOURCES and is_address_set(name))
    return TranslatedTraffic(pods, joined(*kept)) if pods else None


def is_address_set(name: str) -> bool:
    """Return whether `translated_traffic` reads a set of this name."""
    return name in _SOURCES or name in _KEPT or name.startswith(_KEPT_BY_POLICIES)


def find_conflicts(tables: Iterable[ForeignTable], traffic: TranslatedTraffic) -> tuple[NatConflict, ...]:
    """Return the rules of these tables that translate Pods' traffic otherwise, in the tables' order, each once."""
    found: dict[tuple[str, str, str, str], NatConflict] = {}
    for table in tables:
        for item in _conflicts(table, traffic):
            found.setdefault((item.table, item.chain, item.rule, item.effect), item)
    return tuple(found.values())


class _Block(msgspec.Struct, frozen=True):
    """Traffic from any of these sources to any of these destinations."""

    sources: Ranges
    destinations: Ranges


class _Hit(msgspec.Struct, frozen=True):
    chain: str
    rule: ForeignRule
    blocks: list[_Block]
    certain: bool


class _WorkLimitError(Exception):
    """A table has more paths through its chains than a walk follows."""


class _Walk:
    """The way of Pods' traffic through the chains of a table, until a rule translates it."""

    def __init__(self, table: ForeignTable) -> None:
        self._chains = table.chains
        self._marked = False
        self._work = 0
        self._entered: list[str] = []
        self.hits: list[_Hit] = []

    def run_bounded(self, base: str, blocks: list[_Block]) -> None:
        """Follow the paths from a base chain; where they are too many, look at each rule that they meet once."""
        try:
            self.run(base, blocks)
        except _WorkLimitError:
            self.hits.clear()
            self._reach(base, blocks)

    def run(self, name: str, blocks: list[_Block], *, certain: bool = True) -> list[_Block]:
        """Return the traffic that returns from the chain. Raises _WorkLimitError."""
        if len(self._entered) > _DEEPEST or name in self._entered:
            return blocks
        self._entered.append(name)
        returned: list[_Block] = []
        for rule in self._chains.get(name, ()):
            self._count(rule, blocks)
            matched = [] if self._misses(rule) else _matched(blocks, rule)
            if not matched:
                continue
            exact = not (rule.narrowed or (rule.mark and self._marked))
            self._marked |= rule.marks
            rest = _rest(blocks, rule) if exact else blocks
            if rule.action in {"masquerade", "snat"}:
                self.hits.append(_Hit(name, rule, matched, certain and exact))
            elif rule.action == "return":
                returned += matched
            elif rule.action in {"jump", "goto"}:
                back = self.run(rule.target, matched, certain=certain and exact)
                if rule.action == "goto":
                    returned += back
                else:
                    rest = [*rest, *back] if exact else rest
            blocks = _bounded(rest if rule.action else blocks)
            if not blocks:
                break
        self._entered.pop()
        return _bounded([*returned, *blocks])

    def _reach(self, base: str, blocks: list[_Block]) -> None:
        """Add every rule of the chains that the base chain leads to, whatever comes before it: more, never less."""
        chains, open_chains = dict[str, tuple[ForeignRule, ...]](), [base]
        while open_chains:
            name = open_chains.pop()
            chains[name] = self._chains.get(name, ())
            targets = {rule.target for rule in chains[name] if rule.action in {"jump", "goto"} and not rule.never}
            open_chains += sorted(targets - chains.keys() - set(open_chains))
        self._marked |= any(rule.marks and not rule.never for rules in chains.values() for rule in rules)
        for name, rules in chains.items():
            for rule in rules:
                if rule.action in {"masquerade", "snat"} and not self._misses(rule):
                    self.hits.append(_Hit(name, rule, _matched(blocks, rule), certain=False))

    def _count(self, rule: ForeignRule, blocks: list[_Block]) -> None:
        """Count what comparing a rule with these blocks costs. Raises _WorkLimitError."""
        ranges = len(rule.sources) + len(rule.destinations)
        self._work += 8 + sum(ranges + len(block.sources) + len(block.destinations) for block in blocks)
        if self._work > _MOST_WORK:
            raise _WorkLimitError

    def _misses(self, rule: ForeignRule) -> bool:
        return rule.never or (rule.mark == "set" and not self._marked)


def _conflicts(table: ForeignTable, traffic: TranslatedTraffic) -> Iterator[NatConflict]:
    families = FAMILIES if table.family is None else (table.family,)
    of_pods = ((family, common(traffic.pods, of_family(family))) for family in families)
    pods = [_Block(found, of_family(family)) for family, found in of_pods if found]
    for base, priority in table.bases:
        walk = _Walk(table)
        walk.run_bounded(base, pods)
        for hit in walk.hits:
            reached = joined(*(block.destinations for block in hit.blocks if not _to_itself(block)))
            if kept := common(reached, traffic.kept):
                yield _conflict(table, base, hit, "kept", kept)
            first = hit.rule.action == "snat" and priority <= SRCNAT_PRIORITY
            if first and (others := without(reached, traffic.kept)):
                yield _conflict(table, base, hit, "source", others)


def _to_itself(block: _Block) -> bool:
    """Return whether it is a Pod's traffic to itself, which DNAT turned around: it is meant to be translated."""
    sources = block.sources
    return sources == block.destinations and len(sources) == 1 and sources[0].first == sources[0].last


def _conflict(table: ForeignTable, base: str, hit: _Hit, effect: str, destinations: Ranges) -> NatConflict:
    return NatConflict(
        table=table.name,
        chain=hit.chain,
        base=base,
        rule=hit.rule.text,
        effect=effect,
        destinations=_described(destinations),
        certain=hit.certain,
        fix=_advice(table, hit.chain),
    )


_ADVICE = (
    ("IP-MASQ", "delete the DaemonSet ip-masq-agent, whose place nfagent takes, and its chain"),
    ("KIND-MASQ", "stop kindnetd's masquerade, and delete its chain"),
    ("FLANNEL", "run flanneld with --ip-masq=false"),
    ("CNI-", 'set "ipMasq": false in the network configuration in /etc/cni/net.d, and create the Pods again'),
    ("cali-", "set natOutgoing: false in Calico's IPPools"),
    ("CILIUM", "run Cilium with enable-ipv4-masquerade=false and enable-ipv6-masquerade=false"),
    ("AWS-SNAT", "set AWS_VPC_K8S_CNI_EXTERNALSNAT=true for the DaemonSet aws-node"),
)


def _advice(table: ForeignTable, chain: str) -> str:
    known = next((words for prefix, words in _ADVICE if chain.startswith(prefix)), "")
    return known or f"switch masquerade off in the program that writes the rule, or delete it; to see it: {table.shown}"


def _described(ranges: Ranges) -> str:
    shown = ", ".join(str(item) for item in ranges[:_NAMED])
    more = len(ranges) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _matched(blocks: Iterable[_Block], rule: ForeignRule) -> list[_Block]:
    both = (
        _Block(common(block.sources, rule.sources), common(block.destinations, rule.destinations)) for block in blocks
    )
    return [block for block in both if block.sources and block.destinations]


def _rest(blocks: Iterable[_Block], rule: ForeignRule) -> list[_Block]:
    """Return the traffic that a rule without further conditions doesn't match."""
    left: list[_Block] = []
    for block in blocks:
        left.append(_Block(without(block.sources, rule.sources), block.destinations))
        left.append(_Block(common(block.sources, rule.sources), without(block.destinations, rule.destinations)))
    return [block for block in left if block.sources and block.destinations]


def _bounded(blocks: list[_Block]) -> list[_Block]:
    """Return the blocks, or a larger one instead of very many: more may be reported then, never less."""
    if len(blocks) <= _MOST_BLOCKS:
        return blocks
    whole = [
        _Block(
            joined(*(common(block.sources, of_family(family)) for block in blocks)),
            joined(*(common(block.destinations, of_family(family)) for block in blocks)),
        )
        for family in FAMILIES
    ]
    return [block for block in whole if block.sources and block.destinations]


def _members(found: NamedSet) -> Ranges:
    return tuple(item for item in found.elements if isinstance(item, Range))
