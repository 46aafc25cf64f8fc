"""Parses a large file in a child process: `python -I -c ... NAME`, with the text as its standard input.

A parser in C holds the interpreter lock for a whole document, and so do freeing a large tree and the garbage collection
that traverses it: the event loop would stop for that time. The child has its own interpreter, a limit of memory and one
of CPU time, and returns its memory when it ends. It writes a line of JSON for each object, `[LINE, OBJECT]`, and at the
end `null`, or the issue of the whole file.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import msgspec

from nfagent.errors import DecodeError, ValidationIssue
from nfagent.manifests.document_parser import LocatedDocument, parse
from nfagent.manifests.list_items import entries

LARGE = 512 * 1024
"""Characters from which a file is parsed in a child: smaller files take some milliseconds at a time."""

LARGEST_OBJECT = 4 * 1024 * 1024
"""Bytes of one object as JSON; an API server takes 1.5 MiB."""

_MAX_MEMORY = 2 * 1024**3
_MAX_SECONDS = 300
"""Of the child's CPU time."""

_SIGKILL_MARGIN = 5
"""Between the soft limit, whose signal tells the reason, and the hard one, which ends the process by SIGKILL."""

_MEMORY_EXCEEDED = f"needs more than {_MAX_MEMORY >> 20} MiB of memory to be read; give its objects in several files"
_TIME_EXCEEDED = f"takes more than {_MAX_SECONDS} s to be read; give its objects in several files"
_KILLED = "the process that parses it was killed; it is parsed again when the file changes, or at SIGHUP"
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[2]); from nfagent.manifests.parser_process import main; main(sys.argv[1])"
)
_ROOT = str(Path(__file__).parents[2])


class ParserError(DecodeError):
    """A file can't be parsed as a whole: carries the issue."""

    def __init__(self, problem: ValidationIssue) -> None:
        """Keep the issue and make it the message."""
        super().__init__(str(problem))
        self.problem = problem


class ObjectTooLarge(msgspec.Struct, frozen=True):
    """An object that isn't decoded because of its size: its identifying fields, and its size in bytes."""

    named: dict[str, Any]
    size: int


class _Children:
    """The running children, so that a stop can kill them while threads wait for them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    def add(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.add(child)

    def discard(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(child)

    def end(self) -> None:
        with self._lock:
            for child in self._running:
                child.kill()


_CHILDREN = _Children()


def end_children() -> None:
    """Kill the running children: the threads that wait for them get an issue, and go on."""
    _CHILDREN.end()


def file_entries(name: str, text: str) -> Iterator[LocatedDocument]:
    """Yield the objects of a file, lists expanded. Raises ParserError, also after some objects."""
    if len(text) >= LARGE:
        child = _start_child(name, text)
        if child is not None:
            yield from _child_entries(name, child)
            return
    documents = parse(name, text)
    if isinstance(documents, ValidationIssue):
        raise ParserError(documents)
    yield from entries(documents)


def _start_child(name: str, text: str) -> subprocess.Popen[bytes] | None:
    """Start the child; None where the machine lacks resources: the file is parsed in this process then, slower."""
    command = [sys.executable, "-I", "-c", _PROGRAM, name, _ROOT]
    try:
        with open(os.memfd_create("manifest"), "w+b") as file:  # noqa: PTH123 - it has no path
            file.write(text.encode(errors="surrogatepass"))
            file.seek(0)
            # The only part of the command from outside is the file's name, which is an argument.
            return subprocess.Popen(  # noqa: S603
                command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}
            )
    except (OSError, MemoryError):
        return None


def _child_entries(name: str, child: subprocess.Popen[bytes]) -> Iterator[LocatedDocument]:
    _CHILDREN.add(child)
    try:
        for line in child.stdout or ():
            found = _decoded(line)
            if found is None:
                return
            if isinstance(found, ValidationIssue):
                raise ParserError(found)
            yield found
        raise ParserError(ValidationIssue(place=name, reason=_exit_reason(child.wait())))
    finally:
        child.kill()
        child.wait()
        _CHILDREN.discard(child)
        if child.stdout is not None:
            child.stdout.close()


def _decoded(line: bytes) -> LocatedDocument | ValidationIssue | None:
    found = msgspec.json.decode(line)
    if found is None:
        return None
    if isinstance(found, dict):
        return msgspec.convert(found, ValidationIssue)
    if len(found) > 2:
        return found[0], ObjectTooLarge(found[1], found[2])
    return found[0], found[1]


def _exit_reason(code: int) -> str:
    if code == -signal.SIGXCPU:
        return _TIME_EXCEEDED
    return _KILLED if code == -signal.SIGKILL else _MEMORY_EXCEEDED


def main(name: str) -> None:
    """Parse standard input: the child's entry point."""
    for limit, most in ((resource.RLIMIT_AS, _MAX_MEMORY), (resource.RLIMIT_CPU, _MAX_SECONDS)):
        with suppress(ValueError, OSError):  # a lower limit of the agent's own stays
            resource.setrlimit(limit, (most, most + _SIGKILL_MARGIN))
    out = sys.stdout.buffer
    try:
        text = sys.stdin.buffer.read().decode(errors="surrogatepass")
        problem = _write(name, text, out)
    except MemoryError:
        problem = ValidationIssue(place=name, reason=_MEMORY_EXCEEDED)
    out.write(msgspec.json.encode(problem) + b"\n")
    out.flush()


def _write(name: str, text: str, out: BinaryIO) -> ValidationIssue | None:
    documents = parse(name, text)
    if isinstance(documents, ValidationIssue):
        return documents
    for line, found in entries(documents):
        written = msgspec.json.encode((line, found))
        if len(written) > LARGEST_OBJECT:
            written = msgspec.json.encode((line, _identifying_fields(found), len(written)))
        out.write(written + b"\n")
    return None


def _identifying_fields(found: object) -> dict[str, Any]:
    """Return the fields that identify an object."""
    if not isinstance(found, dict):
        return {}
    metadata = found.get("metadata")
    kept = {key: found[key] for key in ("apiVersion", "kind") if _is_short(found.get(key))}
    if isinstance(metadata, dict):
        kept["metadata"] = {key: metadata[key] for key in ("name", "namespace") if _is_short(metadata.get(key))}
    return kept


def _is_short(value: object) -> bool:
    return isinstance(value, str) and len(value) < LARGE
