"""Counts of a run."""

from __future__ import annotations

import msgspec


class Counts(msgspec.Struct):
    """Counts of one run.

    cases, steps:       run through the oracles, with the lab or without
    packet_cases:       with the lab
    first, established: questions to the evaluator and the rules, about first packets and established connections
    probes, long_lived: the same questions by packets
    link_scope:         questions by packets: whether a denied flow passes to an address of the link
    tables:             comparisons of a node's table by text with the one by bytes, in table_cases
    again:              questions whose answer differed at first, and were repeated
    """

    cases: int = 0
    steps: int = 0
    packet_cases: int = 0
    first: int = 0
    established: int = 0
    probes: int = 0
    long_lived: int = 0
    link_scope: int = 0
    tables: int = 0
    table_cases: int = 0
    again: int = 0
