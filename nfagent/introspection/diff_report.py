"""`dump diff`: where the kernel differs from the desired ruleset, and the commands that make it equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from nfagent.introspection.chunks import deferred, in_steps, whole
from nfagent.introspection.freshness import WHOLE, Freshness, ViewHead, head
from nfagent.introspection.views.json_value import View
from nfagent.model.netaddr import number
from nfagent.model.slices import sort_in_slices
from nfagent.nftables.diff import diff_in_steps
from nfagent.nftables.objects import Chain, NamedSet, Ruleset, VerdictMap
from nfagent.nftables.render import element_order, element_text, map_element_text, rule_text

_Object: TypeAlias = Chain | NamedSet | VerdictMap | None


class DiffView(ViewHead, frozen=True, kw_only=True):
    """Where the kernel differs from the desired ruleset.

    commands:    commands that make the kernel equal: of nft, or with iptables of a shell
    differences: one line each
    """

    commands: list[str]
    differences: list[str]
    equal: bool


def diff_view(kernel: Ruleset, wanted: Ruleset, lines: Iterable[str] | None = None) -> View:
    """Return the view as JSON decodes to; lines: as in `diff_parts`."""
    found: View = whole(diff_parts(kernel, wanted, lines=lines))
    return found


def diff_parts(
    kernel: Ruleset, wanted: Ruleset, freshness: Freshness = WHOLE, *, lines: Iterable[str] | None = None
) -> DiffView:
    """Return the view, made while it is written: both rulesets are immutable, of one moment each.

    lines: the commands where they aren't those of nft
    """
    written = 0

    def commands() -> Iterator[str | None]:
        nonlocal written
        for command in diff_in_steps(kernel, wanted):
            written += command is not None
            yield None if command is None or lines is not None else command.text()
        if written and lines is not None:
            yield from lines

    return DiffView(
        **head(freshness),
        commands=in_steps(commands()),
        differences=in_steps(_differences(kernel, wanted)),
        equal=deferred(lambda: not written),
    )


def _differences(kernel: Ruleset, wanted: Ruleset) -> Iterator[str | None]:
    if not kernel.exists:
        if wanted.exists:
            yield "the table is missing"
        return
    for kind, name in sorted(kernel.foreign):
        yield f"{kind} {name}: not nfagent's"
    kinds: tuple[tuple[str, Mapping[str, _Object], Mapping[str, _Object]], ...] = (
        ("counter", dict.fromkeys(kernel.counters), dict.fromkeys(wanted.counters)),
        ("set", kernel.sets, wanted.sets),
        ("map", kernel.maps, wanted.maps),
        ("chain", kernel.chains, wanted.chains),
    )
    for kind, there, here in kinds:
        for name in sorted(here.keys() - there.keys()):
            yield f"{kind} {name}: missing"
        for name in sorted(there.keys() - here.keys()):
            yield f"{kind} {name}: not wanted"
        for name in sorted(there.keys() & here.keys()):
            for words in _changed(there[name], here[name]):
                yield words and f"{kind} {name}: {words}"


def _changed(there: _Object, here: _Object) -> Iterator[str | None]:
    """Return how an object differs, line by line; None where nothing is found yet."""
    yield None
    if there == here:
        return
    found = False
    for words in _line_changes(there, here):
        found |= words is not None
        yield words
    if found:
        return
    if not isinstance(here, Chain):
        yield "has the same elements with another type or comment"
    else:
        other_hook = isinstance(there, Chain) and there.hook != here.hook
        yield "has the same rules at another hook" if other_hook else "has the same rules in another order"


def _line_changes(there: Any, here: Any) -> Iterator[str | None]:  # noqa: ANN401 - two objects of one kind
    if isinstance(here, Chain):
        before, after = ([rule_text(rule) for rule in chain.rules] for chain in (there, here))
        lacked, had = set(after) - set(before), set(before) - set(after)
        yield from (f"lacks  {line}" for line in after if line in lacked)
        yield from (f"has    {line}" for line in before if line in had)
    elif isinstance(here, VerdictMap):
        for verb, one, other in (("lacks ", here, there), ("has   ", there, here)):
            pairs = dict(one.elements.items() - other.elements.items())
            for address in sort_in_slices(pairs, number):
                yield None if address is None else f"{verb} {map_element_text(address, pairs[address])}"
    else:
        for verb, one, other in (("lacks ", here, there), ("has   ", there, here)):
            for element in sort_in_slices(one.elements - other.elements, element_order):
                yield None if element is None else f"{verb} {element_text(element)}"
