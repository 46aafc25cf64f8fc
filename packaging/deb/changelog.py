"""Prints a Debian changelog from CHANGELOG.md: `changelog.py CHANGELOG.md VERSION MAINTAINER EPOCH`.

The first entry has the version that is built; older ones have theirs, and the dates that CHANGELOG.md gives.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

_VERSION = re.compile(r"## (?P<version>\S+) \((?P<date>[^)]*)\)")
_COMMENT = re.compile(r"\s*<!--.*?-->")


def entries(changelog: str, version: str, maintainer: str, built: datetime) -> Iterator[str]:
    """Yield the entry of each version, newest first. Raises ValueError."""
    heads = list(_VERSION.finditer(changelog))
    if not heads:
        raise ValueError("CHANGELOG.md has no line like: ## 1.2.3 (2026-01-31)")
    for number, head in enumerate(heads):
        end = heads[number + 1].start() if number + 1 < len(heads) else len(changelog)
        newest = number == 0
        date = built if newest else datetime.strptime(head["date"], "%Y-%m-%d").replace(tzinfo=UTC)
        yield "\n".join(
            [
                f"nfagent ({version if newest else head['version']}) unstable; urgency=medium\n",
                *_changes(changelog[head.end() : end]),
                f"\n -- {maintainer}  {format_datetime(date)}\n",
            ]
        )


def _changes(section: str) -> Iterator[str]:
    for item in re.split(r"\n\n|\n(?=- )", section.strip()):
        text = " ".join(_COMMENT.sub("", item).split())
        if text.startswith("### "):
            yield f"  [ {text.removeprefix('### ')} ]"
        else:
            yield textwrap.fill(
                text.removeprefix("- "),
                width=80,
                initial_indent="  * ",
                subsequent_indent="    ",
                break_on_hyphens=False,
            )


if __name__ == "__main__":
    path, version, maintainer, epoch = sys.argv[1:]
    built = datetime.fromtimestamp(int(epoch), UTC)
    print("\n".join(entries(Path(path).read_text(encoding="utf-8"), version, maintainer, built)))
