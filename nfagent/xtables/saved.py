"""Reads iptables-save's text back into values: our chains, and what leads to them. Total: any text gives a value.

A rule is the words that iptables-save prints, so a rule of another program in a chain of ours is equal to no rule of
ours, and a comparison removes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import get_args

import msgspec

from nfagent.model.netaddr import Family
from nfagent.nftables.save_lines import save_lines
from nfagent.xtables.names import PREFIX, TEMPORARY_PREFIX
from nfagent.xtables.objects import TABLES, ChainKey, HookChain, HookKey, TableName, XtChain, XtRule

_TABLES: dict[str, TableName] = {name: name for name in TABLES}
_HOOKS: dict[str, HookChain] = {name: name for name in get_args(HookChain)}
_HEADER_OPTIONS = frozenset({"-s", "-d", "-i", "-o", "-p", "-f"})
_TARGET_OPTIONS = frozenset({"-j", "-g"})
_FLAGS = frozenset(
    (
        *("--accept-local", "--invert", "--loose", "--validmark"),  # rpfilter
        *("--nowildcard", "--restore-skmark", "--transparent"),  # socket
        *("--physdev-is-bridged", "--physdev-is-in", "--physdev-is-out"),
        *("--limit-iface-in", "--limit-iface-out"),  # addrtype
        *("--rcheck", "--rdest", "--reap", "--remove", "--rttl", "--set", "--update"),  # recent
        "--rsource",  # codespell:ignore rsource
        *("--contiguous", "--kerneltz"),  # time
        *("--fragfirst", "--fraglast", "--fragmore", "--fragres"),
        *("--ipvs", "--next", "--return-nomatch", "--socket-exists", "--strict", "--suppl-groups"),
    )
)
"""Options that iptables-save prints last of a match, and that have no value."""
_COUNTS = "["
_QUOTE = '"'
_WORDS = re.compile(r'"((?:[^"\\]|\\.)*)"(?= |$)|(\S+)')
_ESCAPED = re.compile(r"\\(.)")
"""iptables-save puts a backslash before quotes of both kinds, and before a backslash."""


class SavedTable(msgspec.Struct, frozen=True):
    """What one table of one family has of us.

    chains:    our chains
    hooks:     the chain of ours that the first rule of a built-in chain jumps to, without a condition
    elsewhere: further rules of others' chains that lead to ours: (chain, rule), in order. Among them are jumps that
               another program has put rules before, and one that is there twice
    """

    chains: dict[ChainKey, XtChain]
    hooks: dict[HookKey, str]
    elsewhere: tuple[tuple[str, XtRule], ...]


def parse_saved(saved: str, family: Family) -> dict[TableName, SavedTable]:
    """Return the tables in the text of iptables-save, or of ip6tables-save, that we have chains in or could have."""
    found: dict[TableName, SavedTable] = {}
    table: TableName | None = None
    lines: list[str] = []
    for line in save_lines(saved):
        if line.startswith("*"):
            table, lines = _TABLES.get(line[1:].strip()), []
        elif line.startswith("COMMIT") and table is not None:
            found[table] = _table(lines, family, table)
            table = None
        else:
            lines.append(line)
    return found


def is_ours(name: str) -> bool:
    """Return whether a name is one of ours."""
    return name.startswith((PREFIX, TEMPORARY_PREFIX))


def rules_total(saved: str) -> int:
    """Return the number of rules in the text, of all programs."""
    return sum(line.startswith("-A ") for line in save_lines(saved))


def words_of(rule: XtRule) -> Iterator[str]:
    """Yield the words of a rule behind its chain, as they are written."""
    for match in rule.matches:
        yield from match
    if rule.comment:
        yield from ("-m", "comment", "--comment", rule.comment)
    yield from rule.target


def parse_rule(words: list[str]) -> XtRule:
    """Return the rule of words behind the chain's name."""
    matches: list[tuple[str, ...]] = []
    target: tuple[str, ...] = ()
    comment = ""
    for group in _groups(words):
        if group[:3] == ("-m", "comment", "--comment") and len(group) == len(("-m", "comment", "--comment", "text")):
            comment = group[3]
        elif group[0] in _TARGET_OPTIONS:
            target = group
        else:
            matches.append(group)
    return XtRule(tuple(matches), target, comment)


def _table(lines: Iterable[str], family: Family, table: TableName) -> SavedTable:
    chains: dict[ChainKey, list[XtRule]] = {}
    hooks: dict[HookKey, str] = {}
    elsewhere: list[tuple[str, XtRule]] = []
    begun: set[str] = set()
    for line in lines:
        if line.startswith(":"):
            name = line[1:].split(" ")[0]
            if is_ours(name):
                chains.setdefault((family, table, name), [])
            continue
        # A line begins with the rule's counts where the program was told to print them.
        counted = line.partition("] ")[2] if line.startswith(_COUNTS) else line
        if not counted.startswith("-A "):
            continue
        chain = counted.split(" ", 2)[1]
        is_first = chain not in begun
        begun.add(chain)
        if is_ours(chain):
            chains.setdefault((family, table, chain), []).append(_rule(counted))
        elif f" {PREFIX}" in counted and is_ours(_target(rule := _rule(counted))):
            hook = _HOOKS.get(chain)
            if is_first and hook is not None and not rule.matches and not rule.comment and rule.target[0] == "-j":
                hooks[family, table, hook] = rule.target[1]
            else:
                elsewhere.append((chain, rule))
    return SavedTable({key: XtChain(tuple(rules)) for key, rules in chains.items()}, hooks, tuple(elsewhere))


def _target(rule: XtRule) -> str:
    return rule.target[1] if len(rule.target) > 1 else ""


def _rule(line: str) -> XtRule:
    if "\n" in line:
        return XtRule(((line,),))  # iptables-restore can't be given such a rule
    found = _WORDS.findall(line)
    words = [bare or _ESCAPED.sub(r"\1", quoted) for quoted, bare in found]
    if len(words) < len(("-A", "chain")) or any(_QUOTE in bare for _, bare in found):
        return XtRule(((line,),))
    return parse_rule(words[2:])


def _groups(words: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the words of each match, and of the target with its options."""
    group: list[str] = []
    in_target = False
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else ""
        is_negated_header = word == "!" and following in _HEADER_OPTIONS
        begins = word in _HEADER_OPTIONS | _TARGET_OPTIONS | {"-m"} or is_negated_header
        # The value of an option may look like one: a comment, or the prefix of a log.
        is_value = bool(group) and ((group[-1].startswith("--") and group[-1] not in _FLAGS) or group == ["!"])
        if group and begins and not in_target and not is_value:
            yield tuple(group)
            group = []
        in_target = in_target or (begins and word in _TARGET_OPTIONS and not is_value)
        group.append(word)
    if group:
        yield tuple(group)
