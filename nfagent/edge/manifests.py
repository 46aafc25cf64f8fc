"""A folder of manifests as the source of objects: read once, then followed by inotify.

`Folder` is the bookkeeping, without I/O: which file holds which object, what is wrong, what changed.
`follow` feeds it from the disk.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, suppress
from hashlib import blake2s
from pathlib import Path
from typing import TypeAlias

import msgspec

from nfagent.cluster.model import Ref
from nfagent.edge.documents import FileContent, read_documents
from nfagent.edge.watching import changed_paths
from nfagent.errors import Problem, UsageError
from nfagent.ruleset.desired import Item
from nfagent.source.problems import Problems

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_SETTLE_SECONDS = 0.1
"""How long a writer in place gets to finish a file that is empty or doesn't parse."""

_FOLDER_SECONDS = 0.5
"""How often a folder that is gone is looked for."""

Event: TypeAlias = Item | Ref
"""An object to put, or the name of one that is gone."""

Texts: TypeAlias = dict[str, str | Problem | None]
"""File -> its text, None where it is gone, a Problem where it can't be read."""


class Folder:
    """What the files of a folder say together.

    The same object in two files is an error that names both; the file that had it first holds it.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._files: dict[str, FileContent] = {}
        self._broken: dict[str, Problem] = {}
        self._holders: dict[Ref, list[str]] = {}
        self._shown: dict[Ref, Item] = {}
        self.flaws = Problems[tuple[str, str]]()
        """What is wrong, by what is at fault: a file that can't be read, one with flaws, an object in two."""
        self._ignoring: Counter[str] = Counter()
        self.digests: dict[str, str] = {}
        """File -> digest of the text that was read last, broken or not: how to tell that a change was seen."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong now, by file and line."""
        found = [problem for flaws in self.flaws.values() for problem in flaws]
        return tuple(sorted(found, key=lambda problem: (problem.place, str(problem))))

    @property
    def ignored(self) -> frozenset[str]:
        """Kinds that files hold and nfagent doesn't read."""
        return frozenset(self._ignoring)

    @property
    def names(self) -> frozenset[str]:
        """Files that are known, broken ones too."""
        return frozenset(self._files) | frozenset(self._broken)

    def update(self, name: str, text: str | Problem | None) -> list[Event]:
        """Take in a file's text, None where it is gone, a Problem where it can't be read; give what changed."""
        if isinstance(text, str) and self.digests.get(name) == digest(text):
            return []
        before = self._files.get(name)
        self._broken.pop(name, None)
        self.flaws.pop(("unreadable", name), None)
        self.digests.pop(name, None)
        if text is None:
            self._files.pop(name, None)
            return self._settle(name, before, None)
        if isinstance(text, str):
            self.digests[name] = digest(text)
        content = read_documents(name, text) if isinstance(text, str) else text
        if isinstance(content, Problem):
            self._broken[name] = content
            self.flaws["unreadable", name] = (content,)
            return []
        if before is not None:
            kept = {ref: before.items[ref] for ref in content.rejected if ref in before.items}
            content = msgspec.structs.replace(content, items={**content.items, **kept})
        self._files[name] = content
        return self._settle(name, before, content)

    def unsettled(self, name: str, text: str | Problem | None) -> bool:
        """Tell whether a file looks half-written: empty, or not parsing, where it was good before."""
        if name not in self._files or not isinstance(text, str) or self.digests.get(name) == digest(text):
            return False
        return not text.strip() or isinstance(read_documents(name, text), Problem)

    def _settle(self, name: str, before: FileContent | None, after: FileContent | None) -> list[Event]:
        old = before.items.keys() if before is not None else set()
        new = after.items.keys() if after is not None else set()
        for ref in old - new:
            self._holders[ref].remove(name)
            if not self._holders[ref]:
                del self._holders[ref]
        for ref in new - old:
            self._holders.setdefault(ref, []).append(name)
        for ref in old | new:
            self.flaws["twice", str(ref)] = tuple(self._twice(ref))
        self.flaws["file", name] = after.problems if after is not None else ()
        self._ignoring.subtract(before.ignored if before is not None else ())
        self._ignoring.update(after.ignored if after is not None else ())
        self._ignoring = +self._ignoring  # those that some file still holds
        events: list[Event] = []
        for ref in sorted(old | new):
            item = self._held(ref)
            if item is None:
                self._shown.pop(ref, None)
                events.append(ref)
            elif self._shown.get(ref) != item:
                self._shown[ref] = item
                events.append(item)
        return events

    def _held(self, ref: Ref) -> Item | None:
        holders = self._holders.get(ref)
        return self._files[holders[0]].items[ref][0] if holders else None

    def _twice(self, ref: Ref) -> Iterable[Problem]:
        holders = self._holders.get(ref, [])
        for name in holders[1:]:
            first, place = (f"{holder}:{self._files[holder].items[ref][1]}" for holder in (holders[0], name))
            reason = f"is also in {first}, which holds; delete one of the two"
            yield Problem(place=place, object=str(ref), reason=reason)


def digest(text: str) -> str:
    """Give a short digest of a file's text."""
    return blake2s(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def is_manifest(folder: Path, path: Path) -> bool:
    """Tell whether a path counts: a known suffix, nothing hidden (editors' files and `..data` folders are)."""
    parts = path.relative_to(folder).parts
    return path.suffix in SUFFIXES and not any(part.startswith(".") for part in parts)


def read_folder(folder: Path, known: Folder) -> list[Event]:
    """Read every file of a folder and its subfolders, forget those that are gone. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give a folder of manifests with --manifests")
    return _take(_texts(folder, None, known), known)


async def follow(
    folder: Path, known: Folder, stop: asyncio.Event, look_seconds: float = 30.0
) -> AsyncIterator[list[Event]]:
    """Give what changes on the disk, batch by batch, until `stop`; a batch may be empty (problems changed).

    Where the whole folder is gone, what was read last holds until it is there again. Everything is looked at
    when this starts, and every so many seconds without a change: inotify may lose some. Raises MachineError.
    """
    while not stop.is_set():
        watched = _identity(folder)
        if watched is None:
            await _within(_FOLDER_SECONDS, stop)
            continue
        watching = changed_paths(folder, stop, look_seconds, lambda path: is_manifest(folder, path))
        async with aclosing(watching) as changes:
            async for paths in changes:
                if _identity(folder) != watched:
                    break
                texts = _texts(folder, paths, known)
                if any(known.unsettled(name, text) for name, text in texts.items()):
                    await asyncio.sleep(_SETTLE_SECONDS)
                    texts = _texts(folder, paths, known)
                yield _take(texts, known)


def _present(folder: Path) -> frozenset[Path]:
    return frozenset(
        path for place, _, files in os.walk(folder) for name in files if is_manifest(folder, path := Path(place, name))
    )


def _texts(folder: Path, paths: frozenset[Path] | None, known: Folder) -> Texts:
    """Read files, all of the folder for None; what is gone comes first, then by name."""
    present = _present(folder) if paths is None else paths
    texts = {_name(folder, path): _text(folder, path) for path in present}
    gone: Texts = dict.fromkeys(known.names - texts.keys()) if paths is None else {}
    return dict(sorted((gone | texts).items(), key=lambda pair: (pair[1] is not None, pair[0])))


def _text(folder: Path, path: Path) -> str | Problem | None:
    # What is no regular file has no text, and reading a pipe would never end.
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except FileNotFoundError:
        return None
    except OSError as error:
        return Problem(place=_name(folder, path), reason=f"can't be read: {error.strerror}")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return Problem(place=f"{_name(folder, path)}:{line}", reason="is not UTF-8 text")


def _take(texts: Texts, known: Folder) -> list[Event]:
    return [event for name, text in texts.items() for event in known.update(name, text)]


def _name(folder: Path, path: Path) -> str:
    return os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")


def _identity(folder: Path) -> tuple[int, int] | None:
    """Tell which folder it is: a watch stays with the one that it was made for. None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
