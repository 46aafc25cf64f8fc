"""Saves the ruleset of a synthetic cluster, and restores it in a network namespace of its own, each time it is asked.

    python -m benchmarks.suites.boot_child PODS SEED FOLDER

It answers {"do": "save"} by SaveCosts, {"do": "restore"} by RestoreCosts.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

import msgspec

from benchmarks.harness.child_process import say
from benchmarks.harness.process_usage import peak_rss_mib
from nfagent.checkpoint.ruleset_codec import SavedHeader, encode_batches, encode_saved
from nfagent.checkpoint.ruleset_file import ruleset_path, write_saved
from nfagent.controllers.ruleset_saver import yield_to_others
from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError
from nfagent.lab.objects.synthetic import NODE, SIZES, Size, synthetic
from nfagent.model.objects import Pod
from nfagent.nftables.objects import Ruleset

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SIZES = {**SIZES, 5_000: Size(5_000, 1_000, 110, 40)}
_CHANGED_PODS = 300
_TURN_SECONDS = 0.001
_POLL_SECONDS = 0.002


class SaveCosts(msgspec.Struct, frozen=True):
    """The costs of one save. Seconds; bytes.

    turn:    CPU of the snapshot, which holds the event loop
    longest: the longest turn of an event loop beside the thread that encodes and writes
    alone:   the longest turn of one that runs for as long alone
    cpu:     of that thread
    """

    turn: float
    longest: float
    alone: float
    cpu: float
    size: int
    elements: int


class RestoreCosts(msgspec.Struct, frozen=True):
    """The costs of `nfagent restore`, interpreter included. Seconds; rss: its peak in MiB."""

    seconds: float
    cpu: float
    rss: float


class _Node:
    """The node, and the folder of its saved ruleset."""

    def __init__(self, pods: int, seed: int, folder: Path) -> None:
        self._folder = folder
        self._desired = DesiredState(NODE)
        self._random = random.Random(seed)  # noqa: S311 - reproducible
        items = list(synthetic(_SIZES[pods], seed).items())
        for item in items:
            self._desired.put(item)
        self._desired.ruleset()
        self._desired.mark_synced()
        self._others = [item for item in items if isinstance(item, Pod) and item.node != NODE]

    def save(self) -> SaveCosts:
        """Change some Pods, then save as the agent does."""
        for pod in self._random.sample(self._others, _CHANGED_PODS):
            self._desired.remove(pod.ref)
            self._desired.put(pod)
        self._desired.drain_changes()
        began = time.thread_time()
        ruleset = self._desired.ruleset()
        turn = time.thread_time() - began
        began = time.perf_counter()
        longest, cpu, size = asyncio.run(self._encoded(ruleset))
        alone = asyncio.run(_longest_turn(asyncio.sleep(time.perf_counter() - began)))
        return SaveCosts(turn, longest, alone, cpu, size, sum(len(item.elements) for item in ruleset.sets.values()))

    async def _encoded(self, ruleset: Ruleset) -> tuple[float, float, int]:
        """Save in a thread; return the longest turn of this loop, the thread's CPU, and the bytes of the file."""
        saving = asyncio.get_running_loop().run_in_executor(None, self._write, ruleset)
        longest = await _longest_turn(saving)
        cpu, size = await saving
        return longest, cpu, size

    def _write(self, ruleset: Ruleset) -> tuple[float, int]:
        began = time.thread_time()
        batches, content = encode_batches(ruleset, yield_to_others)
        header = SavedHeader(
            version="", node=NODE, boot_id="", written_at=0.0, pod_ranges=(), holds_unknown=False, content=content
        )
        saved = encode_saved(header, batches)
        write_saved(ruleset_path(str(self._folder)), saved)
        return time.thread_time() - began, len(saved)

    def restore(self) -> RestoreCosts:
        """Restore in a new network namespace. Raises KernelError."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NFAGENT_")},
            "NFAGENT_STATE_DIR": str(self._folder),
            "NFAGENT_RUNTIME_DIR": str(self._folder / "run"),
        }
        command = [sys.executable, "-m", "nfagent", "restore", "--node", NODE]
        peak, began = 0.0, time.perf_counter()
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, preexec_fn=_own_namespace) as child:  # noqa: PLW1509, S603 - no other thread
            while not (waited := os.wait4(child.pid, os.WNOHANG))[0]:
                # The last value before its end: wait4's own includes the process that it was forked from.
                with suppress(OSError):
                    peak = peak_rss_mib(child.pid) or peak
                time.sleep(_POLL_SECONDS)
            _, status, usage = waited
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise KernelError(f"nfagent restore ended with {child.returncode}")
        seconds = time.perf_counter() - began
        return RestoreCosts(seconds, usage.ru_utime + usage.ru_stime, peak)


async def _longest_turn(until: Awaitable[object]) -> float:
    """Return the longest turn of this event loop until something is done."""
    done = asyncio.ensure_future(until)
    longest, last = 0.0, time.perf_counter()
    while not done.done():
        await asyncio.sleep(_TURN_SECONDS)
        now = time.perf_counter()
        longest, last = max(longest, now - last - _TURN_SECONDS), now
    return longest


def _own_namespace() -> None:
    if ctypes.CDLL(None).unshare(_CLONE_NEWNET):
        raise KernelError("no network namespace of its own: run it as root")


def _main(pods: int, seed: int, folder: Path) -> None:
    node = _Node(pods, seed, folder)
    gc.collect()
    gc.freeze()
    for line in sys.stdin.buffer:
        say(node.save() if msgspec.json.decode(line)["do"] == "save" else node.restore())


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
