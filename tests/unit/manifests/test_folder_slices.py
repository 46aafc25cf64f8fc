"""Reading a large folder of manifests, at SIGHUP and by timer: the event loop stays responsive.

What a turn of the loop costs is counted in the CPU time of its own thread, which other programs don't change, or in
calls, with a clock that goes on by one step of the work.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from types import FrameType

import pytest

from nfagent.checkpoint.store import CheckpointStore
from nfagent.clock import SystemClock
from nfagent.controllers.event_applier import EventApplier
from nfagent.desired.state import DesiredState
from nfagent.manifests.folder_scan import read_files
from nfagent.manifests.folder_source import FolderSource
from nfagent.manifests.index import ManifestIndex
from nfagent.manifests.parser_process import LARGE
from nfagent.model.gvk import ObjectChange
from nfagent.time_slices import TimeSlices
from tests.support.work_counts import CountingLoop

FILES, POLICIES = 20, 100
LONGEST = 0.02
TRIES = 5
"""One within LONGEST is enough: what a virtual machine's host takes away counts as CPU time of the turn it hits."""
DEADLINE = 60.0


class Sink:
    """Applies changes as the agent does."""

    def __init__(self) -> None:
        self.desired = DesiredState("a")
        self._intake = EventApplier(self.desired, SystemClock(), lambda: None)

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:  # noqa: ARG002 - of the protocol
        await self._intake.apply(changes)

    def on_synced(self) -> None:
        self._intake.open()


def longest_turn(measured: Callable[[int], float]) -> float:
    """Return the longest turn of the best try, of as many as are needed; measured: is given the number of the try."""
    found = LONGEST
    for number in range(TRIES):
        found = measured(number)
        if found < LONGEST:
            break
    return found


class Turns:
    """CPU seconds of the longest turn of the loop, and the number of turns."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.count = 0

    async def count_them(self) -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest, self.count, before = max(self.longest, now - before), self.count + 1, now


@asynccontextmanager
async def counted() -> AsyncIterator[Turns]:
    turns = Turns()
    task = asyncio.create_task(turns.count_them())
    try:
        yield turns
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def policies(file: int, app: str) -> str:
    return "---\n".join(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{namespace: shop, name: p-{file}-{number}}}\n"
        f"spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Ingress]}}\n"
        for number in range(POLICIES)
    )


def write(folder: Path, app: str) -> None:
    for file in range(FILES):
        (folder / f"{file}.yaml").write_text(policies(file, app))


@pytest.fixture
def _no_collections() -> Iterator[None]:
    """No garbage collection, as in the agent: here it would traverse the objects of all earlier tests."""
    gc.disable()
    yield
    gc.enable()


Ask = Callable[[FolderSource, Path], Awaitable[None]]


async def start_it(source: FolderSource, _folder: Path) -> None:
    await source.start()


async def reload_it(source: FolderSource, _folder: Path) -> None:
    await source.reload()


async def scan_it(source: FolderSource, _folder: Path) -> None:
    """Follow: it begins with a full scan, the same as by timer."""
    before = set(source.status()["files"].values())
    followed = asyncio.create_task(source.run())
    try:
        async with asyncio.timeout(DEADLINE):
            while set(source.status()["files"].values()) & before:  # noqa: ASYNC110 - the source has no event for it
                await asyncio.sleep(0.001)
    finally:
        followed.cancel()
        await asyncio.gather(followed, return_exceptions=True)


@pytest.mark.usefixtures("_no_collections")
@pytest.mark.parametrize("ask", [start_it, reload_it, scan_it], ids=["the start", "a reload", "a look"])
def test_the_loop_is_not_blocked_by(ask: Ask, tmp_path: Path) -> None:
    async def body(folder: Path) -> float:
        manifests = folder / "manifests"
        manifests.mkdir(parents=True)
        write(manifests, "db")
        sink = Sink()
        source = FolderSource(manifests, sink, CheckpointStore(folder / "state", "a"))
        if ask is not start_it:
            await source.start()
            write(manifests, "web")
        async with counted() as turns:
            await ask(source, manifests)
        assert len(sink.desired.keys("NetworkPolicy")) == FILES * POLICIES
        assert turns.count > FILES
        return turns.longest

    longest = longest_turn(lambda number: asyncio.run(body(tmp_path / str(number))))
    assert longest < LONGEST, f"{longest * 1000:.0f} ms"


PODS = 8000


def pods(form: str, version: str) -> str:
    """Write a large file of Pods."""
    found = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "shop", "name": f"p-{number}", "labels": {"version": version}},
            "status": {"podIP": f"10.0.{number >> 8}.{number & 255}"},
        }
        for number in range(PODS)
    ]
    if form == "a list":
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
    return "".join(f"{json.dumps(one)}\n{'---' if form == 'documents of YAML' else ''}\n" for one in found)


@pytest.mark.usefixtures("_no_collections")
@pytest.mark.parametrize("form", ["documents of JSON", "documents of YAML", "a list"])
def test_the_loop_is_not_blocked_by_one_large_file(form: str, tmp_path: Path) -> None:
    async def body(folder: Path) -> float:
        manifests = folder / "manifests"
        manifests.mkdir(parents=True)
        file = manifests / ("f.yaml" if form == "documents of YAML" else "f.json")
        sink = Sink()
        source = FolderSource(manifests, sink, CheckpointStore(folder / "state", "a"))
        file.write_text(pods(form, "one"))
        await source.start()
        file.write_text(pods(form, "two"))
        assert file.stat().st_size > LARGE
        async with counted() as turns:
            await source.reload()
        assert len(sink.desired.cluster.pods) == PODS
        assert source.problems == ()
        assert turns.count > PODS // 1000
        return turns.longest

    longest = longest_turn(lambda number: asyncio.run(body(tmp_path / str(number))))
    assert longest < LONGEST, f"{longest * 1000:.0f} ms"


MANY, OTHER_MANY = 150, 300
MOST_CALLS = 1500
"""In one turn: four files, and what asyncio does; 150 files are 7,000 calls at least."""


class Taken:
    """Takes changes without work."""

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:  # noqa: ARG002 - of the protocol
        list(changes)

    def on_synced(self) -> None:
        """Nothing waits for it."""


def by_steps() -> TimeSlices:
    """Slices of four steps: the clock goes on by a millisecond each time that it is read."""
    reading = count()
    return TimeSlices(0.003, lambda: next(reading) / 1000)


def write_each(folder: Path, files: int, comment: str, app: str = "db") -> None:
    for file in range(files):
        (folder / f"{file}.yaml").write_text(f"# {comment}\n{policies(file, app).partition('---')[0]}")


@pytest.mark.parametrize("files", [MANY, OTHER_MANY])
@pytest.mark.parametrize(
    ("comment", "app"), [("one", "web"), ("two", "db")], ids=["objects that changed", "comments that changed"]
)
def test_the_calls_of_a_turn_do_not_grow_with_the_files_with(
    files: int, comment: str, app: str, tmp_path: Path
) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    loop = CountingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        source = FolderSource(manifests, Taken(), CheckpointStore(tmp_path / "state", "a"), by_steps())
        write_each(manifests, files, "one")
        runner.run(source.start())
        before = source.status()["files"]
        write_each(manifests, files, comment, app)
        runner.run(source.reload())
    assert not set(source.status()["files"].values()) & set(before.values())
    assert loop.most < MOST_CALLS


def test_all_names_are_collected_as_often_for_many_files_as_for_few(tmp_path: Path) -> None:
    def collected(files: int) -> int:
        folder, known, found = tmp_path / str(files), ManifestIndex(), 0
        folder.mkdir()
        write_each(folder, files, "one")
        list(known.apply_scan(read_files(folder, known)))
        write_each(folder, files, "two")

        def note(frame: FrameType, event: str, _value: object) -> None:
            nonlocal found
            found += event == "call" and frame.f_code.co_name == "names"

        sys.setprofile(note)
        try:
            scan = read_files(folder, known)
        finally:
            sys.setprofile(None)
        assert len(scan.readings) == files
        return found

    assert collected(20) == collected(10)


class Asking(Taken):
    """Notes which files the source says to have read, in each turn of the loop while changes come."""

    source: FolderSource

    def __init__(self) -> None:
        self.said: list[dict[str, str]] = []

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:
        self.said.append(self.source.status()["files"])
        await super().apply(changes, received)


def test_a_file_is_said_to_be_read_when_its_objects_were_passed_on_and_not_before(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    sink = Asking()

    async def body() -> None:
        sink.source = FolderSource(manifests, sink, CheckpointStore(tmp_path / "state", "a"), by_steps())
        write_each(manifests, 10, "one")
        await sink.source.start()
        before = sink.source.status()["files"]
        write_each(manifests, 10, "two", "web")
        await sink.source.reload()
        assert sink.said == [{}, before]
        assert not set(sink.source.status()["files"].values()) & set(before.values())

    asyncio.run(body())
