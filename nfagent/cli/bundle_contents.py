"""What went into a bundle, as it is said on the terminal and in MANIFEST.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click

from nfagent import __version__
from nfagent.cli.bundle_archive import BundleArchive
from nfagent.cli.bundle_sources import Remarks, Source, UnreadError
from nfagent.cli.secret_filter import SecretFilter
from nfagent.cli.tables import fitted, shown, terminal_width

MANIFEST = "MANIFEST.json"
_FORMAT = 1
_NAME_WIDTH, _SIZE_WIDTH = 19, 8


class BundleContents:
    """Members and what couldn't be read. removed: secrets; is_whole: whether all that a node must have is there."""

    def __init__(self, secrets: Iterable[str], *, to_stderr: bool, is_quiet: bool = False) -> None:
        """Start without any. to_stderr: stdout has something else; is_quiet: no line is said."""
        self._secrets = frozenset(secrets)
        self._to_stderr = to_stderr
        self._is_quiet = is_quiet
        self._files: list[dict[str, Any]] = []
        self._unread: list[dict[str, Any]] = []
        self.removed = 0
        self.is_whole = True

    def add(self, archive: BundleArchive, source: Source) -> None:
        """Add what a source has; a source that has nothing is noted with its reason."""
        self._progress(source.name)
        remarks = Remarks()
        lines = SecretFilter(self._secrets)
        content = lines.lines(source.read(remarks))
        # Read on only when the first line is there: a member of a source that has none would stay in the archive.
        try:
            first = next(content, b"")
        except UnreadError as error:
            self._note_unread(source, self._cleaned(str(error)))
            return
        size, cut = archive.add(source.name, _joined(first, content))
        self.removed += lines.removed
        found: dict[str, Any] = {"name": source.name, "bytes": size, "what": source.what, "cut": cut}
        if remarks.exit_code:
            found["exit_code"] = remarks.exit_code
        if remarks.text:
            found["remarks"] = self._cleaned(remarks.text).splitlines()
        self._files.append(found)
        self.is_whole &= not cut and not remarks.is_broken_off
        self.say(f"{source.name:<{_NAME_WIDTH}} {size_text(size):>{_SIZE_WIDTH}}  {source.what}{', cut' * cut}")

    def add_manifest(self, archive: BundleArchive, node: str, when: int) -> None:
        """Add MANIFEST.json, the last member."""
        value = {"format": _FORMAT, "command": f"nfagent {__version__}", "node": node, "time": when, **self.listing()}
        text = json.dumps(value, indent=2, ensure_ascii=True) + "\n"
        size, _ = archive.add(MANIFEST, [text.encode()])
        self.say(f"{MANIFEST:<{_NAME_WIDTH}} {size_text(size):>{_SIZE_WIDTH}}  this list")

    def listing(self) -> dict[str, Any]:
        """Return the members and what couldn't be read."""
        return {"files": self._files, "not_read": self._unread, "removed_secrets": self.removed}

    def say(self, text: str) -> None:
        """Write a line about the bundle."""
        if self._is_quiet:
            return
        lines = fitted(text, terminal_width(sys.stderr if self._to_stderr else sys.stdout))
        if sys.stderr.isatty():
            click.echo("\r\x1b[K", err=True, nl=False)
        click.echo("\n".join(map(shown, lines)), err=self._to_stderr)

    def _note_unread(self, source: Source, reason: str) -> None:
        self._unread.append({"name": source.name, "what": source.what, "reason": reason})
        self.is_whole &= source.optional
        # What to do about it is in the manifest; here it would stand beside one member after the other.
        words = " ".join(reason.partition(";")[0].removeprefix("error: ").split())
        self.say(f"{source.name:<{_NAME_WIDTH}} {'-':>{_SIZE_WIDTH}}  not read: {words}")

    def _cleaned(self, text: str) -> str:
        lines = SecretFilter(self._secrets)
        cleaned = "\n".join(found for line in text.splitlines() if (found := lines.line(line)) is not None)
        self.removed += lines.removed
        return cleaned

    def _progress(self, name: str) -> None:
        if sys.stderr.isatty() and not self._is_quiet:
            click.echo(f"\r\x1b[K{name} …", err=True, nl=False)


def size_text(size: int) -> str:
    """Return a size in words: `512 B`, `1.2 kB`, `34 MB`."""
    number, unit = float(size), "B"
    for unit in ("B", "kB", "MB"):
        if number < 1000 or unit == "MB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"


def _joined(first: bytes, rest: Iterable[bytes]) -> Iterable[bytes]:
    yield first
    yield from rest
