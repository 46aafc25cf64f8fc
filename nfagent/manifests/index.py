"""Index of the objects in a folder of manifests, without I/O: which file holds which object, issues, and changes.

`manifests.folder_scan` reads the files. They are compared and parsed in a thread (`ManifestIndex.read`, which changes
nothing); the result is applied on the event loop in short steps (`ManifestIndex.apply_steps`), as the consumer
iterates over the events.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2s

import msgspec

from nfagent.checkpoint.codec import with_in_force_note
from nfagent.decode.issue_tracker import IssueTracker
from nfagent.decode.registry import foreign_issue
from nfagent.errors import ValidationIssue
from nfagent.manifests.file_content import FileContent, read_documents
from nfagent.manifests.folder_listing import FolderIdentity
from nfagent.model.gvk import Item, ObjectChange
from nfagent.model.objects import ObjectRef
from nfagent.model.slices import sort_in_slices

_EMPTIED = "is empty ({}), as a full disk leaves it; delete it, or write a comment into it, to remove its objects"
_BLANKS = "\ufeff \t\r\n"


class FileReading(msgspec.Struct, frozen=True):
    """The result of reading one file.

    digest:        of its text; '' where there is none, or it can't be decoded
    content:       its objects, with last good ones where those stay in force; None where it has none
    problem:       why its text can't be parsed as a whole
    maybe_partial: it may be half-written: empty, or not parsing, where it was good before
    changed:       the objects that are added, changed or removed
    """

    name: str
    digest: str = ""
    content: FileContent | None = None
    problem: ValidationIssue | None = None
    maybe_partial: bool = False
    changed: tuple[ObjectRef, ...] = ()


class FolderScan(msgspec.Struct, frozen=True):
    """The result of scanning all files of a folder, or some.

    readings:      of files that changed
    uncertain:     something could not be read: it is retried
    folder_issues: folders that can't be read, and why
    identities:    identities of the listed folders; None where only some files were scanned
    """

    readings: tuple[FileReading, ...] = ()
    uncertain: bool = False
    folder_issues: tuple[ValidationIssue, ...] = ()
    identities: dict[str, FolderIdentity] | None = None


class ManifestIndex:
    """The objects of a folder's files.

    An object in two files is an issue that names both; the first file's version is in force.
    """

    def __init__(self, last_good: Mapping[str, Mapping[ObjectRef, Item]] | None = None) -> None:
        """Start empty. last_good: the previous process's checkpoint by file, for files that can't be read now."""
        self._files: dict[str, FileContent] = {}
        self._broken: dict[str, ValidationIssue] = {}
        self._holders: dict[ObjectRef, list[str]] = {}
        self._effective: dict[ObjectRef, Item] = {}
        self.issues = IssueTracker[tuple[str, str]]()
        """Issues by subject: an unreadable file, a file with faulty objects, an object in two files."""
        self._duplicated: set[ObjectRef] = set()
        self._ignored_counts: Counter[str] = Counter()
        self._last_good = {name: _from_checkpoint(items) for name, items in (last_good or {}).items()}
        self.digests: dict[str, str] = {}
        """File -> digest of the text that was read last, valid or not: shows that a change was seen."""
        self.identities: dict[str, FolderIdentity] = {}
        """Folder -> its identity when its files were read last."""
        self.uncertain = False
        """Something could not be read: its objects stay in force."""
        self.scan_lock = asyncio.Lock()
        """Held from the start of a scan until its result is applied."""

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """All issues, by file and line."""
        found = [problem for flaws in self.issues.values() for problem in flaws]
        return tuple(sorted(set(found), key=lambda problem: (problem.place, str(problem))))

    @property
    def ignored(self) -> frozenset[str]:
        """Kinds in files that nfagent doesn't read."""
        return frozenset(self._ignored_counts)

    @property
    def foreign(self) -> tuple[ValidationIssue, ...]:
        """What is to be said of ignored kinds whose names are those of kinds that nfagent reads: each once."""
        found = (self.foreign_issue(kind) for kind in sorted(self._ignored_counts))
        return tuple(issue for issue in found if issue is not None)

    def foreign_issue(self, ignored: str) -> ValidationIssue | None:
        """Return what is to be said of an ignored kind, with the first file that has it; None for nothing."""
        issue = foreign_issue(ignored)
        if issue is None:
            return None
        place = next((name for name, content in self._files.items() if ignored in content.ignored), "")
        return msgspec.structs.replace(issue, place=place)

    @property
    def names(self) -> frozenset[str]:
        """Known files, invalid ones included."""
        return frozenset(self._files) | frozenset(self._broken)

    @property
    def expected(self) -> frozenset[str]:
        """Known files, and until the first scan is applied those of the checkpoint."""
        return self.names | frozenset(self._last_good)

    @property
    def has_last_good(self) -> bool:
        """Whether the checkpoint has objects."""
        return bool(self._last_good)

    def holder(self, ref: ObjectRef) -> str:
        """Return the file whose version of an object is in force; '' where none has it."""
        return self._holders.get(ref, [""])[0]

    def set_folder_issue(self, subject: str, problem: ValidationIssue | None) -> bool:
        """Set or clear an issue of the whole folder; return whether it changed."""
        before = self.issues.get(("as a whole", subject), ())
        now = () if problem is None else (problem,)
        self.issues["as a whole", subject] = now
        return before != now

    def forget_last_good(self) -> None:
        """Drop the checkpoint: every file was read once."""
        self._last_good = {}

    def update(self, name: str, text: str | ValidationIssue | None) -> list[ObjectChange]:
        """Set a file's text, None where it is gone, an issue where it can't be read; return the changes."""
        reading = self.read(name, text)
        return [] if reading is None else list(self.apply_reading(reading))

    def read(
        self,
        name: str,
        text: str | ValidationIssue | None,
        orphaned: Mapping[ObjectRef, tuple[Item, int]] | None = None,
    ) -> FileReading | None:
        """Parse a file's text; None where it is unchanged. Changes nothing.

        orphaned: objects of files that are gone: one that moves into this file, and can't be read in it, stays in force
        """
        if isinstance(text, str) and self.digests.get(name) == digest(text):
            return None
        before = self._files.get(name)
        if text is None:
            return FileReading(name, changed=_changed_objects(before, None))
        good = before or self._last_good.get(name) or FileContent({})
        found: FileContent | ValidationIssue
        if isinstance(text, ValidationIssue):
            found = text
        elif text.strip(_BLANKS):
            found = read_documents(name, text)
        else:
            found = ValidationIssue(place=name, reason=_EMPTIED.format("blanks alone" if text else "0 bytes"))
        problem = found if isinstance(found, ValidationIssue) else None
        if isinstance(found, ValidationIssue):
            problem = with_in_force_note(found, "what it held before") if good.items else found
            content = before or (good if good.items else None)
        else:
            content = _merge_last_good(name, found, good, orphaned or {})
        return FileReading(
            name,
            digest=digest(text) if isinstance(text, str) else "",
            content=content,
            problem=problem,
            maybe_partial=before is not None and isinstance(text, str) and problem is not None,
            changed=_changed_objects(before, content),
        )

    def is_readable(self, name: str, text: str | ValidationIssue) -> bool:
        """Return whether a file can be parsed as a whole, with objects or without."""
        reading = self.read(name, text)
        return name not in self._broken if reading is None else reading.problem is None

    def recall_last_good(self, names: Iterable[str]) -> Iterator[FileReading]:
        """Yield the checkpoint's content of files that can't be read now, unless this process has read them."""
        for name in names:
            content = self._last_good.get(name)
            if content is not None and name not in self._files:
                yield FileReading(name, content=content, changed=_changed_objects(None, content))

    def apply_scan(self, scan: FolderScan) -> Iterator[ObjectChange]:
        """Apply a scan, and yield the changes."""
        return (change for change in self.apply_steps(scan) if change is not None)

    def apply_steps(self, scan: FolderScan) -> Iterator[ObjectChange | None]:
        """Apply a scan in short steps: yield the changes, and None before each file, which may have none."""
        if scan.identities is None:
            self.uncertain |= scan.uncertain
        else:
            self.uncertain, self.identities = scan.uncertain, scan.identities
            for owner in [owner for owner in self.issues if owner[0] == "place"]:
                self.issues[owner] = ()
            for problem in scan.folder_issues:
                self.issues["place", problem.place] = (problem,)
        for reading in scan.readings:
            yield None
            yield from self.apply_reading(reading)

    def apply_reading(self, reading: FileReading) -> Iterator[ObjectChange]:
        """Apply the reading of a file, and yield the changes; only events that are consumed are applied."""
        name, before, after = reading.name, self._files.get(reading.name), reading.content
        self._broken.pop(name, None)
        self.digests.pop(name, None)
        if reading.problem is not None:
            self._broken[name] = reading.problem
        if reading.digest:
            self.digests[name] = reading.digest
        if after is None:
            self._files.pop(name, None)
        else:
            self._files[name] = after
        self.issues["unreadable", name] = () if reading.problem is None else (reading.problem,)
        self.issues["file", name] = () if after is None else after.problems
        self._ignored_counts.subtract(before.ignored if before is not None else ())
        self._ignored_counts.update(after.ignored if after is not None else ())
        self._ignored_counts = +self._ignored_counts  # those that some file still holds
        for ref in reading.changed:
            yield from self._set_holder(ref, name, held=after is not None and ref in after.items)
        for ref in self._duplicated & (after.items.keys() if after is not None else set()):
            self.issues["duplicate", str(ref)] = tuple(self._duplicates(ref))  # its line may have changed

    def orphaned(self, names: Iterable[str], present: frozenset[str]) -> dict[ObjectRef, tuple[Item, int]]:
        """Return the objects of files that are gone: `names`, and files of the checkpoint that aren't `present`."""
        contents = [self._files[name] for name in names if name in self._files]
        contents += [content for name, content in self._last_good.items() if name not in present]
        return {ref: kept_item for content in contents for ref, kept_item in content.items.items()}

    def assign_orphans(
        self, readings: list[FileReading], orphaned: Mapping[ObjectRef, tuple[Item, int]]
    ) -> list[FileReading]:
        """Keep objects that left their files in the same scan in a new file that can't be read, as a whole or in part.

        The new file may be a renamed one. An object that another file has now didn't leave.
        """
        came = {ref for reading in readings if reading.content is not None for ref in reading.content.items}
        gone = {reading.name for reading in readings if reading.content is None}
        left = {
            ref: kept_item
            for ref, kept_item in orphaned.items()
            if ref not in came and not set(self._holders.get(ref, ())) - gone
        }
        unclear = next((at for at, reading in enumerate(readings) if self._may_hold_orphans(reading)), None)
        if unclear is None or not left:
            return readings
        reading = readings[unclear]
        content = reading.content or FileContent({})
        reason = f"may hold objects of files that are gone: all of these ({len(left)}) stay in force"
        problems = (*content.problems, ValidationIssue(place=reading.name, reason=reason))
        content = msgspec.structs.replace(content, items={**content.items, **left}, problems=problems)
        replaced = msgspec.structs.replace(reading, content=content, changed=_changed_objects(None, content))
        return [*readings[:unclear], replaced, *readings[unclear + 1 :]]

    def _may_hold_orphans(self, reading: FileReading) -> bool:
        unread = reading.content is None and reading.problem is not None
        unnamed = reading.content is not None and reading.content.unnamed
        # Asked for each file of a scan: a set of all names each time would cost the square of their number.
        return (unread or unnamed) and reading.name not in self._files and reading.name not in self._broken

    def _set_holder(self, ref: ObjectRef, name: str, *, held: bool) -> Iterator[ObjectChange]:
        """Add or remove a file as holder of an object; yield the version in force, where it changed."""
        holders = self._holders.setdefault(ref, [])
        first = holders[0] if holders else None
        if held and name not in holders:
            holders.append(name)
        elif not held and name in holders:
            holders.remove(name)
        (self._duplicated.add if len(holders) > 1 else self._duplicated.discard)(ref)
        self.issues["duplicate", str(ref)] = tuple(self._duplicates(ref))
        if not holders:
            del self._holders[ref]
            self._effective.pop(ref, None)
            yield ref
            return
        item = self._files[holders[0]].items[ref][0]
        if self._effective.get(ref) != item or holders[0] != first:
            self._effective[ref] = item
            yield item

    def _duplicates(self, ref: ObjectRef) -> Iterator[ValidationIssue]:
        # A file whose reading is being applied may have dropped it already.
        holding = [(name, self._files[name].items) for name in self._holders.get(ref, ()) if name in self._files]
        places = [f"{name}:{items[ref][1]}" for name, items in holding if ref in items]
        for place in places[1:]:
            reason = f"is also in {places[0]}, which is used; delete one of the two"
            yield ValidationIssue(place=place, object=str(ref), reason=reason)


def _from_checkpoint(items: Mapping[ObjectRef, Item]) -> FileContent:
    return FileContent({ref: (item, 1) for ref, item in items.items()})


def _merge_last_good(
    name: str, found: FileContent, good: FileContent, orphaned: Mapping[ObjectRef, tuple[Item, int]]
) -> FileContent:
    """Add the last good versions of objects that can't be read now; of all objects, where those are unknown."""
    wrong = found.refused | found.unknown_fields
    kept = {ref: kept_item for ref in wrong if (kept_item := good.items.get(ref) or orphaned.get(ref)) is not None}
    replaced = {wrong[ref]: with_in_force_note(wrong[ref]) for ref in kept}
    problems = [replaced.get(problem, problem) for problem in found.problems]
    if found.unnamed:
        kept = {ref: kept_item for ref, kept_item in good.items.items() if ref not in found.items} | kept
        reason = f"holds a document about an unknown object: all its previous objects ({len(kept)}) stay in force"
        problems += [ValidationIssue(place=name, reason=reason)] if kept else []
    return msgspec.structs.replace(found, items={**found.items, **kept}, problems=tuple(problems))


def _changed_objects(before: FileContent | None, after: FileContent | None) -> tuple[ObjectRef, ...]:
    old = before.items if before is not None else {}
    new = after.items if after is not None else {}
    changed = {ref for ref, (item, _) in new.items() if ref not in old or old[ref][0] != item}
    # Sorted in slices: sorting 150,000 names at once would hold the interpreter lock.
    return tuple(ref for ref in sort_in_slices(changed | (old.keys() - new.keys())) if ref is not None)


def digest(text: str) -> str:
    """Return a short digest of a file's text."""
    return blake2s(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()
