"""The checkpoint: the last good version of objects on disk, for the next start of the agent.

Changes are recorded on the event loop without I/O. A thread of its own writes them, each object once, at most once a
second. A disk that is full, stalled or read-only delays nothing: it is logged and tried again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2s
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from nfagent.checkpoint.codec import (
    CheckpointedObject,
    CheckpointHeader,
    decode_header,
    decode_record,
    encode_header,
    encode_record,
    is_kept,
)
from nfagent.checkpoint.journal import Journal
from nfagent.checkpoint.kept_text import IP_MASQ_FILE, PACKET_COUNTS_FILE, RULESET_FILE
from nfagent.decode.retained_fields import with_last_good
from nfagent.errors import DecodeError, HostError
from nfagent.model.admin_policy import TierPolicy
from nfagent.model.gvk import Item
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.objects import Namespace, NetworkLogging, Node, ObjectRef, Pod, ServiceCIDR
from nfagent.model.plurals import counted
from nfagent.system.daemon_thread import DaemonThread

log = logging.getLogger(__name__)

CheckpointChange: TypeAlias = Item | ObjectRef

FILE_PREFIX = "last-good-"
"""Prefix of a file's name; the rest is a digest of node and source, so that each pair has a file of its own."""

_MOST_FILES = 8
_OPEN_SECONDS = 10.0
_READ_PAUSES = (0.1, 0.9)
"""Seconds between tries to read the file: without it, a field that can't be read has no last good value."""
_CLOSE_SECONDS = 2.0
_PAUSE_SECONDS = 1.0
"""Pause between two writes: an object that changes constantly is written once a second."""
_RETRY_SECONDS = 30.0
_STALLED_SECONDS = 10.0
_MOST_GARBAGE = 1000
"""Outdated lines, beyond twice the number of objects, before the file is rewritten."""
_YIELD_EVERY = 64


class CheckpointStatus(msgspec.Struct):
    """The status of the checkpoint.

    path:     the file; '' while none is open
    objects:  number of kept objects
    pending:  number of changes that aren't written yet
    damaged:  number of entries that could not be decoded at the start
    lost:     what could not be decoded at the start, or why nothing could be read; '' for nothing
    problem:  why the file can't be read or written; '' without a problem
    """

    path: str = ""
    objects: int = 0
    pending: int = 0
    damaged: int = 0
    lost: str = ""
    problem: str = ""


class CheckpointStore:
    """The last good version of every object that can cause a rule.

    Until `mark_synced`, `of_object` and `of_files` return objects of the previous run. From then on, the recorded
    changes are complete, and nothing of the previous run is returned.
    """

    def __init__(self, folder: Path | None, node: str) -> None:
        """Keep the paths; without a folder nothing is kept. `open` reads the file."""
        self._folder = folder
        self._node = node
        self._file: Journal | None = None
        self._header = b""
        self._held: dict[ObjectRef, CheckpointedObject] = {}
        self._recallable: dict[ObjectRef, CheckpointedObject] = {}
        self._noted: set[ObjectRef] | None = set()
        self._pending: dict[ObjectRef, CheckpointedObject | None] = {}
        self._writing = 0
        self._rewrite = False
        self._lines = 0
        self._dirty = asyncio.Event()
        self._worker = DaemonThread("last-good")
        self._status = CheckpointStatus()

    async def open(self, source: str) -> None:
        """Read the file of this node and source. Every error is logged, and none is raised."""
        if self._folder is None:
            return
        digest = blake2s(f"{self._node}\0{source}".encode(), digest_size=6).hexdigest()
        file = Journal(self._folder, f"{FILE_PREFIX}{digest}")
        header = CheckpointHeader(self._node, source)
        self._header = encode_header(header)
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                kept, self._lines, self._status.damaged, problem = await self._load(file, header)
        except TimeoutError:
            self._lose(f"{file.path} can't be read: no response from the disk within {_OPEN_SECONDS:g} s")
        except HostError as error:
            self._fail(str(error))
            return
        except OSError as error:
            self._lose(f"{file.path} can't be read: {error.strerror or error}; see state_dir")
        else:
            self._recallable, self._held = kept, dict(kept)
            self._rewrite = bool(self._status.damaged or problem or not self._lines)
            if problem:
                log.warning("checkpoint: %s", problem)
                self._status.problem = self._status.lost = problem
        self._file = file
        self._status.path = str(file.path)

    async def _load(
        self, file: Journal, header: CheckpointHeader
    ) -> tuple[dict[ObjectRef, CheckpointedObject], int, int, str]:
        """Read the file as `_load` does; a shortage of descriptors, or an error of the disk, may be over soon."""
        for seconds in _READ_PAUSES:
            try:
                return await self._worker.run(lambda: _load(file, header))
            except OSError as error:
                log.warning("%s can't be read: %s; retrying", file.path, error.strerror or error)
            await asyncio.sleep(seconds)
        return await self._worker.run(lambda: _load(file, header))

    def _lose(self, problem: str) -> None:
        """Note that what the previous run kept isn't known, and is replaced by what this one has."""
        self._fail(problem)
        self._status.lost, self._rewrite = problem, True

    def of_object(self, ref: ObjectRef) -> Item | None:
        """Return an object's last good version of the previous run; None without one."""
        kept = self._recallable.get(ref)
        return None if kept is None else kept.item

    def of_files(self) -> dict[str, dict[ObjectRef, Item]]:
        """Return the last good versions of the previous run, by manifest."""
        found: dict[str, dict[ObjectRef, Item]] = {}
        for ref, kept in self._recallable.items():
            found.setdefault(kept.file, {})[ref] = kept.item
        return found

    def knows(self, kind: str) -> bool:
        """Return whether the previous run had an object of a kind in force."""
        return any(ref.kind == kind for ref in self._recallable)

    def of_kind(self, kind: str) -> Iterator[Item]:
        """Iterate over the last good versions of a kind's objects of the previous run."""
        return (kept.item for ref, kept in self._recallable.items() if ref.kind == kind)

    def record(
        self, changes: Iterable[CheckpointChange], file_of: Callable[[ObjectRef], str] = lambda _: ""
    ) -> Iterator[CheckpointChange]:
        """Record changes while the caller iterates, and yield them; invalid fields keep their last good value.

        file_of: returns the manifest that contains an object
        """
        for change in changes:
            if isinstance(change, ObjectRef):
                self._note(change, None, file_of)
                yield change
            else:
                item = self._completed(change)
                self._note(item.ref, item, file_of)
                yield item

    def mark_synced(self) -> None:
        """Note that every object was read once: objects of the previous run that weren't among them are removed."""
        noted, self._noted = self._noted, None
        self._recallable = {}
        if noted is not None and self._file is not None:
            for ref in self._held.keys() - noted:
                self._change(ref, None)
            self._dirty.set()

    async def run(self) -> None:
        """Write changes, from `mark_synced` on, until cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if self._file is None:
                continue
            written = not (self._pending or self._rewrite) or await self._write(self._file)
            await asyncio.sleep(_PAUSE_SECONDS if written else _RETRY_SECONDS)

    async def close(self) -> None:
        """Write pending changes, for at most 2 s, and close the file."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                if self._noted is None and (self._pending or self._rewrite):
                    await self._write(file)
                await self._worker.run(file.close)
        except TimeoutError:
            unwritten = counted(len(self._pending), "change")
            log.warning("checkpoint: no response from the disk within %g s; %s not written", _CLOSE_SECONDS, unwritten)
        except OSError as error:
            log.warning("checkpoint: %s can't be closed: %s", file.path, error.strerror or error)

    @property
    def problem(self) -> str:
        """Why the file can't be read or written; '' without a problem."""
        return self._status.problem

    def status(self) -> dict[str, Any]:
        """Return the CheckpointStatus as builtins."""
        self._status.objects, self._status.pending = len(self._held), len(self._pending) + self._writing
        found: dict[str, Any] = msgspec.to_builtins(self._status)
        return found

    def _completed(self, item: Item) -> Item:
        """Return the object, whose invalid fields have the last good value, also that of the previous run."""
        kept = self._held.get(item.ref)
        before = None if kept is None else kept.item
        whole = item
        match item, before:
            case Namespace(), Namespace():
                whole = with_last_good(item, before)
            case Node(), Node():
                whole = with_last_good(item, before)
            case Pod(), Pod():
                whole = with_last_good(item, before)
            case ServiceCIDR(), ServiceCIDR():
                whole = with_last_good(item, before)
            case NetworkLogging(), NetworkLogging():
                whole = with_last_good(item, before)
            case TierPolicy(), TierPolicy():
                whole = item.with_last_good(before)
            case IpMasqConfig(), IpMasqConfig():
                whole = item.with_last_good(before)
        return whole

    def _note(self, ref: ObjectRef, item: Item | None, file_of: Callable[[ObjectRef], str]) -> None:
        keep = item is not None and is_kept(item, self._node)
        if self._file is None or (not keep and ref not in self._held):
            return
        if self._noted is not None and keep:
            self._noted.add(ref)
        if item is None or not keep:
            self._change(ref, None)
            return
        kept = CheckpointedObject(item, file_of(ref))
        if self._held.get(ref) != kept:
            self._change(ref, kept)

    def _change(self, ref: ObjectRef, kept: CheckpointedObject | None) -> None:
        if kept is None:
            del self._held[ref]
        else:
            self._held[ref] = kept
        self._pending[ref] = kept
        if self._noted is None:
            # Before `mark_synced`, the file may contain objects that weren't read yet, even if it couldn't be decoded.
            self._dirty.set()

    async def _write(self, file: Journal) -> bool:
        """Write the pending changes; return whether that succeeded."""
        pending, self._pending = self._pending, {}
        self._writing = len(pending)
        anew = self._rewrite or self._lines + len(pending) > 3 * len(self._held) + _MOST_GARBAGE
        content: Mapping[ObjectRef, CheckpointedObject | None] = dict(self._held) if anew else pending
        header = self._header

        def write() -> None:
            lines = _encoded(content)
            file.replace([header, *lines]) if anew else file.append(lines)

        writing = asyncio.ensure_future(self._worker.run(write))
        try:
            done, _ = await asyncio.wait([writing], timeout=_STALLED_SECONDS)
            if not done:
                self._fail(f"{file.path} can't be written: no response from the disk within {_STALLED_SECONDS:g} s")
            await writing
        except (OSError, HostError) as error:
            self._fail(f"{file.path} can't be written: {getattr(error, 'strerror', '') or error}; see state_dir")
            self._pending = pending | self._pending
            self._rewrite |= anew or isinstance(error, FileNotFoundError)
            self._dirty.set()
            return False
        except asyncio.CancelledError:
            self._pending = pending | self._pending
            raise
        finally:
            self._writing = 0
        self._rewrite = False
        self._lines = len(content) + (0 if anew else self._lines)
        if self._status.problem:
            log.info("checkpoint: %s is written again", file.path)
            self._status.problem = ""
        return True

    def _fail(self, reason: str) -> None:
        """Log a problem once."""
        if reason != self._status.problem:
            log.warning("checkpoint: %s; rules are enforced without it", reason)
            self._status.problem = reason


def delete_checkpoints(folder: Path) -> int:
    """Delete the files of every node and source, and what is kept of others; return their number. Raises HostError."""
    try:
        kept = (FILE_PREFIX, IP_MASQ_FILE, PACKET_COUNTS_FILE, RULESET_FILE)
        files = sorted(path for name in kept for path in folder.glob(f"{name}*"))
        for file in files:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"{folder}: the checkpoint can't be deleted: {error.strerror}") from None
    return len(files)


def _load(file: Journal, header: CheckpointHeader) -> tuple[dict[ObjectRef, CheckpointedObject], int, int, str]:
    """Read a file; return its objects, the number of lines, the number of damaged ones, and the problem of the file."""
    content = file.read()
    if not content:
        _log_other_files(file.path)
        return {}, 0, 0, ""
    first, *lines = content.splitlines(keepends=True)
    try:
        found = decode_header(first)
        reason = "" if found == header else f"it is of node {found.node} and {found.source}"
    except DecodeError as error:
        reason = str(error)
    if reason:
        return {}, 0, 0, f"the file is not used: {reason}; moved to {file.set_aside()}"
    kept: dict[ObjectRef, CheckpointedObject] = {}
    damaged = 0
    for number, line in enumerate(lines):
        try:
            ref, item = decode_record(line)
        except DecodeError as error:
            damaged += 1
            log.warning("checkpoint: %s:%d: %s; skipped", file.path, number + 2, error)
            continue
        if item is None:
            kept.pop(ref, None)
        else:
            kept[ref] = item
        if number % _YIELD_EVERY == 0:
            time.sleep(0)
    problem = f"{damaged} of {len(lines)} entries can't be decoded; the others stay in force" if damaged else ""
    return kept, len(lines), damaged, problem


def _log_other_files(path: Path) -> None:
    """Log files of other nodes and sources, which are not used; delete the oldest beyond eight."""
    others = sorted(path.parent.glob(f"{FILE_PREFIX}*"), key=lambda other: other.stat().st_mtime)
    if others:
        log.info("checkpoint: none of this node and source yet; %s of another is not used", others[-1])
    for old in others[:-_MOST_FILES]:
        old.unlink(missing_ok=True)


def _encoded(content: Mapping[ObjectRef, CheckpointedObject | None]) -> list[bytes]:
    lines = []
    for number, (ref, kept) in enumerate(content.items()):
        lines.append(encode_record(ref, kept))
        if number % _YIELD_EVERY == 0:
            time.sleep(0)  # releases the interpreter lock for the event loop
    return lines
