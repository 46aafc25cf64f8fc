"""Records of the running agent, over its socket: those that it keeps, and new ones, also over its restarts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from nfagent.cli.output import write_remark
from nfagent.errors import HostError, NfagentError
from nfagent.introspection.agent_client import FILTERED, NoAgentError, get_lines
from nfagent.model.plurals import counted

_RETRY_SECONDS = 0.5


class _Gap(msgspec.Struct, forbid_unknown_fields=True):
    lost_records: int


_UNKNOWN = b'{"unknown_pods":'
_gaps = msgspec.json.Decoder(_Gap)


class _Unknown(msgspec.Struct, forbid_unknown_fields=True):
    unknown_pods: list[str]


_unknowns = msgspec.json.Decoder(_Unknown)


def kept_batches(path: Path, asked: Mapping[str, str], unknown: dict[str, None]) -> Iterator[list[bytes]]:
    """Yield the lines of the latest records that the agent keeps; Pods whose labels aren't known go to `unknown`.

    path:  the agent's socket
    asked: `filter` and `last` of `GET /v1/records`

    Raises what `streamed_batches` raises.
    """
    for line in get_lines(path, "/v1/records", {**asked, "follow": "no"}, FILTERED):
        if line.startswith(_UNKNOWN):
            unknown.update(dict.fromkeys(_unknowns.decode(line).unknown_pods))
        else:
            yield [line]


def streamed_batches(path: Path, asked: Mapping[str, str]) -> Iterator[list[bytes]]:
    """Yield lines of records endlessly; gaps are reported on stderr.

    path:  the agent's socket
    asked: `filter` and `last` of `GET /v1/records`

    Raises NoAgentError where no agent listens at the begin, UsageError and HostError for an agent that refuses.
    """
    yield from _until_it_ends(path, asked)
    while True:
        write_remark("warning", "the agent stopped; waiting for the next one, whose records follow")
        # With those from its start on, before this command found it.
        yield from _next_stream(path, {**asked, "last": "all"})


def _next_stream(path: Path, asked: Mapping[str, str]) -> Iterator[list[bytes]]:
    """Yield the lines of the next agent that listens, once it does. Raises UsageError for one that refuses."""
    while True:
        time.sleep(_RETRY_SECONDS)
        try:
            yield from _until_it_ends(path, asked)
        except (NoAgentError, HostError):  # HostError: it stops, or starts
            continue
        return


def _until_it_ends(path: Path, asked: Mapping[str, str]) -> Iterator[list[bytes]]:
    begun = False
    try:
        for line in get_lines(path, "/v1/records", asked, FILTERED):
            begun = True
            if line.isspace() or line.startswith(_UNKNOWN):
                continue  # shows that the agent is there; that Pods are gone is no news where records are followed
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
