"""Sets and chains as input of `ipset restore` and `iptables-restore --noflush`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nfagent.xtables.objects import IpSet, SetMember, XtRule

_INET = {4: "inet", 6: "inet6"}
_PLAIN = re.compile(r"[\w\-./:,!~]+")
LONGEST_COMMENT = 255
"""Bytes of a comment (XT_MAX_COMMENT_LEN of linux/netfilter/xt_comment.h, with a NUL: 256)."""


def member_text(member: SetMember) -> str:
    """Return a member as ipset reads it: `10.0.0.1`, `10.0.0.0/8`, `10.0.0.1,tcp:80`."""
    match member:
        case (address, int(length), interface):
            return f"{address}/{length},{interface}"
        case (address, int(length)):
            return f"{address}/{length}"
        case (address, protocol, port, other):
            return f"{address},{protocol}:{port},{other}"
        case (address, protocol, port):
            return f"{address},{protocol}:{port}"
        case _:
            return str(member)


def create_text(name: str, item: IpSet) -> str:
    """Return the line that creates a set."""
    if item.type == "bitmap:port":
        return f"create {name} bitmap:port range 0-65535"
    words = ["create", name, item.type, "family", _INET[item.family]]
    if item.size:
        words += ["maxelem", str(item.size)]
    if item.timeout:
        words += ["timeout", str(item.timeout)]
    if item.counters:
        words.append("counters")
    return " ".join(words)


def rule_text(chain: str, rule: XtRule, place: int = 0) -> str:
    """Return the line that appends a rule to a chain; place: its number in the chain, for one that is inserted."""
    return " ".join((*(("-I", chain, str(place)) if place else ("-A", chain)), *rule_words(rule)))


def rule_words(rule: XtRule) -> Iterator[str]:
    """Yield the words of a rule behind its chain, quoted."""
    comment = ("-m", "comment", "--comment", rule.comment) if rule.comment else ()
    words = (*(word for match in rule.matches for word in match), *comment, *rule.target)
    yield from map(_quoted, words)


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    escaped = "".join(
        f"\\{char}" if char in '"\\' else char for char in word.encode()[:LONGEST_COMMENT].decode("utf-8", "ignore")
    )
    return f'"{escaped}"'
