"""Wire format of a simulation request to the agent: one line of JSON with the request, then lines with 500 flows each.

The agent decodes a line when it evaluates its flows, so that no line blocks the event loop for long.
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

MAX_REQUEST_BYTES = 32 * 1024 * 1024
"""Size limit of an encoded request."""

_BATCH = 500
_MOST_LINES = 100_000
_Line: TypeAlias = tuple[str, str, str, int | None, bool, int, str, str]
_encoder = msgspec.json.Encoder()
_request = msgspec.json.Decoder(SimulationRequest)
_flows = msgspec.json.Decoder(list[_Line])
_T = TypeVar("_T")


def encode_request(request: SimulationRequest, flows: Iterable[ObservedFlow]) -> bytes:
    """Encode a request and the logged flows. Raises UsageError where they are too large."""
    lines = [_encoder.encode(request)]
    remaining = iter(flows)
    while batch := [_line(item) for item in islice(remaining, _BATCH)]:
        lines.append(_encoder.encode(batch))
    body = b"\n".join(lines)
    if len(body) > MAX_REQUEST_BYTES:
        raise request_too_large()
    return body


def decode_request(body: bytes | bytearray) -> tuple[SimulationRequest, Iterable[ObservedFlow]]:
    """Decode what `encode_request` wrote; the flows are decoded as they are iterated. Both raise UsageError."""
    if body.count(b"\n") > _MOST_LINES:
        raise request_too_large()
    first, *lines = body.split(b"\n")
    return _decoded(first, _request), _EncodedFlows(lines)


def request_too_large() -> UsageError:
    """Return the error for a request that is too large."""
    return UsageError(
        f"the log has more than {MAX_REQUEST_BYTES // 2**20} MiB of connections",
        hint="narrow them with --since or -n NS",
    )


class _EncodedFlows:
    """Flows that stay bytes until they are iterated."""

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
        raise UsageError(f"not a simulation request: {text!r} {error}") from None


def _decoded(line: bytes | bytearray, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"not a simulation request: {error}", hint="use the agent's version of `nfagent try`"
        ) from None
