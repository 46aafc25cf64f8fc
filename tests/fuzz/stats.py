"""What a run has done so far."""

from __future__ import annotations

import msgspec


class Tally(msgspec.Struct):
    """Counts, of one run.

    cases, steps:       put to the judges; those that were put to the lab too are among them
    packet_cases:       these alone
    first, established: questions that evaluate and the rules have answered, about first packets and living connections
    probes, standing:   questions that packets have answered, as above
    link_scope:         of packets alone: whether somebody who is denied can be reached by an address of the link
    again:              those of them whose answer differed at first, and were asked once more
    """

    cases: int = 0
    steps: int = 0
    packet_cases: int = 0
    first: int = 0
    established: int = 0
    probes: int = 0
    standing: int = 0
    link_scope: int = 0
    again: int = 0
