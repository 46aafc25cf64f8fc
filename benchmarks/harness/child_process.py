"""A benchmark's child process: a module of benchmarks that answers lines of JSON on stdin with lines on stdout.

Each one is a process of its own so that its memory and CPU time are measured separately, or so that it runs another
version of nfagent.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from nfagent.errors import KernelError

ROOT = Path(__file__).resolve().parents[2]
"""This checkout."""

_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class ChildProcess:
    """A child process that answers lines with lines; a context manager that ends it."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        within: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a module of benchmarks.

        within:      command that precedes the interpreter, such as `ip netns exec NAME`
        environment: variables that are added to this process's
        """
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [*within, sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def receive(self, kind: type[_Answer]) -> _Answer:
        """Wait for its next line. Raises KernelError where it ended instead; its stderr is ours."""
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line:
            raise KernelError(f"{self._process.args!r} ended with {self._process.wait()}")
        return msgspec.json.decode(line, type=kind)

    def send(self, command: str, **details: Any) -> None:  # noqa: ANN401 - JSON
        """Send a command."""
        if self._process.stdin:
            self._process.stdin.write(msgspec.json.encode({"do": command, **details}) + b"\n")
            self._process.stdin.flush()

    def request(self, kind: type[_Answer], command: str, **details: Any) -> _Answer:  # noqa: ANN401 - JSON
        """Send a command, and wait for its result."""
        self.send(command, **details)
        return self.receive(kind)

    def release(self) -> None:
        """Send an empty line, for which a child waits after an answer."""
        if self._process.stdin:
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def __enter__(self) -> Self:
        """Return the running process."""
        return self

    def __exit__(self, *_failure: object) -> None:
        """End it, by closing its standard input."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


def say(answer: msgspec.Struct) -> None:
    """Write an answer to stdout, in the child."""
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
