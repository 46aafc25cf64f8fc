"""Counts with nouns in singular or plural."""

from __future__ import annotations


def counted(number: int, word: str) -> str:
    """Return a count with its noun: `1 policy`, `2 policies`, `no rules`."""
    plural = f"{word[:-1]}ies" if word.endswith("y") and word[-2:] not in {"ay", "ey"} else f"{word}s"
    if word.endswith("s"):
        plural = f"{word}es"
    return f"{number or 'no'} {word if number == 1 else plural}"
