"""The checkpoint on disk: what the next run knows, and failures of the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import stat
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from nfagent.checkpoint.codec import CheckpointHeader, encode_header
from nfagent.checkpoint.journal import Journal
from nfagent.checkpoint.store import CheckpointStore, delete_checkpoints
from nfagent.errors import HostError
from nfagent.model.admin_policy import TierPolicy
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import PodPeer
from nfagent.model.objects import UNREADABLE, Namespace, Node, ObjectRef, Pod
from nfagent.model.selectors import Selector

DEADLINE = 60.0
SOURCE = "manifests /m"
SHOP, OPS = Namespace("shop", ()), Namespace("ops", (("a", "b"),))
HERE, THERE = Pod("shop", "web", node="a"), Pod("shop", "db", node="b")


def take(store: CheckpointStore, *changes: Item | ObjectRef, file: str = "") -> None:
    assert tuple(store.record(changes, lambda _: file)) == changes


@asynccontextmanager
async def running(folder: Path, node: str = "a", source: str = SOURCE) -> AsyncIterator[CheckpointStore]:
    store = CheckpointStore(folder, node)
    await store.open(source)
    async with writing(store):
        yield store


@asynccontextmanager
async def writing(store: CheckpointStore) -> AsyncIterator[None]:
    task = asyncio.create_task(store.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def remember(folder: Path, *changes: Item | ObjectRef, node: str = "a", source: str = SOURCE) -> None:
    """Run a store that records these changes, and closes."""
    async with running(folder, node, source) as store:
        take(store, *changes)
        store.mark_synced()


async def recalled(folder: Path, refs: Iterable[ObjectRef] = (SHOP.ref, OPS.ref, HERE.ref, THERE.ref)) -> list[Item]:
    """Return the last good versions of the next run."""
    async with running(folder) as store:
        # It ends before it has read anything: that forgets nothing.
        return [item for ref in refs if (item := store.of_object(ref)) is not None]


def only_file(folder: Path) -> Path:
    [path] = folder.glob("last-good-*")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what a thread does to a file is no event
            await asyncio.sleep(0.01)


async def until_written(store: CheckpointStore) -> None:
    await until(lambda: not store.status()["pending"] and not store.status()["problem"])


def test_the_next_run_knows_what_was_in_force(tmp_path: Path) -> None:
    async def body() -> None:
        await remember(tmp_path, SHOP, OPS, HERE, THERE)
        assert await recalled(tmp_path) == [SHOP, OPS, HERE]
        assert await recalled(tmp_path) == [SHOP, OPS, HERE]
        await remember(tmp_path, SHOP, OPS, HERE, OPS.ref)
        assert await recalled(tmp_path) == [SHOP, HERE]
        await remember(tmp_path, OPS)
        assert await recalled(tmp_path) == [OPS], "what wasn't among all that was read is gone"
        await remember(tmp_path, OPS, HERE)
        await remember(tmp_path, OPS, HERE, Pod("shop", "web", node="b"))
        assert await recalled(tmp_path) == [OPS], "a Pod's name moved to another node"

    asyncio.run(body())


def test_an_invalid_field_keeps_its_last_good_value_after_a_restart(tmp_path: Path) -> None:
    async def body() -> None:
        good = Node("a", (("role", "cp"),), addresses=("192.0.2.1",))
        await remember(tmp_path, good)
        damaged = Node("a", (("role", UNREADABLE),), unread=("labels", "addresses"))
        async with running(tmp_path) as store:
            [item] = store.record([damaged])
            store.mark_synced()
        assert isinstance(item, Node)
        assert (item.labels, item.addresses) == (good.labels, good.addresses)
        assert await recalled(tmp_path, [good.ref]) == [item], "and so after one more restart"

    asyncio.run(body())


def test_an_invalid_subject_keeps_its_last_good_value_after_a_restart(tmp_path: Path) -> None:
    pods = PodPeer(Selector(), namespaces=Selector())
    before = TierPolicy(kind="AdminNetworkPolicy", name="guard", tier="admin", priority=1, subject=pods)
    asyncio.run(remember(tmp_path, before))

    async def start() -> Item | ObjectRef:
        async with running(tmp_path) as store:
            [given] = store.record([msgspec.structs.replace(before, subject=None)])
            return given

    assert asyncio.run(start()) == before


def test_of_manifests_it_knows_the_file(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path) as store:
            take(store, SHOP, file="f.yaml")
            take(store, OPS, HERE, file="g.yaml")
            take(store, SHOP, file="h.yaml")
            store.mark_synced()
        async with running(tmp_path) as store:
            assert store.of_files() == {"h.yaml": {SHOP.ref: SHOP}, "g.yaml": {OPS.ref: OPS, HERE.ref: HERE}}
            assert (store.knows("Namespace"), store.knows("NetworkPolicy")) == (True, False)
            take(store, SHOP, file="h.yaml")
            store.mark_synced()
            assert (store.of_object(SHOP.ref), store.of_files(), store.knows("Namespace")) == (None, {}, False)

    asyncio.run(body())


def test_written_changes_survive_a_kill_of_the_agent(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path) as store:
            take(store, SHOP, OPS)
            store.mark_synced()
            await until_written(store)
            content = only_file(tmp_path).read_bytes()
        folder = tmp_path / "copy"
        folder.mkdir(mode=0o700)
        (folder / only_file(tmp_path).name).write_bytes(content)
        assert await recalled(folder) == [SHOP, OPS]
        (folder / only_file(tmp_path).name).write_bytes(content[:-10])
        assert await recalled(folder) == [SHOP], "cut short in the last line"

    asyncio.run(body())


def test_an_agent_that_ends_before_its_first_sync_keeps_the_checkpoint(tmp_path: Path) -> None:
    async def body() -> None:
        await remember(tmp_path, SHOP, OPS)
        async with running(tmp_path) as store:
            take(store, HERE, SHOP)
        assert await recalled(tmp_path) == [SHOP, OPS]

    asyncio.run(body())


def test_a_damaged_entry_affects_no_other_and_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        await remember(tmp_path, SHOP, OPS, HERE)
        path = only_file(tmp_path)
        path.write_bytes(path.read_bytes().replace(b'"ops"', b'"oops"', 1))
        async with running(tmp_path) as store:
            assert store.status()["problem"] == "1 of 3 entries can't be decoded; the others stay in force"
            assert [store.of_object(ref) for ref in (SHOP.ref, OPS.ref, HERE.ref)] == [SHOP, None, HERE]
            take(store, SHOP, HERE)
            store.mark_synced()
            await until_written(store)
            assert store.status()["damaged"] == 1
            assert store.status()["problem"] == ""
            assert store.status()["lost"] == "1 of 3 entries can't be decoded; the others stay in force"
        assert ":3: line is damaged" in caplog.text
        assert await recalled(tmp_path) == [SHOP, HERE]

    asyncio.run(body())


@pytest.mark.parametrize("content", [b"\0" * 4096, b"SQLite format 3\n", b"\n", b"00000000 {}\n"])
def test_an_invalid_file_is_set_aside_and_logged(tmp_path: Path, content: bytes) -> None:
    async def body() -> None:
        await remember(tmp_path, SHOP)
        path = only_file(tmp_path)
        path.write_bytes(content)
        async with running(tmp_path) as store:
            assert "the file is not used" in store.status()["problem"]
            take(store, OPS)
            store.mark_synced()
            await until_written(store)
        assert path.with_name(f"{path.name}.unreadable").read_bytes() == content
        assert await recalled(tmp_path) == [OPS]

    asyncio.run(body())


def test_a_file_of_a_newer_format_is_kept_aside_and_the_log_names_both_formats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        await remember(tmp_path, SHOP)
        path = only_file(tmp_path)
        _, *lines = path.read_bytes().splitlines(keepends=True)
        newer = encode_header(CheckpointHeader("a", SOURCE, 2)) + b"".join(lines)
        path.write_bytes(newer)
        async with running(tmp_path) as store:
            assert store.of_object(SHOP.ref) is None
            assert "it has format 2, and this version of nfagent reads format 1" in store.status()["problem"]
            take(store, OPS)
            store.mark_synced()
            await until_written(store)
            assert "format 2" in store.status()["lost"], "it stays said after the file is written again"
        assert "it has format 2" in caplog.text
        assert path.with_name(f"{path.name}.unreadable").read_bytes() == newer
        assert await recalled(tmp_path) == [OPS]

    asyncio.run(body())


def test_an_object_with_a_field_of_a_newer_version_is_said_and_affects_no_other(tmp_path: Path) -> None:
    async def body() -> None:
        await remember(tmp_path, SHOP, OPS)
        path = only_file(tmp_path)
        header, first, second = path.read_bytes().splitlines(keepends=True)
        document = msgspec.json.decode(second[9:])
        document["item"]["quarantined"] = True
        changed = msgspec.json.encode(document)
        path.write_bytes(header + first + b"%08x %s\n" % (zlib.crc32(changed), changed))
        async with running(tmp_path) as store:
            assert store.status()["problem"] == "1 of 2 entries can't be decoded; the others stay in force"
            assert [store.of_object(ref) for ref in (SHOP.ref, OPS.ref)] == [SHOP, None]

    asyncio.run(body())


def test_another_node_and_another_source_have_files_of_their_own(tmp_path: Path) -> None:
    async def body() -> None:
        await remember(tmp_path, SHOP)
        await remember(tmp_path, OPS, node="b")
        await remember(tmp_path, HERE, source="API server https://192.0.2.1")
        assert await recalled(tmp_path) == [SHOP], "also after a start with a wrong name"
        for number in range(20):
            await remember(tmp_path, OPS, node=f"n{number}")
        assert len(names(tmp_path)) <= 9

    asyncio.run(body())


def test_the_folder_is_accessible_by_root_only(tmp_path: Path) -> None:
    async def body() -> None:
        folder = tmp_path / "lib" / "nfagent"
        await remember(folder, SHOP)
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, only_file(folder))]
        assert modes == [0o700, 0o600]

    asyncio.run(body())


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    async def body() -> None:
        async with running(tmp_path) as store:
            assert "is writable by other users; set its owner to root and its mode to 0700" in store.status()["problem"]
            take(store, SHOP)
        assert names(tmp_path) == []

    asyncio.run(body())


def test_two_agents_do_not_share_a_folder(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path), running(tmp_path, node="b") as second:
            assert "in use by another agent; set another state_dir for each agent" in second.status()["problem"]

    asyncio.run(body())


def test_many_changes_of_few_objects_do_not_grow_the_file_for_ever(tmp_path: Path) -> None:
    async def body() -> None:
        versions = [Namespace("shop", (("v", str(number)),)) for number in range(40)]
        async with running(tmp_path) as store:
            store.mark_synced()
            await until_written(store)
            for version in versions * 100:
                take(store, version)
                store._lines += 1  # noqa: SLF001 - as many writes would take an hour
            await until_written(store)
        assert len(only_file(tmp_path).read_bytes().splitlines()) == 2
        assert await recalled(tmp_path) == [versions[-1]]

    asyncio.run(body())


def test_a_write_error_is_logged_once_and_the_write_is_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfagent.checkpoint.store._RETRY_SECONDS", 0.01)
    place = tmp_path / "file"
    place.touch()

    async def body() -> None:
        async with running(place / "state") as store:
            take(store, SHOP)
            store.mark_synced()
            await until(lambda: "can't be written" in store.status()["problem"])
            place.unlink()
            await until_written(store)
        assert await recalled(place / "state") == [SHOP]

    asyncio.run(body())
    assert caplog.text.count("can't be written") == 1


def test_a_full_disk_leaves_complete_lines(tmp_path: Path) -> None:
    """As on a disk that accepts a part of a write: the part is truncated."""
    file = Journal(tmp_path, "last-good-x")
    assert file.read() == b""
    file.replace([b"one\n"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            file.append([b"x" * 10_000 + b"\n"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    file.append([b"two\n"])
    file.close()
    assert file.path.read_bytes() == b"one\ntwo\n"


def test_a_stalled_disk_is_logged_and_delays_neither_the_loop_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfagent.checkpoint.store._STALLED_SECONDS", 0.01)
    monkeypatch.setattr("nfagent.checkpoint.store._CLOSE_SECONDS", 0.01)
    answer = threading.Event()

    class Stalled(Journal):
        def replace(self, lines: Iterable[bytes]) -> None:
            answer.wait(DEADLINE)
            super().replace(lines)

    monkeypatch.setattr("nfagent.checkpoint.store.Journal", Stalled)

    async def body() -> None:
        async with running(tmp_path) as store:
            take(store, SHOP)
            store.mark_synced()
            await until(lambda: "no response from the disk" in store.status()["problem"])
            take(store, OPS)
            assert store.status()["pending"] == 2

    try:
        asyncio.run(body())
    finally:
        answer.set()


def test_a_disk_that_stalls_at_the_start_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    class Stalled(Journal):
        def read(self) -> bytes:
            answer.wait(DEADLINE)
            return super().read()

    async def body() -> None:
        await remember(tmp_path, SHOP)
        monkeypatch.setattr("nfagent.checkpoint.store.Journal", Stalled)
        with monkeypatch.context() as impatient:
            impatient.setattr("nfagent.checkpoint.store._OPEN_SECONDS", 0.01)
            store = CheckpointStore(tmp_path, "a")
            await store.open(SOURCE)
        async with writing(store):
            assert "can't be read: no response from the disk" in store.status()["problem"]
            take(store, OPS)
            store.mark_synced()
            answer.set()
            await until_written(store)
        assert await recalled(tmp_path) == [OPS]

    try:
        asyncio.run(body())
    finally:
        answer.set()


def test_a_file_that_cannot_be_read_for_a_moment_at_the_start_is_read_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = iter((errno.EMFILE, errno.EIO, 0))

    class Failing(Journal):
        def read(self) -> bytes:
            if number := next(tries):
                raise OSError(number, os.strerror(number))
            return super().read()

    async def body() -> None:
        await remember(tmp_path, SHOP)
        monkeypatch.setattr("nfagent.checkpoint.store.Journal", Failing)
        store = CheckpointStore(tmp_path, "a")
        await store.open(SOURCE)
        assert (store.of_object(SHOP.ref), store.status()["problem"]) == (SHOP, "")
        await store.close()

    asyncio.run(body())


@pytest.mark.parametrize("kind", ["a FIFO", "a folder", "a device", "a link"])
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a device")
def test_another_file_type_in_its_place_is_logged_and_blocks_neither_start_nor_end(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfagent.checkpoint.store._OPEN_SECONDS", DEADLINE)

    async def body() -> None:
        await remember(tmp_path, SHOP)
        path = replaced(tmp_path, kind)
        began = time.monotonic()
        async with running(tmp_path) as store:
            assert f"{path} can't be read: " in store.status()["problem"]
            assert store.status()["lost"] == store.status()["problem"]
            take(store, OPS)
            store.mark_synced()
        assert time.monotonic() - began < DEADLINE / 2, "opening it didn't block"

    asyncio.run(body())


def replaced(folder: Path, kind: str) -> Path:
    [path] = folder.iterdir()
    path.unlink()
    match kind:
        case "a FIFO":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case "a device":
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        case "a link":
            path.symlink_to("/proc/kmsg")
    return path


def test_forgetting_deletes_all_files_and_nothing_else(tmp_path: Path) -> None:
    asyncio.run(remember(tmp_path, SHOP))
    asyncio.run(remember(tmp_path, SHOP, node="b"))
    (tmp_path / "other").touch()
    assert (delete_checkpoints(tmp_path), delete_checkpoints(tmp_path), delete_checkpoints(tmp_path / "none")) == (
        2,
        0,
        0,
    )
    assert names(tmp_path) == ["other"]


def test_a_failed_deletion_is_reported(tmp_path: Path) -> None:
    (tmp_path / "last-good-folder").mkdir()
    with pytest.raises(HostError, match="can't be deleted"):
        delete_checkpoints(tmp_path)
