"""Lists a folder and its subfolders, and which of them could not be listed. Blocking.

A folder that can't be listed isn't empty. Each listed folder has its identity (device and inode): it is another one
after a file system was mounted over it, or unmounted.
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
from nfagent.system.regular_file import refuse_pseudo_file_system

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC

FolderIdentity: TypeAlias = tuple[int, int]
"""Device and inode."""
_Kind: TypeAlias = Literal["folder", "link", "other"]


class FolderListing(msgspec.Struct):
    """The result of listing. Folders and files are named by their path from the folder; the folder itself is ''.

    files:      manifests, and anything else but folders with the name of one
    listed:     folders, each once, with their identities
    unlisted:   folders that can't be listed, and links that may lead to one, each with its error
    links:      which of `unlisted` are links
    duplicates: links to folders that are listed under another name
    paths:      paths of the listed folders
    entries:    names in each listed folder, without hidden ones
    """

    files: dict[str, Path] = msgspec.field(default_factory=dict)
    listed: dict[str, FolderIdentity] = msgspec.field(default_factory=dict)
    unlisted: dict[str, OSError] = msgspec.field(default_factory=dict)
    links: set[str] = msgspec.field(default_factory=set)
    duplicates: set[str] = msgspec.field(default_factory=set)
    paths: dict[str, Path] = msgspec.field(default_factory=dict)
    entries: dict[str, set[str]] = msgspec.field(default_factory=dict)

    def is_absent(self, name: str) -> bool:
        """Return whether a file certainly doesn't exist: a parent folder was listed and lacks the next name."""
        for place, entry in _path_steps(name):
            if place in self.duplicates:
                return True
            if place in self.unlisted or place not in self.listed:
                return False
            if entry not in self.entries[place]:
                return True
        return False

    def obstacle(self, name: str) -> str:
        """Return the first parent folder of a file that wasn't listed; '' where all were."""
        return next((place for place, _ in _path_steps(name) if place not in self.listed), "")


def _path_steps(name: str) -> Iterator[tuple[str, str]]:
    """Return each parent folder of a file, with the name in it that comes next."""
    parts = name.split("/")
    return (("/".join(parts[:depth]), parts[depth]) for depth in range(len(parts)))


def parent_folders(name: str) -> list[str]:
    """Return each parent folder of a file, the outermost first."""
    return [place for place, _ in _path_steps(name)]


def is_manifest(folder: Path, path: Path) -> bool:
    """Return whether a path is a manifest: a known suffix, nothing hidden (editors' files, `..data` folders)."""
    parts = path.relative_to(folder).parts
    return path.suffix in SUFFIXES and not any(part.startswith(".") for part in parts)


def name_in(folder: Path, path: Path) -> str:
    """Return a file's path from a folder, printable."""
    name = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
    return "" if name == "." else name


def list_folders(folder: Path, calls: BoundedCalls, only: frozenset[str] | None = None) -> FolderListing:
    """List a folder and its subfolders, linked ones included, each once; or only the folders with these names."""
    found = FolderListing()
    known: set[FolderIdentity] = set()
    level = [folder]
    while level:
        below: list[tuple[bool, Path]] = []
        links: list[Path] = []
        for place, answer in calls.each(_list_folder, level):
            name = name_in(folder, place)
            if isinstance(answer, OSError):
                found.unlisted[name] = answer
                continue
            identity, entries = answer
            if identity in known:
                found.duplicates.add(name)
                continue
            known.add(identity)
            found.listed[name], found.paths[name] = identity, place
            found.entries[name] = {_printable(entry) for entry, _ in entries}
            below += [(False, place / entry) for entry, kind in entries if kind == "folder"]
            links += [place / entry for entry, kind in entries if kind == "link"]
            _note_files(found, folder, place, [entry for entry, kind in entries if kind == "other"])
        for path, leads in calls.each(_is_folder_link, links):
            if leads is True:
                below.append((True, path))
                continue
            _note_files(found, folder, path.parent, [path.name])
            if isinstance(leads, OSError):
                found.unlisted[name_in(folder, path)] = leads
                found.links.add(name_in(folder, path))
        # Folders before links: a folder that is linked too is listed under its own name.
        level = [path for _, path in sorted(below) if only is None or name_in(folder, path) in only]
    return found


def folder_state(folder: Path, calls: BoundedCalls) -> frozenset[tuple[object, ...]]:
    """Return a value that changes with the files of a folder, from metadata only."""
    found = list_folders(folder, calls)
    state: set[tuple[object, ...]] = {("listed", *pair) for pair in found.listed.items()}
    state |= {("unlisted", name, error.errno) for name, error in found.unlisted.items()}
    state |= {("in it", name, *sorted(entries)) for name, entries in found.entries.items()}
    for path, answer in calls.each(_file_stamp, found.files.values()):
        state.add((path, *(answer if isinstance(answer, tuple) else (answer.errno,))))
    return frozenset(state)


def identity_of(folder: Path) -> FolderIdentity:
    """Return a folder's identity. Raises OSError where it is no folder, or can't be read."""
    found = folder.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    return found.st_dev, found.st_ino


def _note_files(found: FolderListing, folder: Path, place: Path, entries: list[str]) -> None:
    """Add the manifests among a folder's entries. By names alone: a Path for each entry takes most of a listing."""
    inside = name_in(folder, place)
    prefix = f"{inside}/" if inside else ""
    found.files |= {
        f"{prefix}{_printable(entry)}": place / entry for entry in entries if entry.endswith(tuple(SUFFIXES))
    }


def _printable(entry: str) -> str:
    return os.fsencode(entry).decode("utf-8", "backslashreplace")


def _list_folder(place: Path) -> tuple[FolderIdentity, list[tuple[str, _Kind]]]:
    opened = os.open(place, _FOLDER_FLAGS)
    try:
        refuse_pseudo_file_system(opened)
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


def _is_folder_link(link: Path) -> bool:
    try:
        identity_of(link)
    except NotADirectoryError:
        return False
    return True


def _file_stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns
