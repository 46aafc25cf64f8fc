"""A look at the files of a folder: what they hold now, what is gone, and what nobody can tell. Blocking.

Only what is certainly gone is taken away: a file that its folder, which was listed, doesn't have. What can't be looked
at, for whatever reason, stays as it was, and is said.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

from nfagent.errors import UsageError, ValidationIssue
from nfagent.manifests.folder_listing import FolderListing, folders_on_the_way, list_folders, name_in
from nfagent.manifests.index import FolderReading, FolderScan, ManifestEvent, ManifestIndex
from nfagent.model.plurals import counted
from nfagent.system.bounded_calls import BoundedCalls
from nfagent.system.regular_file import UnsuitableError, read_regular

_TRIES = 3
"""How often everything is listed anew where files went while they were read."""

_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_HOLDS = "what was read before stays in force"
_Texts: TypeAlias = dict[str, str | ValidationIssue | None]
"""File -> its text, None where it is gone, a Problem where it can't be read."""


def read_folder(folder: Path, known: ManifestIndex) -> list[ManifestEvent]:
    """Read every file of a folder and its subfolders, forget those that are gone. Raises UsageError."""
    try:
        return list(known.adopt_look(read_files(folder, known)))
    except OSError as error:
        raise UsageError(f"{folder} can't be read: {error.strerror}; give a folder of manifests") from None


def read_files(
    folder: Path, known: ManifestIndex, paths: frozenset[Path] | None = None, calls: BoundedCalls | None = None
) -> FolderScan:
    """Read files, all of the folder for None, and give what is new. Changes nothing.

    Where nothing is known that holds in its place, raises UsageError for what is no folder, OSError for one that can't
    be listed.
    """
    calls = calls or BoundedCalls()
    if paths is not None:
        found = _some(folder, known, paths, calls)
        if found is not None:
            return found
    return _all(folder, known, calls)


def unreadable_folder(folder: Path, error: OSError) -> ValidationIssue:
    """Say why the folder can't be looked at."""
    if error.errno in _NO_FOLDER:
        return ValidationIssue(place=str(folder), reason=f"is no folder now; {_HOLDS}")
    reason = f"can't be looked at: {_words(error)}; mend that; {_HOLDS}, and it is tried again"
    return ValidationIssue(place=str(folder), reason=reason)


def _some(folder: Path, known: ManifestIndex, paths: frozenset[Path], calls: BoundedCalls) -> FolderScan | None:
    """Look at some files; None where it takes a look at all to tell what is gone."""
    texts, uncertain = _read(folder, {name_in(folder, path): path for path in paths}, calls)
    missing = [name for name, text in texts.items() if text is None and name in known.names]
    if missing:
        places = frozenset(place for name in missing for place in folders_on_the_way(name))
        listing = list_folders(folder, calls, only=places)
        same = all(known.identities.get(place) == listing.listed.get(place) for place in places)
        if not same or not all(map(listing.lacks, missing)):
            return None
    return FolderScan(tuple(_readings(known, texts, frozenset())), uncertain)


def _all(folder: Path, known: ManifestIndex, calls: BoundedCalls) -> FolderScan:
    listing, texts, uncertain, vanished = _listed_and_read(folder, known, calls)
    for _ in range(_TRIES - 1):
        if vanished:
            listing, texts, uncertain, vanished = _listed_and_read(folder, known, calls)
    absent = known.expected - texts.keys()
    emptied = _emptied(listing, known, absent, texts)
    gone = {name for name in absent - vanished if listing.lacks(name) and not _within(name, emptied)}
    kept = absent - gone
    troubles = list(_troubles(folder, listing, emptied, kept))
    readings = _readings(known, dict.fromkeys(gone) | texts, kept)
    before = {place: found for place, found in known.identities.items() if not place or not listing.lacks(place)}
    now = {place: found for place, found in listing.listed.items() if place not in emptied}
    return FolderScan(
        (*readings, *known.recall(sorted(kept))),
        uncertain or bool(troubles or kept or vanished),
        tuple(troubles),
        before | now,
    )


def _listed_and_read(
    folder: Path, known: ManifestIndex, calls: BoundedCalls
) -> tuple[FolderListing, _Texts, bool, frozenset[str]]:
    """List and read everything; tell also which files weren't there any more when they were to be read.

    Whoever unmounts a folder that is being read takes its files away from one moment to the next: that isn't deleting.
    """
    listing = list_folders(folder, calls)
    if "" in listing.unlisted and not known.expected:
        raise _no_folder(folder, listing.unlisted[""])
    texts, uncertain = _read(folder, listing.files, calls)
    vanished = frozenset(name for name, text in texts.items() if text is None)
    return listing, {name: text for name, text in texts.items() if text is not None}, uncertain, vanished


def _emptied(listing: FolderListing, known: ManifestIndex, absent: Iterable[str], texts: _Texts) -> dict[str, int]:
    """Give folders that were others when files were read in them, and have none now; and how many those were.

    A file that can't be read, or is empty, doesn't count: it says nothing of what the others held. Nobody has deleted
    files where a folder was unmounted, or something was mounted over it. At the start nobody knows which folder it was.
    """
    found: dict[str, int] = {}

    @cache
    def holds_any(place: str) -> bool:
        return any(
            text is not None and known.says_something(name, text)
            for name, text in texts.items()
            if not place or name.startswith(f"{place}/")
        )

    for name in absent:
        for place in folders_on_the_way(name):
            before, now = known.identities.get(place), listing.listed.get(place)
            if now is None or (before == now and before is not None):
                continue
            if not holds_any(place):
                found[place] = found.get(place, 0) + 1
                break
            if before is not None:
                break  # the whole tree is another one, as git-sync has it
    return found


def _within(name: str, places: Mapping[str, int]) -> bool:
    return any(place in places for place in folders_on_the_way(name))


def _troubles(
    folder: Path, listing: FolderListing, emptied: Mapping[str, int], kept: frozenset[str]
) -> Iterator[ValidationIssue]:
    obstacles: set[str] = set()
    for name in sorted(name for name in kept if not _within(name, emptied)):
        if listing.obstacle(name) or "" in listing.unlisted:
            obstacles.add(listing.obstacle(name))
        elif name in listing.listed or name in listing.twice or name in listing.unlisted:
            reason = f"is a folder now; put a file there, or delete it; {_HOLDS}"
            yield ValidationIssue(place=name, reason=reason)
    for place in sorted({*listing.unlisted, *obstacles}):
        error = listing.unlisted.get(place)
        if not place:
            yield unreadable_folder(folder, error or NotADirectoryError(errno.ENOTDIR, ""))
            continue
        if place in listing.links - obstacles or (place not in obstacles and isinstance(error, FileNotFoundError)):
            continue  # a link that nothing is known behind; a folder that went since its parent was listed
        if error is None or error.errno in _NO_FOLDER:
            reason = f"is no folder now; make it one again, or delete it; {_HOLDS}"
        else:
            reason = f"can't be listed: {_words(error)}; mend that; {_HOLDS}, and it is tried again"
        yield ValidationIssue(place=place, reason=reason)
    for place, count in sorted(emptied.items()):
        reason = (
            "holds no manifests that can be read, and isn't known to be the folder that "
            f"{counted(count, 'file')} was read from: it may be unmounted, or mounted over; {_HOLDS} until there are "
            "manifests in it. To have nothing, write one that is a comment: none.yaml with `# none`"
        )
        yield ValidationIssue(place=place or str(folder), reason=reason)


def _readings(known: ManifestIndex, texts: _Texts, kept: frozenset[str]) -> list[FolderReading]:
    """Compare and parse; what is gone comes first, then by name."""
    ordered = dict(sorted(texts.items(), key=lambda pair: (pair[1] is not None, pair[0])))
    gone = frozenset(name for name, text in ordered.items() if text is None)
    parted = known.parted(gone, frozenset(ordered) - gone | kept)
    found = []
    for name, text in ordered.items():
        reading = known.read(name, text, parted)
        if reading is not None:
            found.append(reading)
        time.sleep(0)  # the event loop's turn: parsing holds the interpreter
    return known.moved(found, parted)


def _read(folder: Path, files: Mapping[str, Path], calls: BoundedCalls) -> tuple[_Texts, bool]:
    """Read files; tell whether some could not be, for a reason that may pass."""
    found: _Texts = {}
    uncertain = False
    for path, answer in calls.each(_content, files.values()):
        name = name_in(folder, path)
        if isinstance(answer, OSError):
            # What stands there instead of a file stays until somebody replaces it, which inotify tells.
            uncertain |= not (isinstance(answer, UnsuitableError) or answer.errno in _NO_FOLDER)
            found[name] = ValidationIssue(place=name, reason=_words(answer, "can't be read: "))
        else:
            found[name] = None if answer is None else _decoded(name, answer)
    return found, uncertain


def _content(path: Path) -> bytes | None:
    """Return what a file holds, None where there is none. Raises OSError."""
    try:
        return read_regular(path)
    except FileNotFoundError:
        try:
            path.lstat()
        except FileNotFoundError:
            return None
        raise
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


def _words(error: OSError, before: str = "") -> str:
    if isinstance(error, UnsuitableError):
        return str(error.strerror)
    match error.errno:
        case errno.ENOENT:
            return "is a link that leads nowhere; mend it, or delete it"
        case errno.ELOOP:
            return "is a link that leads in a circle; mend it, or delete it"
    return f"{before}{error.strerror or error}"


def _no_folder(folder: Path, error: OSError) -> UsageError | OSError:
    if error.errno in _NO_FOLDER:
        return UsageError(f"{folder} is not a folder; give a folder of manifests with --manifests")
    return error
