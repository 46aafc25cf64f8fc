"""The question of a trial as it goes to the agent: a line of JSON with what is asked, then lines with some flows each.

The agent reads the lines one by one, when it comes to them: it holds the event loop for none of them long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias, TypeVar

import msgspec

from nfagent.errors import UsageError
from nfagent.model.netaddr import AddressError, canonical
from nfagent.policy.evaluator import Flow
from nfagent.simulate.job import SimulationRequest
from nfagent.simulate.simulation import ObservedFlow

MOST_BYTES = 32 * 1024 * 1024
"""Of a whole question."""

_BATCH = 500
_MOST_LINES = 100_000
_Line: TypeAlias = tuple[str, str, str, int | None, bool, int, str, str]
_encoder = msgspec.json.Encoder()
_asked = msgspec.json.Decoder(SimulationRequest)
_flows = msgspec.json.Decoder(list[_Line])
_T = TypeVar("_T")


def question(asked: SimulationRequest, seen: Iterable[ObservedFlow]) -> bytes:
    """Write a question. Raises UsageError where it is too long."""
    lines = [_encoder.encode(asked)]
    flows = iter(seen)
    while batch := [_line(item) for item in islice(flows, _BATCH)]:
        lines.append(_encoder.encode(batch))
    body = b"\n".join(lines)
    if len(body) > MOST_BYTES:
        raise too_long()
    return body


def read_question(body: bytes | bytearray) -> tuple[SimulationRequest, Iterable[ObservedFlow]]:
    """Read what `question` wrote; the flows when they are gone through. Both raise UsageError."""
    if body.count(b"\n") > _MOST_LINES:
        raise too_long()
    first, *lines = body.split(b"\n")
    return _decoded(first, _asked), _Sent(lines)


def too_long() -> UsageError:
    """Make the error for a question that is too long."""
    return UsageError(f"the log has more connections than {MOST_BYTES // 2**20} MiB; take fewer with --since or -n NS")


class _Sent:
    """The flows of a question, which stay bytes until they are looked at."""

    def __init__(self, lines: Sequence[bytes | bytearray]) -> None:
        self._lines = lines

    def __iter__(self) -> Iterator[ObservedFlow]:
        for line in self._lines:
            for here, there, protocol, port, translated, count, source, destination in _decoded(line, _flows):
                flow = Flow(_address(here), _address(there), protocol, port, translated)
                yield ObservedFlow(flow, count, source, destination)


def _line(seen: ObservedFlow) -> _Line:
    flow = seen.flow
    ends = flow.source, flow.destination
    return (*ends, flow.protocol, flow.port, flow.translated, seen.count, seen.source, seen.destination)


def _address(text: str) -> str:
    try:
        return canonical(text)
    except AddressError as error:
        raise UsageError(f"that is no trial: {text!r} {error}") from None


def _decoded(line: bytes | bytearray, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"that is no trial: {error}; ask with the `nfagent try` of the agent's own version") from None
