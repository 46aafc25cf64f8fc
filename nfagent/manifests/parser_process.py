"""A large file's text to objects in a child process: `python -I -c ... NAME`, the text as its standard input.

A parser in C holds the interpreter, and the event loop with it, for as long as a document is, and so do the end of a
large tree and the collector that walks it. The child has its own interpreter, a limit of memory and one of time, and
gives its memory back when it ends. It writes a line of JSON for each object, `[LINE, OBJECT]`, and at the end `null`,
or the problem of the whole file.
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
from nfagent.manifests.list_items import entries
from nfagent.manifests.yaml_loader import Document, parse

LARGE = 512 * 1024
"""Characters from where on a file is parsed apart: less of anything takes some milliseconds at a time."""

LARGEST_OBJECT = 4 * 1024 * 1024
"""Bytes of one object as JSON; an API server takes 1.5 MiB."""

_MOST_MEMORY = 2 * 1024**3
_MOST_SECONDS = 300
"""Of the child's CPU time."""

_SIGNAL_FIRST = 5
"""What is between the limit that says why it ends a process, and the one that doesn't."""

_MEMORY = f"needs more than {_MOST_MEMORY >> 20} MiB of memory to be read; give its objects in several files"
_SECONDS = f"takes more than {_MOST_SECONDS} s to be read; give its objects in several files"
_ENDED = "the process that reads it was ended; it is read again when it changes, or at SIGHUP"
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[2]); from nfagent.manifests.parser_process import main; main(sys.argv[1])"
)
_ROOT = str(Path(__file__).parents[2])


class ParserError(DecodeError):
    """A file that can't be parsed as a whole, with its problem."""

    def __init__(self, problem: ValidationIssue) -> None:
        """Keep the problem and make it the message."""
        super().__init__(str(problem))
        self.problem = problem


class ObjectTooLarge(msgspec.Struct, frozen=True):
    """An object that isn't read for its size: what names it, and how large it is."""

    named: dict[str, Any]
    size: int


class _Children:
    """The children that run, so that they can be ended with whoever waits for them."""

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
    """End the children that run now: who waits for them gets a problem, and goes on."""
    _CHILDREN.end()


def file_entries(name: str, text: str) -> Iterator[Document]:
    """Give the objects of a file, lists opened. Raises UnparsedError, in the midst of them too."""
    if len(text) >= LARGE:
        child = _started(name, text)
        if child is not None:
            yield from _from_child(name, child)
            return
    documents = parse(name, text)
    if isinstance(documents, ValidationIssue):
        raise ParserError(documents)
    yield from entries(documents)


def _started(name: str, text: str) -> subprocess.Popen[bytes] | None:
    """Start the child; None where this machine has no room for one now: then the file is parsed here, in more time."""
    command = [sys.executable, "-I", "-c", _PROGRAM, name, _ROOT]
    try:
        with open(os.memfd_create("manifest"), "w+b") as file:  # noqa: PTH123 - it has no path
            file.write(text.encode(errors="surrogatepass"))
            file.seek(0)
            # Nothing of the command comes from a file but its name, which is an argument.
            return subprocess.Popen(  # noqa: S603
                command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}
            )
    except (OSError, MemoryError):
        return None


def _from_child(name: str, child: subprocess.Popen[bytes]) -> Iterator[Document]:
    _CHILDREN.add(child)
    try:
        for line in child.stdout or ():
            found = _decoded(line)
            if found is None:
                return
            if isinstance(found, ValidationIssue):
                raise ParserError(found)
            yield found
        raise ParserError(ValidationIssue(place=name, reason=_why_ended(child.wait())))
    finally:
        child.kill()
        child.wait()
        _CHILDREN.discard(child)
        if child.stdout is not None:
            child.stdout.close()


def _decoded(line: bytes) -> Document | ValidationIssue | None:
    found = msgspec.json.decode(line)
    if found is None:
        return None
    if isinstance(found, dict):
        return msgspec.convert(found, ValidationIssue)
    if len(found) > 2:
        return found[0], ObjectTooLarge(found[1], found[2])
    return found[0], found[1]


def _why_ended(code: int) -> str:
    if code == -signal.SIGXCPU:
        return _SECONDS
    return _ENDED if code == -signal.SIGKILL else _MEMORY


def main(name: str) -> None:
    """Parse standard input, as the child."""
    for limit, most in ((resource.RLIMIT_AS, _MOST_MEMORY), (resource.RLIMIT_CPU, _MOST_SECONDS)):
        with suppress(ValueError, OSError):  # a lower limit of the agent's own holds
            resource.setrlimit(limit, (most, most + _SIGNAL_FIRST))
    out = sys.stdout.buffer
    try:
        text = sys.stdin.buffer.read().decode(errors="surrogatepass")
        problem = _write(name, text, out)
    except MemoryError:
        problem = ValidationIssue(place=name, reason=_MEMORY)
    out.write(msgspec.json.encode(problem) + b"\n")
    out.flush()


def _write(name: str, text: str, out: BinaryIO) -> ValidationIssue | None:
    documents = parse(name, text)
    if isinstance(documents, ValidationIssue):
        return documents
    for line, found in entries(documents):
        written = msgspec.json.encode((line, found))
        if len(written) > LARGEST_OBJECT:
            written = msgspec.json.encode((line, _naming(found), len(written)))
        out.write(written + b"\n")
    return None


def _naming(found: object) -> dict[str, Any]:
    """Give of an object what names it."""
    if not isinstance(found, dict):
        return {}
    metadata = found.get("metadata")
    kept = {key: found[key] for key in ("apiVersion", "kind") if _is_short(found.get(key))}
    if isinstance(metadata, dict):
        kept["metadata"] = {key: metadata[key] for key in ("name", "namespace") if _is_short(metadata.get(key))}
    return kept


def _is_short(value: object) -> bool:
    return isinstance(value, str) and len(value) < LARGE
