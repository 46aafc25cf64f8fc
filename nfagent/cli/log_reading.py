"""Which records of a verdict log are read: of a file, of stdin or of the agent, filtered, first or last ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec

from nfagent.cli.log_follow import LogFollower
from nfagent.errors import DecodeError
from nfagent.verdicts.records import Record, decode

_BATCH = 1000

Matches = Callable[[Record], bool]


class Selection(msgspec.Struct, frozen=True):
    """Which of the matching records are shown.

    first, last: so many; 0 for all
    follow:      new records after them, without end
    """

    first: int = 0
    last: int = 0
    follow: bool = False


class Counts(msgspec.Struct):
    """What was read: records, lines that are none, records that match, and whether older ones were left out."""

    records: int = 0
    unread: int = 0
    matching: int = 0
    cut: bool = False


def records_of_file(
    follower: LogFollower, matches: Matches, selection: Selection, counts: Counts
) -> Iterator[list[Record]]:
    """Yield the selected records in batches, oldest first. Raises OSError."""
    if not selection.last:
        yield from _forward(follower.batches(follow=selection.follow), matches, selection, counts)
        return
    found: list[bytes] = []  # as lines, which are smaller than Records
    for line, _ in _matching(follower.newest_first(follow=selection.follow), matches, counts):
        found.append(line)
        counts.cut = len(found) == selection.last
        if counts.cut:
            break
    found.reverse()
    for begin in range(0, len(found), _BATCH):
        yield [decode(line) for line in found[begin : begin + _BATCH]]
    if selection.follow:
        yield from _forward(follower.batches(follow=True), matches, selection, counts)


def records_of_lines(
    batches: Iterator[list[bytes]], matches: Matches, selection: Selection, counts: Counts
) -> Iterator[list[Record]]:
    """Yield the selected records of lines that come once, oldest first: of stdin, or of the agent."""
    if not selection.last or selection.follow:
        yield from _forward(batches, matches, selection, counts)
        return
    found: list[bytes] = []
    for line, _ in _matching(batches, matches, counts):
        found.append(line)
        if len(found) > 2 * selection.last + _BATCH:
            counts.cut = True
            del found[: -selection.last]
    counts.cut |= len(found) > selection.last
    yield [decode(line) for line in found[-selection.last :]]


def stdin_batches() -> Iterator[list[bytes]]:
    """Yield the lines of stdin."""
    while batch := list(islice(sys.stdin.buffer, _BATCH)):
        yield [line for line in batch if not line.isspace()]


def _forward(
    batches: Iterator[list[bytes]], matches: Matches, selection: Selection, counts: Counts
) -> Iterator[list[Record]]:
    left = selection.first
    for lines in batches:
        kept = [record for _, record in _matching(iter([lines]), matches, counts)]
        if selection.first:
            kept = kept[:left]
            left -= len(kept)
        if kept:
            yield kept
        if selection.first and not left:
            return


def _matching(batches: Iterator[list[bytes]], matches: Matches, counts: Counts) -> Iterator[tuple[bytes, Record]]:
    for lines in batches:
        for line in lines:
            try:
                record = decode(line)
            except DecodeError:
                counts.unread += 1
                continue
            counts.records += 1
            if matches(record):
                counts.matching += 1
                yield line, record
