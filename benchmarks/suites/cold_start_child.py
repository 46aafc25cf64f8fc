"""Loads a node's whole ruleset again and again, in a fresh process and network namespace each time.

    python -m benchmarks.suites.cold_start_child pods 150000 SEED
    python -m benchmarks.suites.cold_start_child chains 4000 SEED

The ruleset is computed once; each measurement is a fork of this process, so that its peak of memory is its own. With
`hold` the fork ends only at a further byte: a traced process may hang when it ends. Only what this version of nfagent
has in common with earlier ones is used here: the suite runs this module with both.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib.util
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

import msgspec
import nftables

from benchmarks.data.node_tables import node_table
from benchmarks.harness.child_process import say
from benchmarks.harness.fork import in_fork
from benchmarks.harness.process_usage import peak_rss_mib, rss_mib
from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError
from nfagent.kernel.nft_client import NftClient
from nfagent.lab.objects.synthetic import NODE, SIZES, synthetic
from nfagent.model.gvk import Item
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.nftables.transaction import Transaction, transaction_text
from nfagent.system.gc_tuning import malloc_trim

_CLONE_NEWNET = 0x40000000  # linux/sched.h

Way: TypeAlias = Literal["agent", "libnftables", "text", "encoder"]
"""agent: as this version's agent commits it; libnftables: as one text; text, encoder: without sending it."""


class Table(msgspec.Struct, frozen=True):
    """Numbers of objects of the ruleset, and whether this version has an encoder of whole transactions."""

    commands: int
    chains: int
    sets: int
    rules: int
    elements: int
    has_encoder: bool


class LoadCosts(msgspec.Struct, frozen=True):
    """The costs of one load. Seconds; memory in MiB.

    memory: peak of resident memory, less what the process had before
    size:   bytes of the text or of the batch; 0 where they are not at hand
    """

    seconds: float
    user: float
    system: float
    memory: float
    size: int


def _encoding(transaction: Transaction) -> Callable[[], int]:
    from nfagent.netlink.nft_batch import encode_batch  # noqa: PLC0415 - earlier versions have no such module

    return lambda: len(encode_batch(transaction, 1).data)


def _work(way: Way, transaction: Transaction) -> Callable[[], int]:
    """Return the function that is measured, which returns the size; what an agent has open before it loads is open."""
    match way:
        case "text":
            return lambda: len(transaction_text(transaction))
        case "encoder":
            return _encoding(transaction)
        case "libnftables":
            context = nftables.Nftables()
            return lambda: _by_libnftables(context, transaction)
        case "agent":
            return _agent_load(transaction)


def _agent_load(transaction: Transaction) -> Callable[[], int]:
    kernel = NftClient()

    async def load() -> None:
        await kernel.apply(transaction)

    def load_and_close() -> int:
        asyncio.run(load())
        kernel.close()
        return 0

    return load_and_close


def _by_libnftables(context: nftables.Nftables, transaction: Transaction) -> int:
    text = transaction_text(transaction)
    status, _output, error = context.cmd(text)
    if status:
        raise KernelError(error)
    return len(text)


def _measured(way: Way, transaction: Transaction) -> LoadCosts:
    """Measure, in a process that does nothing else."""
    if ctypes.CDLL(None).unshare(_CLONE_NEWNET):
        raise KernelError("no network namespace of its own: run it as root")
    work = _work(way, transaction)
    gc.disable()
    malloc_trim()
    resident, before, began = rss_mib(), resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    size = work()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return LoadCosts(
        seconds,
        after.ru_utime - before.ru_utime,
        after.ru_stime - before.ru_stime,
        max(0.0, peak_rss_mib() - resident),
        size,
    )


def _say_from_fork(way: Way, transaction: Transaction, *, hold: bool) -> None:
    def work() -> None:
        say(_measured(way, transaction))
        if hold:
            os.read(0, 1)

    in_fork(work, f"the ruleset could not be loaded: {way}")


def _ruleset(items: Iterable[Item]) -> Ruleset:
    desired = DesiredState(NODE)
    for item in items:
        desired.put(item)
    return desired.ruleset()


def _main(kind: str, size: int, seed: int) -> None:
    ruleset = _ruleset(node_table(size).items if kind == "chains" else synthetic(SIZES[size], seed).items())
    transaction = diff(ABSENT, ruleset)
    gc.collect()
    gc.freeze()
    say(
        Table(
            commands=len(transaction),
            chains=len(ruleset.chains),
            sets=len(ruleset.sets),
            rules=sum(len(chain.rules) for chain in ruleset.chains.values()),
            elements=sum(len(shape.elements) for shape in ruleset.sets.values()),
            has_encoder=importlib.util.find_spec("nfagent.netlink.nft_batch") is not None,
        )
    )
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line)
        _say_from_fork(request["way"], transaction, hold=request["hold"])


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
