"""New records of the running agent, over its socket, also over restarts of the agent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nfagent.cli.output import write_remark
from nfagent.errors import HostError, NfagentError
from nfagent.introspection.agent_client import NoAgentError, get_lines
from nfagent.model.plurals import counted

_RETRY_SECONDS = 0.5


class _Gap(msgspec.Struct, forbid_unknown_fields=True):
    lost_records: int


_gaps = msgspec.json.Decoder(_Gap)


def streamed_batches(path: Path) -> Iterator[list[bytes]]:
    """Yield lines of records endlessly; gaps are reported on stderr.

    path: the agent's socket

    Raises NoAgentError where no agent listens at the begin, UsageError and HostError for an agent that refuses.
    """
    yield from _until_it_ends(path)
    while True:
        write_remark("warning", "the agent stopped; waiting for the next one, whose records follow")
        yield from _next_stream(path)


def _next_stream(path: Path) -> Iterator[list[bytes]]:
    """Yield the lines of the next agent that listens, once it does. Raises UsageError for one that refuses."""
    while True:
        time.sleep(_RETRY_SECONDS)
        try:
            yield from _until_it_ends(path)
        except (NoAgentError, HostError):  # HostError: it stops, or starts
            continue
        return


def _until_it_ends(path: Path) -> Iterator[list[bytes]]:
    begun = False
    try:
        for line in get_lines(path, "/v1/records"):
            begun = True
            if line.isspace():
                continue  # shows that the agent is there
            lost = _lost_records(line)
            if lost:
                write_remark("warning", f"{counted(lost, 'record')} not shown: read too slowly")
            else:
                yield [line]
    except NfagentError:
        if not begun:
            raise  # else the agent was killed


def _lost_records(line: bytes) -> int:
    """Return how many records a gap in the stream has; 0 for a record."""
    try:
        return _gaps.decode(line).lost_records
    except msgspec.DecodeError:
        return 0
