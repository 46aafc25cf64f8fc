"""Decodes entries of the systemd journal's native protocol, as its documentation describes them."""

from __future__ import annotations


def decode_entry(entry: bytes) -> list[tuple[str, bytes]]:
    """Return names and values of one entry, in order. Raises ValueError for bytes that are none."""
    found: list[tuple[str, bytes]] = []
    while entry:
        line, newline, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not newline:
            raise ValueError("no newline behind the last field")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, behind, rest = rest[8 : 8 + length], rest[8 + length : 9 + length], rest[9 + length :]
            if len(value) != length or behind != b"\n":
                raise ValueError(f"the value of {name!r} is cut short")
        if not name.replace(b"_", b"").isalnum() or name.startswith(b"_") or name != name.upper():
            raise ValueError(f"{name!r} is no field's name")
        found.append((name.decode("ascii"), value))
        entry = rest
    return found
