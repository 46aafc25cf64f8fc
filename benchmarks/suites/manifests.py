"""Cost of one large manifest file: the time until it is applied, and the longest turn of the event loop meanwhile.

A turn is measured in CPU time of the loop's thread, so that other load of the machine doesn't count. What the thread
that reads files holds, by the interpreter lock, isn't in it: a task that is due every millisecond notes the CPU time of
the whole process until it runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import yaml

from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from benchmarks.suites.introspection import MeteredLoop
from nfagent.checkpoint.store import CheckpointStore
from nfagent.clock import SystemClock
from nfagent.controllers.event_applier import EventApplier
from nfagent.decode.ip_masq import LONGEST, decode_ip_masq
from nfagent.desired.state import DesiredState
from nfagent.errors import ObjectError
from nfagent.manifests.folder_source import FolderSource
from nfagent.model.gvk import ObjectChange
from nfagent.system.gc_tuning import relax_collection

_LONGEST_MS = 20
_NODES = 500
_BEAT_SECONDS = 0.001


class _Sink:
    """Applies changes as the agent does."""

    def __init__(self) -> None:
        self.desired = DesiredState("node-0")
        self._intake = EventApplier(self.desired, SystemClock(), lambda: None)

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:  # noqa: ARG002 - of the protocol
        await self._intake.apply(changes)

    def on_synced(self) -> None:
        self._intake.open()


@bench(
    "manifests",
    "one large file of manifests, and many: until applied, and the longest turn of the event loop meanwhile",
)
def manifests(run: Run) -> Iterator[Row]:
    """Read a file of each format twice: its objects are added, and then all of them change."""
    count = 5_000 if run.quick else 100_000
    relax_collection()
    for form, written in _FORMS.items():
        run.progress(form)
        seconds, turns = _read(written, count)
        yield Row(
            name=f"{count:,} Pods as {form}: the longest turn",
            unit="ms",
            values=[turn * 1e3 for turn in turns],
            targets=(at_most("max", _LONGEST_MS),),
            note=f"applied after {seconds[0]:.1f} s, its change after {seconds[1]:.1f} s",
        )
    run.progress("a file for each Pod")
    many, turns, waits, mebibytes = _read_many(count)
    yield Row(
        name=f"{count:,} files of a Pod each: the longest turn",
        unit="ms",
        values=[turn * 1e3 for turn in turns],
        targets=(at_most("max", _LONGEST_MS),),
        note=f"read after {many[0]:.1f} s, read again after {many[1]:.1f} s, and after all have changed "
        f"{many[2]:.1f} s; {mebibytes:.0f} MiB of memory more",
    )
    yield Row(
        name=f"{count:,} files of a Pod each: the longest wait of another task",
        unit="ms",
        values=[wait * 1e3 for wait in waits],
        targets=(at_most("max", _LONGEST_MS),),
        note="CPU time of the process; while CPUs are short, also that of threads that run instead",
    )
    yield Row(
        name="ip-masq-agent configurations that cost most",
        unit="ms",
        values=[_masquerade(text) * 1e3 for text in _CONFIGURATIONS.values()],
        targets=(at_most("max", _LONGEST_MS),),
        note="; ".join(_CONFIGURATIONS),
    )


def _read(written: Callable[[int, str], str], count: int) -> tuple[list[float], list[float]]:
    """Return the seconds until a file is applied, and the longest turns: at the start and after a change."""
    seconds, turns = [], []
    loop = MeteredLoop()
    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=lambda: loop) as runner:
        folder = Path(name, "manifests")
        folder.mkdir()
        source = FolderSource(folder, _Sink(), CheckpointStore(Path(name, "state"), "node-0"))
        for version, ask in (("1", source.start), ("2", source.reload)):
            (folder / "pods.yaml").write_text(written(count, version))
            loop.longest, began = 0.0, time.monotonic()
            runner.run(ask())
            seconds.append(time.monotonic() - began)
            turns.append(loop.longest)
    return seconds, turns


class _Beat:
    """A task that is due every millisecond; the longest wait is the CPU time of the process until it ran."""

    longest = 0.0

    async def during(self, work: Awaitable[None]) -> None:
        """Run beside some work until it ends."""
        beating = asyncio.create_task(self._run())
        try:
            await work
        finally:
            beating.cancel()

    async def _run(self) -> None:
        while True:
            before = time.process_time()
            await asyncio.sleep(_BEAT_SECONDS)
            self.longest = max(self.longest, time.process_time() - before)


def _read_many(count: int) -> tuple[list[float], list[float], list[float], float]:
    """Return the seconds until so many files are read, read again, and read after all have changed.

    The other values are the longest turns, the longest waits of another task, and the memory in MiB.
    """
    seconds, turns, waits = [], [], []
    loop = MeteredLoop()
    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=lambda: loop) as runner:
        folder = Path(name, "manifests")
        folder.mkdir()
        source = FolderSource(folder, _Sink(), CheckpointStore(Path(name, "state"), "node-0"))
        before, written = _resident(), ""
        for version, ask in (("1", source.start), ("1", source.reload), ("2", source.reload)):
            if version != written:
                _write_each(folder, count, version)
            written, beat = version, _Beat()
            loop.longest, began = 0.0, time.monotonic()
            runner.run(beat.during(ask()))
            seconds.append(time.monotonic() - began)
            turns.append(loop.longest)
            waits.append(beat.longest)
        return seconds, turns, waits, _resident() - before


def _write_each(folder: Path, count: int, version: str) -> None:
    for number in range(count):
        (folder / f"pod-{number}.json").write_text(json.dumps(_pod(number, version)))


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _pod(number: int, version: str) -> dict[str, object]:
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": f"p-{number}", "labels": {"app": f"a{number % 100}", "v": version}},
        "spec": {
            "nodeName": f"node-{number % _NODES}",
            "containers": [{"name": "main", "image": "shop/main:1", "ports": [{"name": "http", "containerPort": 80}]}],
        },
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }


def _json(count: int, version: str) -> str:
    return "".join(f"{json.dumps(_pod(number, version))}\n" for number in range(count))


def _yaml(count: int, version: str) -> str:
    dumped = yaml.dump(_pod(9_999_999, version), sort_keys=False)
    return "---\n".join(dumped.replace("9999999", str(number)) for number in range(count))


def _list(count: int, version: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [_pod(n, version) for n in range(count)]})


_FORMS = {"JSON documents": _json, "YAML documents": _yaml, "a List": _list}
_CONFIGURATIONS = {
    "900 CIDRs": "cidrLimit: 900\nnonMasqueradeCIDRs:\n" + "".join(f"- 2001:db8:{n:x}::/48\n" for n in range(900)),
    "64 KiB of a word": f"cidrLimit: 1{':30' * 21_000}",
    "900 kB": "nonMasqueradeCIDRs:\n" + "- 10.0.0.0/8\n" * 70_000,
    "unknown keys": "".join(f"nonMasqueradeCIDR{n}: x\n" for n in range(400)),
    "comments": "#\n" * (LONGEST // 2),
}


def _masquerade(text: str) -> float:
    document = {"metadata": {"namespace": "kube-system", "name": "ip-masq-agent"}, "data": {"config": text}}
    began = time.thread_time()
    with suppress(ObjectError):
        decode_ip_masq(document)
    return time.thread_time() - began
