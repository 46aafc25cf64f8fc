"""A boot: which forbidden packets reach Pods for each choice, and what saving and restoring a ruleset costs.

    python -m benchmarks --only boot

The boots are those of `benchmarks.harness.boot_lab`. The costs are those of a child process (`boot_child`).
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from benchmarks.harness.boot_lab import CLOSED, HELD, NEW, OPEN, Boot, boot_lab
from benchmarks.harness.child_process import ChildProcess
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from benchmarks.suites.boot_child import RestoreCosts, SaveCosts

_CHILD = "benchmarks.suites.boot_child"
_ROUNDS, _QUICK_ROUNDS = 5, 2
_SIZES, _QUICK_SIZES = (5_000, 150_000), (1_000,)
_AFTER = 200
"""Packets that are sent between two events."""


class _Choice(msgspec.Struct, frozen=True):
    """What an operator chooses. aim: forbidden packets that may arrive in all; None without a limit."""

    name: str
    early: bool
    settings: Mapping[str, str]
    aim: float | None = None


_CHOICES = (
    _Choice("no early unit", early=False, settings={}),
    _Choice("early unit", early=True, settings={}),
    _Choice("early unit, unknown Pods held", early=True, settings=HELD, aim=0),
)


class _Boot(msgspec.Struct, frozen=True):
    """Packets that arrived at the closed Pod and at the new one, and ms from the network to the open Pod's first."""

    closed: int
    new: int
    opened: float


@bench("boot", "a node that boots: forbidden packets by choice; time, CPU and memory to save and restore its ruleset")
def boot(run: Run) -> Iterator[Row]:
    """Boot a node some times for each choice; then save and restore rulesets."""
    rounds = _QUICK_ROUNDS if run.quick else _ROUNDS
    with tempfile.TemporaryDirectory(prefix="nfagent-boot-") as folder, boot_lab(Path(folder)) as lab:
        found: dict[str, list[_Boot]] = {choice.name: [] for choice in _CHOICES}
        for _ in range(rounds):
            for choice in _CHOICES:
                run.progress(choice.name)
                with Boot(*lab, choice.settings) as booting:
                    found[choice.name].append(_measured(booting, early=choice.early))
    for choice in _CHOICES:
        boots = found[choice.name]
        targets = () if choice.aim is None else (at_most("max", choice.aim),)
        note = "1 ms apart, from the network's start until the Pod is known to the agent"
        for words, values in (
            ("of a Pod from before the boot", [each.closed for each in boots]),
            ("of a Pod with a new address", [each.new for each in boots]),
        ):
            name = f"forbidden packets that arrive, {choice.name}: at the address {words}"
            yield Row(name=name, unit="packets", values=values, targets=targets, note=note)
        name = f"first packet of a Pod that may receive, {choice.name}"
        yield Row(name=name, unit="ms", values=[each.opened for each in boots], note="after the network's start")
    for size in _QUICK_SIZES if run.quick else _SIZES:
        yield from _costs(run, size, rounds)


def _measured(booting: Boot, *, early: bool) -> _Boot:
    if early:
        booting.early_unit()
    began = booting.network(_AFTER)
    booting.agent.start()
    booting.packets(_AFTER)
    booting.new_pod_is_known()
    booting.packets(_AFTER)
    first = min(booting.arrivals(OPEN), default=time.monotonic())
    return _Boot(booting.arrived(CLOSED), booting.arrived(NEW), (first - began) * 1e3)


def _costs(run: Run, size: int, rounds: int) -> Iterator[Row]:
    words = f"{size:,} Pods"
    run.progress(words)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-boot-"))
        child = stack.enter_context(ChildProcess(_CHILD, str(size), str(run.seed), folder))
        saves = [child.request(SaveCosts, "save") for _ in range(rounds)]
        restores = [child.request(RestoreCosts, "restore") for _ in range(rounds)]
    about = f"{saves[0].elements:,} elements, file of {saves[0].size:,} bytes"
    yield Row(
        name=f"save, {words}: CPU of the snapshot, on the event loop",
        unit="ms",
        values=[each.turn * 1e3 for each in saves],
        targets=(at_most("max", 20),),
        note="the snapshot, after 300 Pods went and came",
    )
    yield Row(
        name=f"save, {words}: longest turn while the thread encodes",
        unit="ms",
        values=[each.longest * 1e3 for each in saves],
        reference=[each.alone * 1e3 for each in saves],
        reference_name="without it",
        paired=True,
        targets=(at_most("p50", 20),),
        note=about,
    )
    yield Row(name=f"save, {words}: CPU", unit="ms", values=[each.cpu * 1e3 for each in saves], note=about)
    yield Row(
        name=f"restore, {words}: time of the command",
        unit="ms",
        values=[each.seconds * 1e3 for each in restores],
        rss_mib=max(each.rss for each in restores),
        note=about,
    )
    yield Row(name=f"restore, {words}: CPU", unit="ms", values=[each.cpu * 1e3 for each in restores], note=about)
