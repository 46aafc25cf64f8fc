"""What the files of a folder of manifests hold: the bookkeeping, without I/O.

Which file holds which object, what is wrong, what changed. `manifests.folder_scan` feeds it from the disk. Files are
compared and parsed in a thread (`ManifestIndex.read`, which changes nothing); what that found is adopted on the event
loop object by object (`ManifestIndex.adopt`), as fast as whoever takes the events asks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2s
from typing import TypeAlias

import msgspec

from nfagent.checkpoint.codec import still_in_force
from nfagent.decode.issue_tracker import IssueTracker
from nfagent.errors import ValidationIssue
from nfagent.manifests.documents import FileContent, read_documents
from nfagent.manifests.folder_listing import Identity
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.model.slices import in_order

_EMPTIED = "is empty ({}), as a full disk leaves it; delete it, or write a comment into it, to have nothing of it"
_BLANKS = "\ufeff \t\r\n"

ManifestEvent: TypeAlias = Item | ObjectRef
"""An object to put, or the name of one that is gone."""


class FolderReading(msgspec.Struct, frozen=True):
    """What a look at one file found.

    digest:  of its text; '' where it has none, or none that can be read
    content: what it holds now, what it held before included where that stays in force; None where nothing is known
    problem: why its text can't be read as a whole
    halfway: it looks half-written: empty, or not parsing, where it was good before
    touched: the objects that come, change or go
    """

    name: str
    digest: str = ""
    content: FileContent | None = None
    problem: ValidationIssue | None = None
    halfway: bool = False
    touched: tuple[ObjectRef, ...] = ()


class FolderScan(msgspec.Struct, frozen=True):
    """What a look at files found, all of them or some.

    readings:   of those that are other than before
    uncertain:  something could not be looked at: it is tried again
    troubles:   folders that can't be read, and why
    identities: which folders were listed; None where only some files were looked at
    """

    readings: tuple[FolderReading, ...] = ()
    uncertain: bool = False
    troubles: tuple[ValidationIssue, ...] = ()
    identities: dict[str, Identity] | None = None


class ManifestIndex:
    """What the files of a folder say together.

    The same object in two files is an error that names both; the file that had it first holds it.
    """

    def __init__(self, last_good: Mapping[str, Mapping[ObjectRef, Item]] | None = None) -> None:
        """Start empty. last_good: what an agent of before read last, by file: it holds for what can't be read now."""
        self._files: dict[str, FileContent] = {}
        self._broken: dict[str, ValidationIssue] = {}
        self._holders: dict[ObjectRef, list[str]] = {}
        self._shown: dict[ObjectRef, Item] = {}
        self.flaws = IssueTracker[tuple[str, str]]()
        """What is wrong, by what is at fault: a file that can't be read, one with flaws, an object in two."""
        self._contested: set[ObjectRef] = set()
        self._ignoring: Counter[str] = Counter()
        self._last_good = {name: _remembered(items) for name, items in (last_good or {}).items()}
        self.digests: dict[str, str] = {}
        """File -> digest of the text that was read last, broken or not: how to tell that a change was seen."""
        self.identities: dict[str, Identity] = {}
        """Folder -> which one it was when its files were read last."""
        self.uncertain = False
        """Something could not be looked at: what it held stays in force."""
        self.reading = asyncio.Lock()
        """Held from a look at the disk until what it found is adopted."""

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """Everything that is wrong now, by file and line."""
        found = [problem for flaws in self.flaws.values() for problem in flaws]
        return tuple(sorted(set(found), key=lambda problem: (problem.place, str(problem))))

    @property
    def ignored(self) -> frozenset[str]:
        """Kinds that files hold and nfagent doesn't read."""
        return frozenset(self._ignoring)

    @property
    def names(self) -> frozenset[str]:
        """Files that are known, broken ones too."""
        return frozenset(self._files) | frozenset(self._broken)

    @property
    def expected(self) -> frozenset[str]:
        """Files that are known, or were to an agent of before until everything was read once."""
        return self.names | frozenset(self._last_good)

    @property
    def has_last_good(self) -> bool:
        """Tell whether something holds for what can't be read at the start."""
        return bool(self._last_good)

    def holder(self, ref: ObjectRef) -> str:
        """Name the file that holds an object; '' where none does."""
        return self._holders.get(ref, [""])[0]

    def say(self, subject: str, problem: ValidationIssue | None) -> bool:
        """Take in what is wrong with the folder as a whole, or nothing; tell whether that is news."""
        before = self.flaws.get(("as a whole", subject), ())
        now = () if problem is None else (problem,)
        self.flaws["as a whole", subject] = now
        return before != now

    def forget_last_good(self) -> None:
        """Take in that every file was read once: what an agent of before read is of no more use."""
        self._last_good = {}

    def update(self, name: str, text: str | ValidationIssue | None) -> list[ManifestEvent]:
        """Take in a file's text, None where it is gone, a Problem where it can't be read; give what changed."""
        reading = self.read(name, text)
        return [] if reading is None else list(self.adopt(reading))

    def read(
        self, name: str, text: str | ValidationIssue | None, parted: Mapping[ObjectRef, tuple[Item, int]] | None = None
    ) -> FolderReading | None:
        """Compare a file's text with what is known; None where it was read before. Changes nothing.

        parted: objects of files that are gone: one that moves into this file, and can't be read in it, stays in force
        """
        if isinstance(text, str) and self.digests.get(name) == digest(text):
            return None
        before = self._files.get(name)
        if text is None:
            return FolderReading(name, touched=_touched(before, None))
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
            problem = still_in_force(found, "what it held before") if good.items else found
            content = before or (good if good.items else None)
        else:
            content = _with_last_good(name, found, good, parted or {})
        return FolderReading(
            name,
            digest=digest(text) if isinstance(text, str) else "",
            content=content,
            problem=problem,
            halfway=before is not None and isinstance(text, str) and problem is not None,
            touched=_touched(before, content),
        )

    def says_something(self, name: str, text: str | ValidationIssue) -> bool:
        """Tell whether a file can be read as a whole, be it that it says that there is nothing."""
        reading = self.read(name, text)
        return name not in self._broken if reading is None else reading.problem is None

    def recall(self, names: Iterable[str]) -> Iterator[FolderReading]:
        """Give what an agent of before read of files that can't be looked at now, where this one hasn't read them."""
        for name in names:
            content = self._last_good.get(name)
            if content is not None and name not in self._files:
                yield FolderReading(name, content=content, touched=_touched(None, content))

    def adopt_look(self, look: FolderScan) -> Iterator[ManifestEvent]:
        """Take in what a look found, and give what it changes."""
        if look.identities is None:
            self.uncertain |= look.uncertain
        else:
            self.uncertain, self.identities = look.uncertain, look.identities
            for owner in [owner for owner in self.flaws if owner[0] == "place"]:
                self.flaws[owner] = ()
            for problem in look.troubles:
                self.flaws["place", problem.place] = (problem,)
        for reading in look.readings:
            yield from self.adopt(reading)

    def adopt(self, reading: FolderReading) -> Iterator[ManifestEvent]:
        """Take in what a look found, and give what it changes; an event not asked for isn't taken in."""
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
        self.flaws["unreadable", name] = () if reading.problem is None else (reading.problem,)
        self.flaws["file", name] = () if after is None else after.problems
        self._ignoring.subtract(before.ignored if before is not None else ())
        self._ignoring.update(after.ignored if after is not None else ())
        self._ignoring = +self._ignoring  # those that some file still holds
        for ref in reading.touched:
            yield from self._settle(ref, name, held=after is not None and ref in after.items)
        for ref in self._contested & (after.items.keys() if after is not None else set()):
            self.flaws["twice", str(ref)] = tuple(self._twice(ref))  # its line may be another now

    def parted(self, names: Iterable[str], present: frozenset[str]) -> dict[ObjectRef, tuple[Item, int]]:
        """Give the objects of files that are gone: `names`, and those of before that aren't `present`."""
        contents = [self._files[name] for name in names if name in self._files]
        contents += [content for name, content in self._last_good.items() if name not in present]
        return {ref: held for content in contents for ref, held in content.items.items()}

    def moved(self, readings: list[FolderReading], parted: Mapping[ObjectRef, tuple[Item, int]]) -> list[FolderReading]:
        """Have a new file whose text, or a part of it, nobody can read hold what left its files in the same look.

        It may be one of those files, under another name. What another file holds now has not left.
        """
        came = {ref for reading in readings if reading.content is not None for ref in reading.content.items}
        gone = {reading.name for reading in readings if reading.content is None}
        left = {
            ref: held for ref, held in parted.items() if ref not in came and not set(self._holders.get(ref, ())) - gone
        }
        unclear = next((at for at, reading in enumerate(readings) if self._is_unclear(reading)), None)
        if unclear is None or not left:
            return readings
        reading = readings[unclear]
        content = reading.content or FileContent({})
        reason = f"what files held that are gone ({len(left)}) stays in force: this one may be about it"
        said = (*content.problems, ValidationIssue(place=reading.name, reason=reason))
        content = msgspec.structs.replace(content, items={**content.items, **left}, problems=said)
        replaced = msgspec.structs.replace(reading, content=content, touched=_touched(None, content))
        return [*readings[:unclear], replaced, *readings[unclear + 1 :]]

    def _is_unclear(self, reading: FolderReading) -> bool:
        unread = reading.content is None and reading.problem is not None
        unnamed = reading.content is not None and reading.content.unnamed
        return reading.name not in self.names and (unread or unnamed)

    def _settle(self, ref: ObjectRef, name: str, *, held: bool) -> Iterator[ManifestEvent]:
        """Take in that a file holds an object, or doesn't; give what holds now, where that is another."""
        holders = self._holders.setdefault(ref, [])
        first = holders[0] if holders else None
        if held and name not in holders:
            holders.append(name)
        elif not held and name in holders:
            holders.remove(name)
        (self._contested.add if len(holders) > 1 else self._contested.discard)(ref)
        self.flaws["twice", str(ref)] = tuple(self._twice(ref))
        if not holders:
            del self._holders[ref]
            self._shown.pop(ref, None)
            yield ref
            return
        item = self._files[holders[0]].items[ref][0]
        if self._shown.get(ref) != item or holders[0] != first:
            self._shown[ref] = item
            yield item

    def _twice(self, ref: ObjectRef) -> Iterator[ValidationIssue]:
        # A file that is being adopted may have let go of it already.
        holding = [(name, self._files[name].items) for name in self._holders.get(ref, ()) if name in self._files]
        places = [f"{name}:{items[ref][1]}" for name, items in holding if ref in items]
        for place in places[1:]:
            reason = f"is also in {places[0]}, which holds; delete one of the two"
            yield ValidationIssue(place=place, object=str(ref), reason=reason)


def _remembered(items: Mapping[ObjectRef, Item]) -> FileContent:
    return FileContent({ref: (item, 1) for ref, item in items.items()})


def _with_last_good(
    name: str, found: FileContent, good: FileContent, parted: Mapping[ObjectRef, tuple[Item, int]]
) -> FileContent:
    """Keep in force, of what was good, what can't be read now: and all of it, where nobody can say what that is."""
    wrong = found.refused | found.doubted
    kept = {ref: held for ref in wrong if (held := good.items.get(ref) or parted.get(ref)) is not None}
    problems = {wrong[ref]: still_in_force(wrong[ref]) for ref in kept}
    said = [problems.get(problem, problem) for problem in found.problems]
    if found.unnamed:
        kept = {ref: held for ref, held in good.items.items() if ref not in found.items} | kept
        reason = (
            f"holds a document that is about an unknown object: all that it held before ({len(kept)}) stays in force"
        )
        said += [ValidationIssue(place=name, reason=reason)] if kept else []
    return msgspec.structs.replace(found, items={**found.items, **kept}, problems=tuple(said))


def _touched(before: FileContent | None, after: FileContent | None) -> tuple[ObjectRef, ...]:
    old = before.items if before is not None else {}
    new = after.items if after is not None else {}
    changed = {ref for ref, (item, _) in new.items() if ref not in old or old[ref][0] != item}
    # In steps: a sort of 150,000 names at once would hold the interpreter.
    return tuple(ref for ref in in_order(changed | (old.keys() - new.keys())) if ref is not None)


def digest(text: str) -> str:
    """Give a short digest of a file's text."""
    return blake2s(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()
