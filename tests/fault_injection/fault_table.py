"""The rules of `boundary.c`: the memory that a test shares with the agent, and the values that it holds.

with FaultTable(folder) as table:
    agent.start({**table.environment})
    with table.armed(Fault(calls=Call.SEND, kinds=Kind.NFT_COMMIT, action=Action.REFUSE, error=errno.EBUSY)):
        ...
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

_SOURCE = Path(__file__).with_name("boundary.c")
# struct table: calls, wall_offset, rules; struct rule, as boundary.c has them.
_CALLS, _RULES = 18, 16
_HEAD = struct.Struct(f"={_CALLS}Qq")
_RULE = struct.Struct("=4Ii3IQ2I248s")
_ARMED = struct.Struct("=I")
_SEEN_AT, _COUNTS = _RULE.size - 248 - 8, struct.Struct("=2I")
_OFFSET = struct.Struct("=q")


class Call(enum.IntFlag):
    """Calls of the C library; WAIT is epoll_wait, which is only counted, THREAD is pthread_create, WATCH epoll_ctl."""

    SEND = 1
    RECV = 2
    OPEN = 4
    READ = 8
    WRITE = 16
    FSYNC = 32
    RENAME = 64
    CONNECT = 128
    SOCKET = 256
    ACCEPT = 512
    STAT = 1024
    SCAN = 2048
    UNLINK = 4096
    MKDIR = 8192
    WAIT = 16384
    PIPE = 32768
    THREAD = 65536
    WATCH = 131072


class Kind(enum.IntFlag):
    """What a call is about. A netlink socket is of the kind of its last request.

    A listing of rules asks for counters too, on the same socket.
    """

    NFT_COMMIT = 1
    NFT_LIST = 2
    NFT_EVENTS = 4
    CONNTRACK = 8
    NFLOG = 16
    ROUTE = 32
    UNIX = 64
    INET = 128
    FILES = 256
    OTHER = 512
    IPSET = 1024
    IPSET_LIST = 2048
    NFT_COUNTERS = 4096


class Action(enum.IntEnum):
    """What happens to a call.

    FAIL:   it returns an error, and isn't made
    HANG:   it is made after `seconds`, or when the rule isn't armed any more
    SHORT:  it reads or writes at most `most_bytes`
    KILL:   it is made, and the process is killed
    REFUSE: a netlink request isn't sent; the next reply on its socket refuses each message of it
    LOSE:   it is made, and its result is dropped for an error, as of a receive buffer that overflowed
    COUNT:  it is made, and counted
    """

    FAIL = 1
    HANG = 2
    SHORT = 3
    KILL = 4
    REFUSE = 5
    LOSE = 6
    COUNT = 7


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of matching calls.

    error:      errno
    skipped:    matching calls that pass before
    most:       calls that are changed; 0 for all
    most_bytes: of SHORT
    seconds:    of HANG
    path:       how the file's path, or that of the unix socket, begins
    """

    calls: Call
    kinds: Kind
    action: Action
    error: int = 0
    skipped: int = 0
    most: int = 0
    most_bytes: int = 0
    seconds: float = 60.0
    path: str = ""

    def packed(self) -> bytes:
        """Return it as the C library's `struct rule`, armed, without counts."""
        nanoseconds = int(self.seconds * 1e9)
        numbers = (self.calls, self.kinds, self.action, self.error, self.skipped, self.most, self.most_bytes)
        return _RULE.pack(1, *numbers, nanoseconds, 0, 0, self.path.encode())


class FaultTable:
    """The library, compiled, and the file of its rules; a context manager that unmaps it."""

    def __init__(self, folder: Path) -> None:
        """Compile the library into a folder, and make an empty table there. Raises CalledProcessError."""
        library, self._path = folder / "boundary.so", folder / "fault-table"
        flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Wno-maybe-uninitialized", "-Werror"]
        # Its temporary files go with the library's folder, where it is interrupted too.
        environment = os.environ | {"TMPDIR": str(library.parent)}
        subprocess.run(["gcc", *flags, "-o", str(library), str(_SOURCE), "-ldl"], check=True, env=environment)
        self._path.write_bytes(bytes(_HEAD.size + _RULES * _RULE.size))
        with self._path.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), 0)
        self.environment = {"LD_PRELOAD": str(library), "FAULT_TABLE": str(self._path)}

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unmap the table."""
        self.disarm()
        self._memory.close()

    def arm(self, *rules: Rule) -> None:
        """Put rules in force, in the place of others. The first that matches a call counts."""
        self.disarm()
        for index, rule in enumerate(rules):
            at, packed = _rule_at(index), rule.packed()
            # What arms a rule is written last.
            self._memory[at + _ARMED.size : at + _RULE.size] = packed[_ARMED.size :]
            self._memory[at : at + _ARMED.size] = packed[: _ARMED.size]

    def disarm(self) -> None:
        """End all rules; calls that hang go on. Their counts stay readable."""
        for index in range(_RULES):
            _ARMED.pack_into(self._memory, _rule_at(index), 0)
        self.set_wall_offset(0.0)

    @contextmanager
    def armed(self, *rules: Rule) -> Iterator[None]:
        """Put rules in force for a while."""
        self.arm(*rules)
        try:
            yield
        finally:
            self.disarm()

    def hits_of(self, rules: int) -> list[int]:
        """Return how many calls each of the first rules has changed so far, or counted."""
        return [_COUNTS.unpack_from(self._memory, _rule_at(index) + _SEEN_AT)[1] for index in range(rules)]

    def hits(self, rules: int) -> int:
        """Return how many calls the first rules have changed so far, or counted."""
        return sum(self.hits_of(rules))

    def set_wall_offset(self, seconds: float) -> None:
        """Set by how many seconds the agent's wall clock is ahead of the machine's."""
        _OFFSET.pack_into(self._memory, _HEAD.size - _OFFSET.size, int(seconds * 1e9))

    def calls(self) -> int:
        """Return the number of the agent's calls so far, of all kinds."""
        return sum(_HEAD.unpack_from(self._memory)[:_CALLS])


def _rule_at(index: int) -> int:
    return _HEAD.size + index * _RULE.size
