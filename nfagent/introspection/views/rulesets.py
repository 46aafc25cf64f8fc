"""`dump ruleset` and `dump kernel`: a ruleset as annotated text, as nft commands, and as objects."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.introspection.chunks import deferred, in_steps, text_in_steps, whole
from nfagent.introspection.freshness import WHOLE, Freshness, ViewHead, head
from nfagent.introspection.view_filter import ViewFilter
from nfagent.introspection.views.json_value import View
from nfagent.model.slices import sort_in_slices
from nfagent.nftables.objects import FLAGGED, TABLE_FLAGS, UNFLAGGED, Ruleset
from nfagent.nftables.render import Annotate, table_parts

_ALL = ViewFilter()


class RulesetView(ViewHead, frozen=True, kw_only=True):
    """A ruleset, in the forms that the request names.

    nothing: why there are no rules, '' where there are some
    text:    for reading, with Pod names beside addresses
    nft:     for `nft -f`
    objects: nftables.objects.Ruleset by msgspec's rules, with sets and lists sorted
    """

    nothing: str
    text: str | msgspec.UnsetType = msgspec.UNSET
    nft: str | msgspec.UnsetType = msgspec.UNSET
    objects: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


def ruleset_view(ruleset: Ruleset, annotate: Annotate | None) -> View:
    """Return the view as JSON decodes to, in all forms."""
    found: View = whole(ruleset_parts(ruleset, annotate))
    return found


def ruleset_parts(
    ruleset: Ruleset, annotate: Annotate | None, scope: ViewFilter = _ALL, freshness: Freshness = WHOLE
) -> RulesetView:
    """Return a ruleset, or a scope's part of it, made while it is written, in the form that the scope names."""
    wanted = {scope.form} if scope.form else {"text", "nft", "objects"}
    empty = ruleset.exists and bool(scope.words) and not ruleset.maps
    flagged = f"whether these rules are in force: {FLAGGED} ({UNFLAGGED})" if TABLE_FLAGS in ruleset.foreign else ""
    return RulesetView(
        **head(freshness, flagged),
        nothing=f"no rules for {scope.words}: no policy in this ruleset selects any of its addresses" if empty else "",
        text=text_in_steps(table_parts(ruleset, annotate)) if "text" in wanted else msgspec.UNSET,
        nft=text_in_steps(table_parts(ruleset)) if "nft" in wanted else msgspec.UNSET,
        objects=_objects(ruleset) if "objects" in wanted else msgspec.UNSET,
    )


def _objects(ruleset: Ruleset) -> dict[str, Any]:
    """Return a ruleset's objects, in the order of their names, as msgspec writes structs."""
    shown = msgspec.structs.asdict(ruleset)
    shown["sets"] = {
        name: {**msgspec.structs.asdict(item), "elements": in_steps(map(_builtins, sort_in_slices(item.elements)))}
        for name, item in sorted(ruleset.sets.items())
    }
    shown["maps"] = {name: deferred(partial(_builtins, item)) for name, item in sorted(ruleset.maps.items())}
    shown["chains"] = {
        name: {"rules": in_steps(map(_builtins, item.rules)), "hook": _builtins(item.hook)}
        for name, item in sorted(ruleset.chains.items())
    }
    return {**shown, "counters": sorted(ruleset.counters), "foreign": _builtins(ruleset.foreign)}


def _builtins(value: object) -> Any:  # noqa: ANN401 - any JSON value
    return msgspec.to_builtins(value, str_keys=True, order="deterministic")


def annotation(desired: DesiredState) -> Callable[[str], str]:
    """Return the function that names the Pod of an address, NAMESPACE/NAME, or ''."""

    def words(address: str) -> str:
        pod = desired.cluster.holder(address)
        return pod.ref.path if pod is not None else ""

    return words
