"""The difference of two rulesets as a transaction.

Order within a transaction: an object is added before the first reference to it, and deleted after the last reference
to it is gone. Packets see either the ruleset before or the ruleset after.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from nfagent.model.slices import sort_in_slices
from nfagent.nftables.objects import ABSENT, Chain, Element, Ruleset, VerdictMap
from nfagent.nftables.transaction import (
    AddChain,
    AddCounter,
    AddMap,
    AddRule,
    AddSet,
    AddTable,
    ChangeElements,
    ChangeMapElements,
    Command,
    Delete,
    FlushChain,
    RewriteChain,
    Transaction,
)
from nfagent.nftables.unknown_objects import Removal, is_clean, removal

_PER_COMMAND = 500
"""Elements in one command: a table from nothing is cut between commands, and shown text has one in a line."""


def diff(before: Ruleset, after: Ruleset, *, anew: bool = False) -> Transaction:
    """Return the commands that turn one ruleset into the other; none where they are equal.

    anew: delete and re-create the whole table if it has foreign objects; for a kernel that refused a partial removal
    """
    return tuple(command for command in diff_in_steps(before, after, anew=anew) if command is not None)


def diff_in_steps(before: Ruleset, after: Ruleset, *, anew: bool = False) -> Iterator[Command | None]:
    """Yield the same commands one by one; None while none is ready."""
    if not after.exists:
        if before.exists:
            yield Delete("table")
        return
    if not before.exists or is_clean(before, after):
        yield from _commands(before, after)
        return
    foreign = None if anew else removal(before, after)
    if foreign is None:
        yield Delete("table")
        yield from _commands(ABSENT, after)
    else:
        yield from _remove_foreign(foreign)
        yield from _commands(foreign.left, after)


def _remove_foreign(foreign: Removal) -> Iterator[Command]:
    if foreign.clears_flags:
        yield AddTable()
    for name in foreign.flushed:
        yield FlushChain(name)
    for name, elements in sorted(foreign.elements.items()):
        for part in _pair_parts(list(elements)):
            yield ChangeMapElements("delete", name, part)
    for kind, name in foreign.deleted:
        yield Delete(kind, name)


def _commands(before: Ruleset, after: Ruleset) -> Iterator[Command | None]:
    if not before.exists:
        yield AddTable()
    for counter in sorted(after.counters - before.counters):
        yield AddCounter(counter)
    for name in sorted(after.sets.keys() - before.sets.keys()):
        yield AddSet(name, msgspec.structs.replace(after.sets[name], elements=frozenset()))
    for name in sorted(after.maps.keys() - before.maps.keys()):
        yield AddMap(name, VerdictMap(after.maps[name].family, {}))
    for name in sorted(after.chains.keys() - before.chains.keys()):
        yield AddChain(name, Chain((), after.chains[name].hook))
    yield from _set_elements(before, after)
    yield from _rules(before, after)
    yield from _map_elements(before, after)
    yield from _deletions(before, after)


def _set_elements(before: Ruleset, after: Ruleset) -> Iterator[Command | None]:
    for name in sorted(after.sets):
        old = before.sets[name].elements if name in before.sets else frozenset()
        new = after.sets[name].elements
        if old != new:
            # Deletions first: a changed range overlaps the one that it replaces (docs/semantics.md, edge case 22).
            yield from _changes("delete", name, old - new)
            yield from _changes("add", name, new - old)
        yield None


def _changes(verb: Literal["add", "delete"], name: str, elements: frozenset[Element]) -> Iterator[Command | None]:
    """Yield the commands for elements of one kind; sorted, so that equal changes give equal commands."""
    part: list[Element] = []
    for element in sort_in_slices(elements):
        if element is None:
            yield None
            continue
        part.append(element)
        if len(part) == _PER_COMMAND:
            yield ChangeElements(verb, name, tuple(part))
            part = []
    if part:
        yield ChangeElements(verb, name, tuple(part))


def _rules(before: Ruleset, after: Ruleset) -> Iterator[Command | None]:
    for name in sorted(after.chains):
        old = before.chains[name].rules if name in before.chains else ()
        new = after.chains[name].rules
        yield None
        if old != new:
            if new[: len(old)] == old:
                for rule in new[len(old) :]:
                    yield AddRule(name, rule)
            else:
                yield RewriteChain(name, old, new)
    for name in sorted(before.chains.keys() - after.chains.keys()):
        yield FlushChain(name)


def _map_elements(before: Ruleset, after: Ruleset) -> Iterator[Command]:
    for name in sorted(before.maps.keys() - after.maps.keys()):
        # Together with all other element changes, before the map itself is deleted.
        for part in _pair_parts(sorted(before.maps[name].elements.items())):
            yield ChangeMapElements("delete", name, part)
    for name in sorted(after.maps):
        old = before.maps[name].elements.items() if name in before.maps else set()
        new = after.maps[name].elements.items()
        if old != new:
            for part in _pair_parts(sorted(old - new)):
                yield ChangeMapElements("delete", name, part)
            for part in _pair_parts(sorted(new - old)):
                yield ChangeMapElements("add", name, part)


def _deletions(before: Ruleset, after: Ruleset) -> Iterator[Command]:
    for name in sorted(before.maps.keys() - after.maps.keys()):
        yield Delete("map", name)
    for name in sorted(before.chains.keys() - after.chains.keys()):
        yield Delete("chain", name)
    for name in sorted(before.sets.keys() - after.sets.keys()):
        yield Delete("set", name)
    for name in sorted(before.counters - after.counters):
        yield Delete("counter", name)


def _pair_parts(elements: list[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], ...]]:
    for start in range(0, len(elements), _PER_COMMAND):
        yield tuple(elements[start : start + _PER_COMMAND])
