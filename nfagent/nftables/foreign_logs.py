"""Rules of other programs that log to an NFLOG group, and the text of iptables-legacy-save that names some of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from nfagent.model.plurals import counted
from nfagent.nftables.save_lines import save_lines

GROUP_HINT = "set another group that no program uses: [logging] group in /etc/nfagent/nfagent.toml"

_TARGET = re.compile(r" -j NFLOG(?= |\Z)")
_GROUP = re.compile(r" --nflog-group (\d{1,5})(?= |\Z)", re.ASCII)
_DEFAULT_GROUP = 0


class LogUse(msgspec.Struct, frozen=True, order=True):
    """A rule of another program that logs to a group.

    place: table and chain as their users call them: `table ip filter, chain INPUT`
    rule:  as its own tool shows it
    """

    place: str
    rule: str

    def __str__(self) -> str:
        """Return place and rule."""
        return f"{self.place}, `{self.rule}`"


def logs_in_save(saved: str, name: str, group: int) -> Iterator[LogUse]:
    """Yield the rules in the text of iptables-save that log to a group; `name` is the program's.

    Total: a group that can't be read counts as this one.
    """
    table = ""
    for line in save_lines(saved):
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith("-A ") and _TARGET.search(line) and _group(line, group) == group:
            yield LogUse(f"{name}, table {table}, chain {line.split(' ', 2)[1]}", line)


def _group(line: str, otherwise: int) -> int:
    if "--nflog-group" not in line:
        return _DEFAULT_GROUP
    found = _GROUP.search(line)
    return int(found[1]) if found else otherwise


def describe_uses(group: int, uses: Sequence[LogUse]) -> str:
    """Return that other programs' rules, at least one, log to a group; names the first."""
    more = f" and {counted(len(uses) - 1, 'more rule')}" if len(uses) > 1 else ""
    return f"other programs log to NFLOG group {group} too: {uses[0]}{more}; {GROUP_HINT}"
