"""Scans a folder: reads its files and compares them with the index. Blocking.

Only a file that is certainly gone is removed: its folder was listed, and lacks it. A file or folder that can't be read
keeps its objects, and becomes an issue.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from nfagent.errors import UsageError, ValidationIssue
from nfagent.manifests.folder_listing import FolderListing, list_folders, name_in, parent_folders
from nfagent.manifests.index import FileReading, FolderScan, ManifestIndex
from nfagent.model.gvk import ObjectChange
from nfagent.model.plurals import counted
from nfagent.model.slices import sort_in_slices
from nfagent.system.bounded_calls import BoundedCalls
from nfagent.system.regular_file import UnsuitableError, read_regular

_TRIES = 3
"""Scans at most, where files vanish while they are read."""

_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_STAYS_IN_FORCE = "what was read before stays in force"
_Texts: TypeAlias = dict[str, str | ValidationIssue | None]
"""File -> its text, None where it is gone, an issue where it can't be read."""


def read_folder(folder: Path, known: ManifestIndex) -> list[ObjectChange]:
    """Read every file of a folder and its subfolders, and return the changes. Raises UsageError."""
    try:
        return list(known.apply_scan(read_files(folder, known)))
    except OSError as error:
        raise UsageError(f"{folder} can't be read: {error.strerror}; give a folder of manifests") from None


def read_files(
    folder: Path, known: ManifestIndex, paths: frozenset[Path] | None = None, calls: BoundedCalls | None = None
) -> FolderScan:
    """Scan these files, or the whole folder for None. Changes nothing.

    Where no last good content exists, raises UsageError for a path that is no folder, and OSError for a folder that
    can't be listed.
    """
    calls = calls or BoundedCalls()
    if paths is not None:
        found = _scan_files(folder, known, paths, calls)
        if found is not None:
            return found
    return _scan_folder(folder, known, calls)


def unreadable_folder(folder: Path, error: OSError) -> ValidationIssue:
    """Return the issue of a folder that can't be read."""
    if error.errno in _NO_FOLDER:
        return ValidationIssue(place=str(folder), reason=f"is no folder now; {_STAYS_IN_FORCE}")
    reason = f"can't be read: {_os_error_text(error)}; fix that; {_STAYS_IN_FORCE}, and it is retried"
    return ValidationIssue(place=str(folder), reason=reason)


def _scan_files(folder: Path, known: ManifestIndex, paths: frozenset[Path], calls: BoundedCalls) -> FolderScan | None:
    """Scan some files; None where only a scan of the folder can tell which are gone."""
    texts, uncertain = _read(folder, {name_in(folder, path): path for path in paths}, calls)
    missing = [name for name, text in texts.items() if text is None and name in known.names]
    if missing:
        places = frozenset(place for name in missing for place in parent_folders(name))
        listing = list_folders(folder, calls, only=places)
        same = all(known.identities.get(place) == listing.listed.get(place) for place in places)
        if not same or not all(map(listing.is_absent, missing)):
            return None
    return FolderScan(tuple(_changed_readings(known, texts, frozenset())), uncertain)


def _scan_folder(folder: Path, known: ManifestIndex, calls: BoundedCalls) -> FolderScan:
    listing, texts, uncertain, vanished = _list_and_read(folder, known, calls)
    for _ in range(_TRIES - 1):
        if vanished:
            listing, texts, uncertain, vanished = _list_and_read(folder, known, calls)
    absent = known.expected - texts.keys()
    emptied = _emptied_folders(listing, known, absent, texts)
    gone = {name for name in absent - vanished if listing.is_absent(name) and not _within(name, emptied)}
    kept = absent - gone
    folder_issues = list(_folder_issues(folder, listing, emptied, kept))
    readings = _changed_readings(known, dict.fromkeys(gone) | texts, kept)
    before = {place: found for place, found in known.identities.items() if not place or not listing.is_absent(place)}
    now = {place: found for place, found in listing.listed.items() if place not in emptied}
    return FolderScan(
        (*readings, *known.recall_last_good(sorted(kept))),
        uncertain or bool(folder_issues or kept or vanished),
        tuple(folder_issues),
        before | now,
    )


def _list_and_read(
    folder: Path, known: ManifestIndex, calls: BoundedCalls
) -> tuple[FolderListing, _Texts, bool, frozenset[str]]:
    """List and read everything; the last value are files that vanished between listing and reading.

    They aren't deleted for certain: when a file system is unmounted, its files vanish during the scan.
    """
    listing = list_folders(folder, calls)
    if "" in listing.unlisted and not known.expected:
        raise _folder_error(folder, listing.unlisted[""])
    texts, uncertain = _read(folder, listing.files, calls)
    vanished = frozenset(name for name, text in texts.items() if text is None)
    return listing, {name: text for name, text in texts.items() if text is not None}, uncertain, vanished


def _emptied_folders(
    listing: FolderListing, known: ManifestIndex, absent: Iterable[str], texts: _Texts
) -> dict[str, int]:
    """Return folders that may be unmounted: another identity, no readable file; with the number of their known files.

    A file that can't be read, or is empty, tells nothing about the others. Unmounting a folder, or mounting another
    file system over it, deletes no file. At the start the previous identity is unknown.
    """
    found: dict[str, int] = {}

    @cache
    def holds_any(place: str) -> bool:
        return any(
            text is not None and known.is_readable(name, text)
            for name, text in texts.items()
            if not place or name.startswith(f"{place}/")
        )

    for name in absent:
        for place in parent_folders(name):
            before, now = known.identities.get(place), listing.listed.get(place)
            if now is None or (before == now and before is not None):
                continue
            if not holds_any(place):
                found[place] = found.get(place, 0) + 1
                break
            if before is not None:
                break  # the whole tree was replaced, as by git-sync
    return found


def _within(name: str, places: Mapping[str, int]) -> bool:
    return any(place in places for place in parent_folders(name))


def _folder_issues(
    folder: Path, listing: FolderListing, emptied: Mapping[str, int], kept: frozenset[str]
) -> Iterator[ValidationIssue]:
    obstacles: set[str] = set()
    for name in sorted(name for name in kept if not _within(name, emptied)):
        if listing.obstacle(name) or "" in listing.unlisted:
            obstacles.add(listing.obstacle(name))
        elif name in listing.listed or name in listing.duplicates or name in listing.unlisted:
            reason = f"is a folder now; put a file there, or delete it; {_STAYS_IN_FORCE}"
            yield ValidationIssue(place=name, reason=reason)
    for place in sorted({*listing.unlisted, *obstacles}):
        error = listing.unlisted.get(place)
        if not place:
            yield unreadable_folder(folder, error or NotADirectoryError(errno.ENOTDIR, ""))
            continue
        if place in listing.links - obstacles or (place not in obstacles and isinstance(error, FileNotFoundError)):
            continue  # a link behind which no file is known; a folder that was removed since its parent was listed
        if error is None or error.errno in _NO_FOLDER:
            reason = f"is no folder now; make it one again, or delete it; {_STAYS_IN_FORCE}"
        else:
            reason = f"can't be listed: {_os_error_text(error)}; fix that; {_STAYS_IN_FORCE}, and it is retried"
        yield ValidationIssue(place=place, reason=reason)
    for place, count in sorted(emptied.items()):
        reason = (
            "holds no manifests that can be read, and isn't known to be the folder that "
            f"{counted(count, 'file')} was read from: it may be unmounted, or mounted over; {_STAYS_IN_FORCE} until "
            "there are manifests in it. To remove all objects, add a file with a comment only: none.yaml with `# none`"
        )
        yield ValidationIssue(place=place or str(folder), reason=reason)


def _changed_readings(known: ManifestIndex, texts: _Texts, kept: frozenset[str]) -> list[FileReading]:
    """Compare and parse; files that are gone come first, then by name."""
    gone = frozenset(name for name, text in texts.items() if text is None)
    orphaned = known.orphaned(gone, frozenset(texts) - gone | kept)
    found = []
    # Sorted in slices: sorting 100,000 names at once would hold the interpreter lock.
    for name in chain(sort_in_slices(gone), sort_in_slices(texts.keys() - gone)):
        reading = None if name is None else known.read(name, texts[name], orphaned)
        if reading is not None:
            found.append(reading)
        time.sleep(0)  # let the event loop run: parsing holds the interpreter lock
    return known.assign_orphans(found, orphaned)


def _read(folder: Path, files: Mapping[str, Path], calls: BoundedCalls) -> tuple[_Texts, bool]:
    """Read files; the second value: some could not be read, for a reason that may pass."""
    found: _Texts = {}
    uncertain = False
    for path, answer in calls.each(_content, files.values()):
        name = name_in(folder, path)
        if isinstance(answer, OSError):
            # Another kind of file stays until it is replaced, which inotify reports.
            uncertain |= not (isinstance(answer, UnsuitableError) or answer.errno in _NO_FOLDER)
            found[name] = ValidationIssue(place=name, reason=_os_error_text(answer, "can't be read: "))
        else:
            found[name] = None if answer is None else _decoded(name, answer)
    return found, uncertain


def _content(path: Path) -> bytes | None:
    """Return a file's content, None where it doesn't exist. Raises OSError."""
    try:
        return read_regular(path)
    except FileNotFoundError:
        try:
            kind = stat.S_IFMT(path.lstat().st_mode)
        except FileNotFoundError:
            return None
        if kind == stat.S_IFLNK:
            raise
        return read_regular(path)  # it has come meanwhile
    except OSError as error:
        if error.errno == errno.ENOTDIR and not os.path.lexists(path):
            return None
        raise


def _decoded(name: str, content: bytes) -> str | ValidationIssue:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return ValidationIssue(place=f"{name}:{line}", reason="is not UTF-8 text")


def _os_error_text(error: OSError, before: str = "") -> str:
    if isinstance(error, UnsuitableError):
        return str(error.strerror)
    match error.errno:
        case errno.ENOENT:
            return "is a link that leads nowhere; fix it, or delete it"
        case errno.ELOOP:
            return "is a link that leads in a circle; fix it, or delete it"
    return f"{before}{error.strerror or error}"


def _folder_error(folder: Path, error: OSError) -> UsageError | OSError:
    if error.errno in _NO_FOLDER:
        return UsageError(f"{folder} is not a folder; give a folder of manifests with --manifests")
    return error
