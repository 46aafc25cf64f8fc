"""Reads the nat rules of other programs at hook postrouting: those of nftables, iptables-nft and iptables-legacy.

Only base chains and the chains that they lead to are listed, so that a large table of another program costs little.
The tables of iptables-legacy are read by its own program, and only where the kernel names a nat table of it: otherwise
that program would load its modules.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from nfagent.clock import Clock
from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.backend_choice import has_nf_tables
from nfagent.kernel.iptables_save import INSTALL, legacy_tables, run_save, unknown_tables, unreadable
from nfagent.kernel.listing_process import ListingProcess
from nfagent.kernel.table_queries import list_tables, xt_matches
from nfagent.model.netaddr import Family
from nfagent.netlink.nft_events import TABLE_DORMANT
from nfagent.netlink.nft_messages import FAMILY_NUMBERS
from nfagent.nftables.foreign_json import (
    BaseChain,
    parse_base_chains,
    parse_elements,
    parse_rules,
    parse_targets,
    parse_texts,
    referred_sets,
)
from nfagent.nftables.foreign_nat import NatConflict, find_conflicts, translated_traffic
from nfagent.nftables.foreign_rules import ForeignRule, ForeignTable, Ranges
from nfagent.nftables.iptables_save import parse_iptables_save
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.unknown_objects import is_identifier
from nfagent.xtables.saved import is_ours

log = logging.getLogger(__name__)

_MOST_CHAINS = 500
_MOST_LINES = 10
"""Rules that are logged at once: a network plugin may have one for each Pod."""
_LEGACY: tuple[tuple[Family, str], ...] = ((4, "iptables"), (6, "ip6tables"))

_Key: TypeAlias = tuple[str, str, str, str]


class ForeignNat(msgspec.Struct, frozen=True):
    """The tables that could be read, and why others could not."""

    tables: tuple[ForeignTable, ...] = ()
    problems: tuple[str, ...] = ()


def read_foreign_nat() -> ForeignNat:
    """Read the nat tables of other programs. Raises KernelError, HostError where nftables can't be read at all."""
    tables: list[ForeignTable] = []
    problems: list[str] = []
    if has_nf_tables():
        with closing(ListingProcess()) as listing:
            tables, problems = _nft_tables(listing)
    for family, program in _LEGACY:
        try:
            tables += _legacy_tables(family, program)
        except KernelError as error:
            problems.append(str(error))
    return ForeignNat(tuple(map(_without_ours, tables)), tuple(problems))


def _without_ours(table: ForeignTable) -> ForeignTable:
    """Return a table without the rules that lead to chains of ours, which are in others' tables where iptables is."""
    chains = {name: tuple(rule for rule in rules if not is_ours(rule.target)) for name, rules in table.chains.items()}
    return msgspec.structs.replace(table, chains=chains)


def _nft_tables(listing: ListingProcess) -> tuple[list[ForeignTable], list[str]]:
    tables: list[ForeignTable] = []
    problems: list[str] = []
    try:
        bases = parse_base_chains(listing.listed("list chains") or '{"nftables": []}')
    except WireError as error:
        return [], [f"the chains of other programs can't be read: {error}"]
    dormant = {(table.family, table.name) for table in list_tables() if table.flags & TABLE_DORMANT}
    for base in bases:
        if (FAMILY_NUMBERS[base.table_family], base.table) in dormant:
            continue
        try:
            table, left = _nft_table(listing, base)
            tables.append(table)
            if left:
                problems.append(
                    f"table {base.table_family} {base.table}: only {_MOST_CHAINS} chains from {base.name} were read"
                )
        except (KernelError, WireError) as error:
            problems.append(f"table {base.table_family} {base.table} can't be read: {error}")
    return tables, problems


def _nft_table(listing: ListingProcess, base: BaseChain) -> tuple[ForeignTable, bool]:
    """Return a base chain with the chains that it leads to, and whether chains were left out."""
    place = f"{base.table_family} {base.table}"
    chains: dict[str, tuple[ForeignRule, ...]] = {}
    open_chains = [base.name]
    while open_chains and len(chains) < _MOST_CHAINS:
        name = open_chains.pop()
        chains[name] = _nft_rules(listing, base, name)
        targets = {rule.target for rule in chains[name] if rule.action in {"jump", "goto"} and not rule.never}
        open_chains += sorted(targets - chains.keys() - set(open_chains))
    shown = f"nft -a list chain {place} {base.name}"
    table = ForeignTable(f"table {place}", base.family, ((base.name, base.priority),), chains, shown)
    return table, bool(open_chains)


def _nft_rules(listing: ListingProcess, base: BaseChain, chain: str) -> tuple[ForeignRule, ...]:
    place = f"{base.table_family} {_word('table', base.table)}"
    found = listing.listed(f"list chain {place} {_word('chain', chain)}")
    if found is None:
        return ()
    texts = parse_texts(listing.listed(f"list chain {place} {chain}", as_text=True) or "")
    sets: dict[str, Ranges | None] = {}
    maps: dict[str, list[ForeignRule]] = {}
    for name in sorted(referred_sets(found)):
        _word("set", name)
        if (members := listing.listed(f"list set {place} {name}")) is not None:
            sets[name] = parse_elements(members)
        elif (members := listing.listed(f"list map {place} {name}")) is not None:
            maps[name] = parse_targets(members)
    matches = xt_matches(base.table_family, base.table, chain) if '"xt"' in found else {}
    return parse_rules(found, texts, sets, maps, matches)


def _word(kind: str, name: str) -> str:
    """Return a name that nft reads as one word. Raises KernelError for others, which the kernel takes from netlink."""
    if not is_identifier(name):
        raise KernelError(f"nft can't name its {kind} {name!r}")
    return name


def _legacy_tables(family: Family, program: str) -> list[ForeignTable]:
    """Return the nat table of iptables-legacy, none where there is none. Raises KernelError where it can't be read."""
    name = f"{program}-legacy, table nat"
    tables = legacy_tables(f"{program}-legacy")
    if tables is None:
        raise unknown_tables(f"{program}-legacy")
    if "nat" not in tables:
        return []
    found = shutil.which(f"{program}-legacy-save")
    if found is None:
        raise KernelError(f"{name} exists and can't be read: {program}-legacy-save is missing", hint=INSTALL)
    done = run_save(found, name, "-t", "nat")
    if done.returncode != 0:
        raise unreadable(done, name)
    return [parse_iptables_save(done.stdout, name, family, f"{program}-legacy -t nat -S")]


class NatConflictWatch:
    """Looks for nat rules of other programs that translate Pods' traffic otherwise; logs each once, and its end.

    found:  these rules, as of the last look that could read any
    unread: why no rule of others could be read, '' where some could
    """

    def __init__(
        self, ruleset: Callable[[], Ruleset], clock: Clock, read: Callable[[], ForeignNat] = read_foreign_nat
    ) -> None:
        """Store where the ruleset of nfagent comes from, and how others' rules are read, in a thread."""
        self._ruleset = ruleset
        self._clock = clock
        self._read = read
        self._changed = asyncio.Event()
        self._compared = False
        self._said: dict[_Key, str] = {}
        self._problems: tuple[str, ...] = ()
        self.found: tuple[NatConflict, ...] = ()
        self.unread = ""

    def mark_changed(self) -> None:
        """Mark the rules of other programs, or one's own, as changed: they are compared soon."""
        self._changed.set()

    async def run(self, seconds: float = 60.0) -> None:
        """Compare now, after `mark_changed`, and every so many seconds, until cancelled.

        Until nfagent has rules of its own, it looks for them every second.
        """
        never = asyncio.Event()
        while True:
            self._changed.clear()
            began = self._clock.monotonic()
            await self.refresh()
            # A program that changes its rules without end makes this take a tenth of the time at most.
            await self._clock.wait(never, max(1.0, (self._clock.monotonic() - began) * 9))
            if self._compared:
                await self._clock.wait(self._changed, seconds)

    async def refresh(self) -> None:
        """Compare once, in a thread. A failure is logged once."""
        traffic = translated_traffic(self._ruleset())
        self._compared = traffic is not None
        if traffic is None:
            self.unread = ""
            self._update((), ())
            return
        try:
            read = await asyncio.to_thread(self._read)
            found = await asyncio.to_thread(find_conflicts, read.tables, traffic)
        except (KernelError, HostError) as error:
            self.unread = str(error)
            self._update(self.found, (self.unread,))
            return
        self.unread = ""
        self._update(found, read.problems)

    def status(self) -> dict[str, Any]:
        """Return the conflicts and what could not be read, for `dump state`."""
        return {"conflicts": [conflict_fields(item) for item in self.found], "problems": list(self._problems)}

    @property
    def reports(self) -> tuple[str, ...]:
        """A text for each conflict, at most ten; it stays while the rule does, whatever its traffic is meanwhile."""
        return tuple(islice(self._said.values(), _MOST_LINES))

    def _update(self, found: tuple[NatConflict, ...], problems: tuple[str, ...]) -> None:
        news, gone = list(_beyond(found, self.found)), list(_beyond(self.found, found))
        self._said = {_key(item): self._said.get(_key(item), f"{item}; {item.fix}") for item in found}
        for item in news[:_MOST_LINES]:
            log.warning("%s; %s", item, item.fix)
        for item in gone[:_MOST_LINES]:
            log.info("resolved: %s, chain %s: rule `%s` is gone or harmless", item.table, item.chain, item.rule)
        if len(news) > _MOST_LINES:
            log.warning("%d more rules like these: nfagent dump state shows them", len(news) - _MOST_LINES)
        for problem in problems:
            if problem not in self._problems:
                log.warning("cannot check whether other programs translate Pods' traffic: %s; retrying", problem)
        self.found, self._problems = found, problems


def conflict_fields(conflict: NatConflict) -> dict[str, Any]:
    """Return a conflict's fields, and its sentence as `message`."""
    fields: dict[str, Any] = msgspec.to_builtins(conflict)
    return {**fields, "message": str(conflict)}


def _beyond(found: Iterable[NatConflict], known: Iterable[NatConflict]) -> Iterator[NatConflict]:
    """Yield conflicts of rules that are not among the known; other destinations of the same rule are no news."""
    before = {_key(item) for item in known}
    return (item for item in found if _key(item) not in before)


def _key(conflict: NatConflict) -> _Key:
    return conflict.table, conflict.chain, conflict.rule, conflict.effect
