"""Rules of other programs that use bits of the packet mark: those of nft's listings, of iptables-save, of routing.

Total: a form that isn't known is taken to use every bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from nfagent.nftables.foreign_json import objects
from nfagent.nftables.objects import MARK_BITS, TABLE, TABLE_FAMILY
from nfagent.nftables.save_lines import save_lines

_SAVED = re.compile(
    r" --(?P<option>set-xmark|set-mark|and-mark|or-mark|xor-mark|mark|restore-mark|tproxy-mark)(?P<rest>( [^-]\S*)?)"
)
_RESTORE_MASK = re.compile(r" --(?:nfmask|mask) (?P<mask>\S+)")


class MarkUse(msgspec.Struct, frozen=True, order=True):
    """A rule of another program that sets or matches bits of the packet mark.

    place: table and chain as their users call them: `table ip mangle, chain PREROUTING`
    rule:  as its own tool shows it
    bits:  the bits that it sets or matches
    sets:  whether it sets them
    """

    place: str
    rule: str
    bits: int
    sets: bool

    def __str__(self) -> str:
        """Return a sentence without its end."""
        return f"{self.place}: `{self.rule}` {'sets' if self.sets else 'matches'} the bits {self.bits:#010x}"


def marks_in_listing(listing: str) -> Iterator[MarkUse]:
    """Yield the uses in `nft -j list ruleset`, nfagent's own table excepted. Raises WireError."""
    for rule in objects(listing, "rule"):
        family, table, chain = (str(rule.get(key)) for key in ("family", "table", "chain"))
        if (family, table) == (TABLE_FAMILY, TABLE):
            continue
        expressions = rule.get("expr")
        place, name = f"table {family} {table}, chain {chain}", f"handle {rule.get('handle')}"
        for expression in expressions if isinstance(expressions, list) else []:
            if not isinstance(expression, dict):
                continue
            if (bits := _bits_set(expression.get("mangle"))) is not None:
                yield MarkUse(place, name, bits, sets=True)
            if (bits := _bits_matched(expression.get("match"))) is not None:
                yield MarkUse(place, name, bits, sets=False)


def _is_mark(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("meta"), dict) and value["meta"].get("key") == "mark"


def _bits_set(mangle: object) -> int | None:
    """Return the bits that a statement sets; None for one that doesn't set the packet mark."""
    if not isinstance(mangle, dict) or not _is_mark(mangle.get("key")):
        return None
    return MARK_BITS & ~_kept(mangle.get("value"))


def _kept(value: object) -> int:
    """Return the bits of the packet mark that an expression passes on as they are."""
    if _is_mark(value):
        return MARK_BITS
    kind, parts = next(iter(value.items()), ("", None)) if isinstance(value, dict) else ("", None)
    if kind not in {"&", "|", "^"} or not isinstance(parts, list) or len(parts) != 2 or not isinstance(parts[1], int):
        return 0
    kept, constant = _kept(parts[0]), parts[1]
    return kept & (constant if kind == "&" else ~constant)


def _bits_matched(match: object) -> int | None:
    """Return the bits that a match looks at; None for one that doesn't look at the packet mark."""
    left = match.get("left") if isinstance(match, dict) else None
    if _is_mark(left):
        return MARK_BITS
    masked = left.get("&") if isinstance(left, dict) else None
    if not isinstance(masked, list) or len(masked) != 2 or not _is_mark(masked[0]):
        return None
    return masked[1] & MARK_BITS if isinstance(masked[1], int) else MARK_BITS


def marks_in_save(saved: str, name: str) -> Iterator[MarkUse]:
    """Yield the uses in the text of iptables-save; `name` is the program's, such as `iptables-legacy`."""
    table = ""
    for line in save_lines(saved):
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith("-A "):
            chain = line.split(" ", 2)[1]
            for bits, sets in _saved_bits(line):
                yield MarkUse(f"{name}, table {table}, chain {chain}", line, bits, sets)


def _saved_bits(line: str) -> Iterator[tuple[int, bool]]:
    """Yield the bits that each option of a rule uses, and whether it sets them."""
    if "CONNMARK" in line and "--restore-mark" not in line:
        return  # it sets the mark of the connection
    for found in _SAVED.finditer(line):
        option, (value, mask) = found["option"], _value_and_mask(found["rest"].strip())
        if option == "restore-mark":
            given = _RESTORE_MASK.search(line)
            yield _number(given["mask"] if given else "", MARK_BITS), True
        elif option == "mark":
            if "-m connmark" not in line or "-m mark" in line:
                yield mask, False
        elif option == "and-mark":
            yield MARK_BITS & ~value, True
        elif option in {"or-mark", "xor-mark"}:
            yield value, True
        else:
            yield (mask | value if option == "set-mark" else mask), True


def _value_and_mask(written: str) -> tuple[int, int]:
    """Return value and mask of `0x10/0xf0`; every bit for what can't be read, and for a mask that isn't there."""
    value, _, mask = written.partition("/")
    return _number(value, MARK_BITS), _number(mask, MARK_BITS)


def _number(written: str, otherwise: int) -> int:
    try:
        return int(written, 0) & MARK_BITS
    except ValueError:
        return otherwise


def overlapping(uses: Iterator[MarkUse], mask: int) -> list[MarkUse]:
    """Return the uses of bits of a mask, in order, each once."""
    return sorted({use for use in uses if use.bits & mask})
