"""The input of iptables-restore that makes chains, and the jumps to them, those of another ruleset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nfagent.model.netaddr import Family
from nfagent.xtables.listing import StrayJump, XtListing
from nfagent.xtables.objects import ChainKey, HookKey, TableName, XtRuleset
from nfagent.xtables.text import rule_text, rule_words

TABLES: tuple[TableName, ...] = ("raw", "mangle", "nat")


def changed_chains(before: XtRuleset, after: XtRuleset) -> frozenset[ChainKey]:
    """Return the chains that differ, come or go."""
    return frozenset(
        key for key in before.chains.keys() | after.chains.keys() if before.chains.get(key) != after.chains.get(key)
    )


def changed_hooks(before: XtRuleset, after: XtRuleset) -> frozenset[HookKey]:
    """Return the built-in chains whose first jump differs, comes or goes."""
    return frozenset(
        key for key in before.hooks.keys() | after.hooks.keys() if before.hooks.get(key) != after.hooks.get(key)
    )


def restore_changes(before: XtListing, after: XtRuleset, family: Family) -> str:
    """Return the input for a family, '' without a change: each table is changed in one moment.

    Jumps of ours that stand in a wrong place go, and come in the right one in the same moment.
    """
    lines: list[str] = []
    chains, hooks = changed_chains(before.ruleset, after), changed_hooks(before.ruleset, after)
    for table in TABLES:
        of_table = sorted(key for key in chains if key[:2] == (family, table))
        stray = [item for item in before.stray if item[:2] == (family, table)]
        # Deleting a second jump deletes the first of both, which is equal: so it is put there again.
        disturbed = {chain for _, _, chain, _ in stray}
        places = sorted(
            key
            for key in before.ruleset.hooks.keys() | after.hooks.keys()
            if key[:2] == (family, table) and (key in hooks or key[2] in disturbed)
        )
        if of_table or places or stray:
            lines += (f"*{table}", *_table_lines(before, after, of_table, places, stray), "COMMIT")
    return "".join(f"{line}\n" for line in lines)


def _table_lines(
    before: XtListing, after: XtRuleset, chains: list[ChainKey], hooks: list[HookKey], stray: Iterable[StrayJump]
) -> Iterator[str]:
    # A chain that is declared loses its rules, so that one that goes refers to none that goes before it.
    yield from (f":{key[2]} - [0:0]" for key in chains)
    for key in chains:
        if key in after.chains:
            yield from (rule_text(key[2], rule) for rule in after.chains[key].rules)
    for _, _, chain, rule in stray:
        yield " ".join(("-D", chain, *rule_words(rule)))
    for hook in hooks:
        if hook in before.ruleset.hooks:
            yield f"-D {hook[2]} -j {before.ruleset.hooks[hook]}"
        if hook in after.hooks:
            yield f"-I {hook[2]} 1 -j {after.hooks[hook]}"
    yield from (f"-X {key[2]}" for key in chains if key not in after.chains)
