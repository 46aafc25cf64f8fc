"""`render --backend iptables`: a ruleset as input of ipset and of iptables-restore, and as objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from nfagent.model.netaddr import Family
from nfagent.xtables.objects import TableName, XtChain, XtRuleset
from nfagent.xtables.options import Unavailable
from nfagent.xtables.text import create_text, member_text, rule_text, rule_words

XtForm: TypeAlias = Literal["ipset", "iptables", "ip6tables"]
XT_FORMS: tuple[XtForm, ...] = ("ipset", "iptables", "ip6tables")
_FAMILIES: dict[XtForm, Family] = {"iptables": 4, "ip6tables": 6}
_PROGRAMS: dict[XtForm, str] = {
    "ipset": "ipset restore",
    "iptables": "iptables-restore --noflush",
    "ip6tables": "ip6tables-restore --noflush",
}


def xtables_text(ruleset: XtRuleset, unavailable: tuple[Unavailable, ...]) -> str:
    """Return everything, to read: each part under the program that takes it."""
    missing = (f"# not with iptables: {item.chain}: {item.rule}: {item.consequence}" for item in unavailable)
    return _joined(missing) + "\n".join(xtables_input(ruleset, form) for form in XT_FORMS)


def xtables_input(ruleset: XtRuleset, form: XtForm) -> str:
    """Return the input of one program; comments name the nftables objects that sets and chains come from.

    The counters that rules refer to must be there before: a comment has the command for each.
    """
    if form == "ipset":
        return _joined((f"# {_PROGRAMS[form]}", *_set_lines(ruleset)))
    counters = (f"# nfacct add {name}" for name in sorted(_used(ruleset, _FAMILIES[form])))
    return _joined((f"# {_PROGRAMS[form]}", *counters, *_chain_lines(ruleset, _FAMILIES[form])))


def xtables_objects(ruleset: XtRuleset, unavailable: tuple[Unavailable, ...]) -> dict[str, Any]:
    """Return sets, chains, jumps and counters as JSON has them, in the order of their names."""
    return {
        "sets": {
            name: {
                "create": create_text(name, item),
                "origin": item.origin,
                "members": sorted(map(member_text, item.members)),
            }
            for name, item in sorted(ruleset.sets.items())
        },
        "chains": [
            {
                "family": family,
                "table": table,
                "name": name,
                "origin": chain.origin,
                "rules": [" ".join(rule_words(rule)) for rule in chain.rules],
            }
            for (family, table, name), chain in sorted(ruleset.chains.items())
        ],
        "hooks": [
            {"family": family, "table": table, "hook": hook, "chain": name}
            for (family, table, hook), name in sorted(ruleset.hooks.items())
        ],
        "counters": sorted(ruleset.accounts),
        "unavailable": [
            {"chain": item.chain, "rule": item.rule, "consequence": item.consequence} for item in unavailable
        ],
    }


def _joined(lines: Iterator[str] | tuple[str, ...]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _set_lines(ruleset: XtRuleset) -> Iterator[str]:
    for name, item in sorted(ruleset.sets.items(), key=lambda found: (found[1].origin, found[0])):
        yield f"# {item.origin}"
        yield create_text(name, item)
        yield from sorted(f"add {name} {member_text(member)}" for member in item.members)


def _chain_lines(ruleset: XtRuleset, family: Family) -> Iterator[str]:
    tables: dict[TableName, dict[str, XtChain]] = {}
    for (of, table, name), chain in ruleset.chains.items():
        if of == family:
            tables.setdefault(table, {})[name] = chain
    for table, chains in sorted(tables.items()):
        yield f"*{table}"
        yield from (f":{name} - [0:0]" for name in sorted(chains))
        for name, chain in sorted(chains.items(), key=lambda found: (found[1].origin, found[0])):
            yield f"# {chain.origin}"
            yield from (rule_text(name, rule) for rule in chain.rules)
        for (of, of_table, hook), name in sorted(ruleset.hooks.items()):
            if (of, of_table) == (family, table):
                yield f"-I {hook} 1 -j {name}"
        yield "COMMIT"


def _used(ruleset: XtRuleset, family: Family) -> set[str]:
    """Return the counters that rules of a family count with."""
    matches = (match for key, chain in ruleset.chains.items() if key[0] == family for match in _matches(chain))
    return {match[-1] for match in matches if match[:2] == ("-m", "nfacct")}


def _matches(chain: XtChain) -> Iterator[tuple[str, ...]]:
    return (match for rule in chain.rules for match in rule.matches)
