"""What lies in a folder and its subfolders: what was listed, and what could not be. Blocking.

A folder that can't be listed isn't empty. Which folder it was (device and inode) is told too: one that another file
system is mounted over, or that is no longer mounted, has other files.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from nfagent.system.bounded_calls import BoundedCalls
from nfagent.system.regular_file import refuse_pseudo

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC

Identity: TypeAlias = tuple[int, int]
"""Device and inode."""
_Kind: TypeAlias = Literal["folder", "link", "other"]


class FolderListing(msgspec.Struct):
    """What was found; folders and files by their names from the folder on, which itself is ''.

    files:    manifests, and what has the name of one, but folders
    listed:   folders, each once, and which each of them is
    unlisted: folders that can't be listed, and why; links that may have led to one
    links:    which of these are links
    twice:    links to folders that are listed by another name
    paths:    of the folders that are listed
    entries:  what lies in each of them, but for what is hidden
    """

    files: dict[str, Path] = msgspec.field(default_factory=dict)
    listed: dict[str, Identity] = msgspec.field(default_factory=dict)
    unlisted: dict[str, OSError] = msgspec.field(default_factory=dict)
    links: set[str] = msgspec.field(default_factory=set)
    twice: set[str] = msgspec.field(default_factory=set)
    paths: dict[str, Path] = msgspec.field(default_factory=dict)
    entries: dict[str, set[str]] = msgspec.field(default_factory=dict)

    def lacks(self, name: str) -> bool:
        """Tell whether a file is certainly not there: a folder on the way to it was listed, and hasn't the next."""
        for place, entry in _way(name):
            if place in self.twice:
                return True
            if place in self.unlisted or place not in self.listed:
                return False
            if entry not in self.entries[place]:
                return True
        return False

    def obstacle(self, name: str) -> str:
        """Name the folder on the way to a file that can't be listed, or is none any more; '' where all are listed."""
        return next((place for place, _ in _way(name) if place not in self.listed), "")


def _way(name: str) -> Iterator[tuple[str, str]]:
    """Give each folder on the way to a file, and the name in it that comes next."""
    parts = name.split("/")
    return (("/".join(parts[:depth]), parts[depth]) for depth in range(len(parts)))


def folders_on_the_way(name: str) -> list[str]:
    """Give each folder on the way to a file, the outermost first."""
    return [place for place, _ in _way(name)]


def is_manifest(folder: Path, path: Path) -> bool:
    """Tell whether a path counts: a known suffix, nothing hidden (editors' files and `..data` folders are)."""
    parts = path.relative_to(folder).parts
    return path.suffix in SUFFIXES and not any(part.startswith(".") for part in parts)


def name_in(folder: Path, path: Path) -> str:
    """Return the name of a file in a folder, as it is shown."""
    name = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
    return "" if name == "." else name


def list_folders(folder: Path, calls: BoundedCalls, only: frozenset[str] | None = None) -> FolderListing:
    """List a folder and its subfolders, linked ones too, each once; or only those of these names."""
    found = FolderListing()
    known: set[Identity] = set()
    level = [folder]
    while level:
        below: list[tuple[bool, Path]] = []
        links: list[Path] = []
        for place, answer in calls.each(_listed, level):
            name = name_in(folder, place)
            if isinstance(answer, OSError):
                found.unlisted[name] = answer
                continue
            identity, entries = answer
            if identity in known:
                found.twice.add(name)
                continue
            known.add(identity)
            found.listed[name], found.paths[name] = identity, place
            found.entries[name] = {name_in(place, place / entry) for entry, _ in entries}
            below += [(False, place / entry) for entry, kind in entries if kind == "folder"]
            links += [place / entry for entry, kind in entries if kind == "link"]
            _note_files(found, folder, [place / entry for entry, kind in entries if kind == "other"])
        for path, leads in calls.each(_leads_to_folder, links):
            if leads is True:
                below.append((True, path))
                continue
            _note_files(found, folder, [path])
            if isinstance(leads, OSError):
                found.unlisted[name_in(folder, path)] = leads
                found.links.add(name_in(folder, path))
        # Who links to a folder beside it has it under its own name.
        level = [path for _, path in sorted(below) if only is None or name_in(folder, path) in only]
    return found


def state_of(folder: Path, calls: BoundedCalls) -> frozenset[tuple[object, ...]]:
    """Give what changes with the files of a folder, without reading them."""
    found = list_folders(folder, calls)
    state: set[tuple[object, ...]] = {("listed", *pair) for pair in found.listed.items()}
    state |= {("unlisted", name, error.errno) for name, error in found.unlisted.items()}
    state |= {("in it", name, *sorted(entries)) for name, entries in found.entries.items()}
    for path, answer in calls.each(_stamp, found.files.values()):
        state.add((path, *(answer if isinstance(answer, tuple) else (answer.errno,))))
    return frozenset(state)


def identity_of(folder: Path) -> Identity:
    """Return which folder it is. Raises OSError where it is none, or can't be looked at."""
    found = folder.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    return found.st_dev, found.st_ino


def _note_files(found: FolderListing, folder: Path, paths: list[Path]) -> None:
    found.files |= {name_in(folder, path): path for path in paths if is_manifest(folder, path)}


def _listed(place: Path) -> tuple[Identity, list[tuple[str, _Kind]]]:
    opened = os.open(place, _FOLDER_FLAGS)
    try:
        refuse_pseudo(opened)
        found = os.fstat(opened)
        with os.scandir(opened) as entries:
            shown = [(entry.name, _kind(entry)) for entry in entries if not entry.name.startswith(".")]
    finally:
        os.close(opened)
    return (found.st_dev, found.st_ino), shown


def _kind(entry: os.DirEntry[str]) -> _Kind:
    if entry.is_symlink():
        return "link"
    return "folder" if entry.is_dir(follow_symlinks=False) else "other"


def _leads_to_folder(link: Path) -> bool:
    try:
        identity_of(link)
    except NotADirectoryError:
        return False
    return True


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns
