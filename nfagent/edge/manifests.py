"""A folder of manifests as the source of objects: read once, then followed by inotify.

`Folder` is the bookkeeping, without I/O: which file holds which object, what is wrong, what changed.
`follow` feeds it from the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from hashlib import blake2s
from pathlib import Path
from typing import TypeAlias

import msgspec
import watchfiles

from nfagent.cluster.model import Ref
from nfagent.edge.documents import FileContent, read_documents
from nfagent.errors import Problem, UsageError
from nfagent.ruleset.desired import Item

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_GATHER_MS = 5
"""How long inotify events are gathered: a writer's rename is two of them."""
_SETTLE_SECONDS = 0.1
"""How long a writer in place gets to finish a file that is empty or doesn't parse."""

Event: TypeAlias = Item | Ref
"""An object to put, or the name of one that is gone."""


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
        self.digests: dict[str, str] = {}
        """File -> digest of the text that was read last, broken or not: how to tell that a change was seen."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong now, by file and line."""
        found = [*self._broken.values(), *self._twice()]
        for content in self._files.values():
            found.extend(content.problems)
        return tuple(sorted(found, key=lambda problem: (problem.place, str(problem))))

    @property
    def ignored(self) -> frozenset[str]:
        """Kinds that files hold and nfagent doesn't read."""
        return frozenset().union(*(content.ignored for content in self._files.values()))

    @property
    def names(self) -> frozenset[str]:
        """Files that are known, broken ones too."""
        return frozenset(self._files) | frozenset(self._broken)

    def update(self, name: str, text: str | None) -> list[Event]:
        """Take in a file's text, None where the file is gone; give what changed."""
        self._broken.pop(name, None)
        before = self._files.get(name)
        if text is None:
            self._files.pop(name, None)
            self.digests.pop(name, None)
            return self._settle(name, before, None)
        self.digests[name] = digest(text)
        content = read_documents(name, text)
        if isinstance(content, Problem):
            self._broken[name] = content
            return []
        if before is not None:
            kept = {ref: before.items[ref] for ref in content.rejected if ref in before.items}
            content = msgspec.structs.replace(content, items={**content.items, **kept})
        self._files[name] = content
        return self._settle(name, before, content)

    def unsettled(self, name: str, text: str) -> bool:
        """Tell whether a file looks half-written: empty, or not parsing, where it was good before."""
        return name in self._files and (not text.strip() or isinstance(read_documents(name, text), Problem))

    def _settle(self, name: str, before: FileContent | None, after: FileContent | None) -> list[Event]:
        old = before.items.keys() if before is not None else set()
        new = after.items.keys() if after is not None else set()
        for ref in old - new:
            self._holders[ref].remove(name)
            if not self._holders[ref]:
                del self._holders[ref]
        for ref in new - old:
            self._holders.setdefault(ref, []).append(name)
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

    def _twice(self) -> Iterable[Problem]:
        for ref, holders in self._holders.items():
            if len(holders) > 1:
                places = [f"{name}:{self._files[name].items[ref][1]}" for name in holders]
                reason = f"is also in {places[0]}, which holds; delete one of the two"
                yield Problem(place=places[1], object=str(ref), reason=reason)


def digest(text: str) -> str:
    """Give a short digest of a file's text."""
    return blake2s(text.encode(), digest_size=8).hexdigest()


def is_manifest(folder: Path, path: Path) -> bool:
    """Tell whether a file counts: a known suffix, nothing hidden (editors' files and `..data` folders are)."""
    parts = path.relative_to(folder).parts
    return path.suffix in SUFFIXES and not any(part.startswith(".") for part in parts)


def read_folder(folder: Path, known: Folder) -> list[Event]:
    """Read every file of a folder and its subfolders, forget those that are gone. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give a folder of manifests with --manifests")
    events: list[Event] = []
    present = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if is_manifest(folder, path)}
    for name in sorted(known.names - present.keys()):
        events += known.update(name, None)
    for name, path in present.items():
        events += known.update(name, _text(path))
    return events


async def follow(folder: Path, known: Folder, stop: asyncio.Event) -> AsyncIterator[list[Event]]:
    """Give what changes on the disk, batch by batch, until `stop`; a batch may be empty (problems changed)."""
    async for changes in watchfiles.awatch(
        folder, watch_filter=None, debounce=_GATHER_MS * 4, step=_GATHER_MS, stop_event=stop, recursive=True
    ):
        paths = {Path(changed) for _, changed in changes}
        if any(path.suffix not in SUFFIXES and not path.is_file() for path in paths):
            # A folder came, went or was renamed: what lies in it makes no events of its own.
            yield _read_again(folder, known)
            continue
        manifests = sorted(path for path in paths if is_manifest(folder, path))
        if any(known.unsettled(*_named(folder, path)) for path in manifests):
            await asyncio.sleep(_SETTLE_SECONDS)
        batch: list[Event] = []
        for path in manifests:
            batch += known.update(str(path.relative_to(folder)), _text(path))
        yield batch


def _read_again(folder: Path, known: Folder) -> list[Event]:
    """Read everything; where the whole folder is gone, what was read last holds."""
    return read_folder(folder, known) if folder.is_dir() else []


def _named(folder: Path, path: Path) -> tuple[str, str]:
    text = _text(path)
    return str(path.relative_to(folder)), text if text is not None else "{}"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        # Text that is no YAML, so that the reason is shown where every other problem is.
        return f"\t{error}"
