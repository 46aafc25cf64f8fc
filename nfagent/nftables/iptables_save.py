"""Reads the nat table of iptables-save's text. Total: an option that isn't known narrows its rule."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import msgspec

from nfagent.model.netaddr import AddressError, Family, Range, canonical, family_of, number, parse_cidr, single
from nfagent.nftables.foreign_rules import Action, ForeignRule, ForeignTable, Ranges, common, of_family, other_than
from nfagent.nftables.save_lines import save_lines

_PRIORITY = 100
"""NF_IP_PRI_NAT_SRC: iptables has no other."""
_ACTIONS: dict[str, Action] = {
    "MASQUERADE": "masquerade",
    "SNAT": "snat",
    "NETMAP": "snat",
    "ACCEPT": "accept",
    "DROP": "accept",
    "RETURN": "return",
}
_GOES_ON = frozenset({"LOG", "NFLOG", "TRACE"})
_MARKS = frozenset({"MARK", "CONNMARK"})
_IGNORED = frozenset({"-m", "--match", "--comment"})
_ADDRESSES = {"-s": "sources", "-d": "destinations", "--src-range": "sources", "--dst-range": "destinations"}
_QUOTED = re.compile("""'([^']*+)'|"([^"]*+)\"""")
_WORD = re.compile(r"""(?:[^ \t\r\n'"]++|'[^']*+'|"[^"]*+")++""")
_LOCAL_TYPES = frozenset({"--src-type", "--dst-type"})


def parse_iptables_save(saved: str, name: str, family: Family, shown: str = "") -> ForeignTable:
    """Return table nat of the text of `iptables-save` or `ip6tables-save`, named `name` in messages."""
    chains: dict[str, list[ForeignRule]] = {}
    table = ""
    for line in save_lines(saved):
        if line.startswith("*"):
            table = line[1:].strip()
        elif table == "nat" and line.startswith(":"):
            chains.setdefault(line[1:].split(" ")[0], [])
        elif table == "nat" and line.startswith("-A "):
            chain, rule = _rule(line, family)
            chains.setdefault(chain, []).append(rule)
    bases = (("POSTROUTING", _PRIORITY),) if "POSTROUTING" in chains else ()
    return ForeignTable(name, family, bases, {key: tuple(rules) for key, rules in chains.items()}, shown)


def _rule(line: str, family: Family) -> tuple[str, ForeignRule]:
    try:
        words = split_words(line)
    except ValueError:
        words = [*line.split()[:2], "unreadable"]
    rule = ForeignRule(text=line, sources=of_family(family), destinations=of_family(family))
    for option, values, negated in _options(words[2:]):
        rule = _with_option(rule, option, values, family, negated=negated)
        if option in {"-j", "-g"}:
            break  # the target's own options follow
    return (words[1] if len(words) > 1 else ""), rule


def split_words(line: str) -> list[str]:
    """Return the words of a line as a shell reads it, many times faster than shlex. Raises ValueError."""
    if "\\" in line:
        return shlex.split(line)
    if "'" not in line and '"' not in line:
        return _WORD.findall(line)
    bare = _QUOTED.sub("", line)
    if "'" in bare or '"' in bare:
        raise ValueError("No closing quotation")
    words = _WORD.findall(line)
    return [_QUOTED.sub(r"\1\2", word) if "'" in word or '"' in word else word for word in words]


def _options(words: list[str]) -> Iterator[tuple[str, list[str], bool]]:
    """Yield each option, its values, and whether it is negated: `! -s 10.0.0.0/8`."""
    position, negated = 0, False
    while position < len(words):
        if words[position] == "!":
            position, negated = position + 1, True
            continue
        end = position + 1
        while end < len(words) and words[end] != "!" and not words[end].startswith("-"):
            end += 1
        # A comment may begin with a dash.
        end = position + 2 if words[position] == "--comment" else end
        yield words[position], words[position + 1 : end], negated
        position, negated = end, False


def _with_option(rule: ForeignRule, option: str, values: list[str], family: Family, *, negated: bool) -> ForeignRule:
    value = values[0] if values else ""
    if option in _IGNORED:
        return rule
    if option in {"-j", "-g"}:
        return _with_target(rule, option, value)
    if option in _ADDRESSES:
        return _with_addresses(rule, _ADDRESSES[option], value, family, negated=negated)
    if option == "--mark":
        wanted = _number(value.split("/", maxsplit=1)[0])
        return _changed(rule, mark="unset" if (wanted == 0) != negated else "set")
    if (option in _LOCAL_TYPES and value == "LOCAL") or (option in {"-o", "--out-interface"} and value == "lo"):
        # Traffic of Pods that is forwarded: neither its source nor its destination is an address of the node.
        return rule if negated else _changed(rule, never=True)
    return _changed(rule, narrowed=True)


def _with_target(rule: ForeignRule, option: str, target: str) -> ForeignRule:
    if target in _ACTIONS:
        return _changed(rule, action=_ACTIONS[target])
    if target in _MARKS:
        return _changed(rule, marks=True)
    if target in _GOES_ON:
        return rule
    return _changed(rule, action="goto" if option == "-g" else "jump", target=target)


def _with_addresses(rule: ForeignRule, field: str, value: str, family: Family, *, negated: bool) -> ForeignRule:
    try:
        found = (_range(value),)
    except (AddressError, ValueError):
        return _changed(rule, narrowed=True)
    ranges: Ranges = other_than(found, family) if negated else found
    return _changed(rule, **{field: common(getattr(rule, field), ranges)})


def _range(value: str) -> Range:
    first, _, last = value.partition("-")
    if last:
        return Range(family_of(first), number(first), number(last))
    return parse_cidr(value) if "/" in value else single(canonical(value))


def _number(value: str) -> int | None:
    try:
        return int(value, 0)
    except ValueError:
        return None


def _changed(rule: ForeignRule, **fields: object) -> ForeignRule:
    changed: ForeignRule = msgspec.structs.replace(rule, **fields)
    return changed
