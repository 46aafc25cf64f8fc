"""Short connections through equal labs, in turns: what one difference of their rules costs a connection.

The labs are measured in another order each round, and compared round by round. A second lab like the reference shows
by how much two equal labs differ.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack

import msgspec

from benchmarks.harness.packet_labs import FAR, NEAR, PacketLab, Server
from benchmarks.registry import Run
from benchmarks.results import Row, at_least
from nfagent.lab.latency.traffic_rates import Client, Traffic

_ROUNDS, _QUICK_ROUNDS = 300, 40
_SECONDS = 0.012


class Compared(msgspec.Struct, frozen=True):
    """The names of three labs.

    judged:    has the difference; at least `least` of the connections of the reference are wanted
    reference: has it not, and neither has `second`
    """

    judged: str
    reference: str
    second: str
    least: float

    @property
    def labs(self) -> tuple[str, str, str]:
        """The names of all three."""
        return self.judged, self.reference, self.second


def compare(run: Run, stack: ExitStack, labs: Iterable[PacketLab], compared: Compared) -> Iterator[Row]:
    """Measure the labs on one node and between two; yield the rows. `stack` ends the clients."""
    traffic = stack.enter_context(Traffic())
    run.progress("labs")
    made = list(labs)
    for server in (NEAR, FAR):
        clients = {lab.name: lab.client(stack, traffic, server) for lab in made}
        yield from _rows(_measured(run, clients, compared), server, compared)


def _measured(run: Run, clients: Mapping[str, Client], compared: Compared) -> dict[str, list[float]]:
    order = random.Random(run.seed)  # noqa: S311 - an order of measurements
    found: dict[str, list[float]] = {name: [] for name in clients}
    rounds = _QUICK_ROUNDS if run.quick else _ROUNDS
    for turn in range(rounds + 1):
        run.progress(f"round {turn} of {rounds}")
        for name in order.sample(compared.labs, len(compared.labs)):
            value = clients[name].connections(_SECONDS)
            # The first round warms up.
            if turn:
                found[name].append(value)
    return found


def _rows(found: Mapping[str, list[float]], server: Server, compared: Compared) -> Iterator[Row]:
    for name in (compared.second, compared.judged):
        yield Row(
            name=f"connections, {'one node' if server == NEAR else 'two nodes'}: {name}",
            unit="1/CPU s",
            values=found[name],
            reference=found[compared.reference],
            reference_name=compared.reference,
            paired=True,
            better="higher",
            targets=(at_least("ratio", compared.least),) if name == compared.judged else (),
        )
