"""Faults of a manifests folder: only objects that are certainly deleted are removed."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from nfagent.checkpoint.store import CheckpointStore
from nfagent.manifests.folder_scan import read_files
from nfagent.manifests.folder_source import FolderSource
from nfagent.manifests.follower import FolderReader
from nfagent.manifests.index import ManifestIndex
from nfagent.model.gvk import ObjectChange
from nfagent.model.objects import ObjectRef
from nfagent.system.bounded_calls import BoundedCalls
from tests.kernel.test_kernel_faults import no_more_files
from tests.support.tmpfs_mounts import in_own_mounts, mount_empty, run, stalled, unmount
from tests.unit.manifests.test_index import Follower, following, link, pod, said

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts, and other users"),
]

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

DEADLINE = 60.0
UNPRIVILEGED_UID = 65534
LOOK = 0.05
"""Seconds between looks: what inotify doesn't tell is found by looking."""
HOLDS = "what was read before stays in force"
WEB = "shop/web@a"
UNMOUNTED = "may be unmounted, or mounted over"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that every user may look into, with one manifest, and one in a subfolder."""
    with tempfile.TemporaryDirectory(prefix="nfagent-manifests-") as made:
        Path(made).chmod(0o755)
        manifests = Path(made) / "manifests"
        (manifests / "team").mkdir(parents=True)
        (manifests / "f.yaml").write_text(pod())
        (manifests / "team" / "g.yaml").write_text(pod("db"))
        yield manifests


async def complains_of(follower: Follower, *words: str) -> None:
    """Wait until one problem is said, which has these words."""
    await follower.until(
        lambda: len(said(follower.known)) == 1 and all(word in said(follower.known)[0] for word in words)
    )


async def looked(follower: Follower, times: int = 3) -> None:
    """Wait until everything was looked at some times more."""
    before = follower.batches
    await follower.until(lambda: follower.batches >= before + times)


def device(path: Path) -> None:
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero: it never ends


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


INSTEAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a FIFO": (os.mkfifo, "f.yaml: is a FIFO; put a regular file there, or delete it"),
    "a socket": (bound_socket, "f.yaml: is a socket; put a regular file there, or delete it"),
    "a device that never ends": (device, "f.yaml: is a device; put a regular file there, or delete it"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "f.yaml: is a link that leads nowhere"),
    "a link to itself": (lambda path: path.symlink_to("f.yaml"), "f.yaml: is a link that leads in a circle"),
    "a link through a file": (lambda path: path.symlink_to("team/g.yaml/x"), "f.yaml: can't be read: Not a directory"),
    "a link to a name that is too long": (lambda path: path.symlink_to("x" * 300), "File name too long"),
    "a link to the kernel's log": (
        lambda path: path.symlink_to("/proc/kmsg"),
        "is in a file system of the kernel's own",
    ),
    "a link to sysfs": (lambda path: path.symlink_to("/sys/kernel/uevent_seqnum"), "file system of the kernel's own"),
    "nothing in it": (Path.touch, "f.yaml: is empty (0 bytes), as a full disk leaves it"),
}


@pytest.mark.parametrize(("make", "words"), INSTEAD.values(), ids=INSTEAD)
def test_a_manifest_keeps_what_it_held_where_there_is_instead(
    make: Callable[[Path], object], words: str, folder: Path
) -> None:
    beside = folder / "beside"
    make(beside)

    async def body() -> None:
        async with following(folder, LOOK) as follower:
            await follower.holds(WEB, "shop/db@a")
            beside.rename(folder / "f.yaml")
            await complains_of(follower, words, "what it held before stays in force")
            await looked(follower)
            assert follower.state == {WEB, "shop/db@a"}
            (folder / "f.yaml").unlink()
            await follower.holds("shop/db@a")
            assert said(follower.known) == []

    asyncio.run(body())


def test_a_manifest_and_a_folder_that_swap_their_kinds_between_two_looks_keep_what_they_held(folder: Path) -> None:
    known = ManifestIndex()

    async def body() -> None:
        async with following(folder, known=known) as follower:
            await follower.holds(WEB, "shop/db@a")
        (folder / "f.yaml").unlink()
        (folder / "f.yaml").mkdir()
        (folder / "team" / "g.yaml").unlink()
        (folder / "team").rmdir()
        (folder / "team").touch()
        async with following(folder, LOOK, known=known) as follower:
            await looked(follower)
            assert not any(event.startswith("-") for event in follower.told)
            assert [problem.partition(";")[0] for problem in said(known)] == [
                "f.yaml: is a folder now",
                "team: is no folder now",
            ]
            (folder / "f.yaml").rmdir()
            (folder / "team").unlink()
            await follower.until(lambda: sorted(follower.told) == ["-shop/db", "-shop/web"])
            assert said(known) == []

    asyncio.run(body())


def _unmount(place: Path) -> None:
    unmount(place)


def _mount_over(place: Path) -> None:
    mount_empty(place)


def _bind_over(place: Path) -> None:
    empty = place.parent / f".empty-{place.name}"
    empty.mkdir()
    run("mount", "--bind", empty, place)


@pytest.mark.parametrize("where", ["the folder", "a folder within"])
@pytest.mark.parametrize("change", [_unmount, _mount_over, _bind_over], ids=["unmounted", "mounted over", "bound over"])
def test_what_a_folder_held_that_is(change: Callable[[Path], None], where: str, folder: Path) -> None:
    """Stays enforced until the folder has manifests again, or a setting says that it has none."""
    place, name = (folder, "f.yaml") if where == "the folder" else (folder / "team", "g.yaml")
    shown = str(folder) if where == "the folder" else "team"

    async def body() -> None:
        async with following(folder, LOOK) as follower:
            await follower.until(lambda: WEB in follower.state)
            before = set(follower.state)
            change(place)
            await complains_of(follower, shown, UNMOUNTED, HOLDS, "none.yaml with `# none`")
            await looked(follower)
            assert follower.state == before
            (place / name).write_text(pod("api"))
            await follower.until(lambda: "shop/api@a" in follower.state)
            await follower.until(lambda: said(follower.known) == [])
            assert follower.state & before == (before - {"shop/db@a"} if where != "the folder" else set())

    def mounted() -> None:
        if change is _unmount:
            mount_empty(place)
            (place / name).write_text(pod("web" if where == "the folder" else "db"))
            (folder / "f.yaml").write_text(pod())
            under(place, name)
        asyncio.run(body())

    in_own_mounts(mounted)


def under(place: Path, name: str) -> None:
    """Leave nothing in the folder that a file system is mounted on."""
    held = (place / name).read_text()
    unmount(place)
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    mount_empty(place)
    (place / name).write_text(held)


def test_a_folder_with_a_comment_only_that_was_mounted_over_is_empty(folder: Path) -> None:
    async def body() -> None:
        async with following(folder, LOOK) as follower:
            await follower.holds(WEB, "shop/db@a")
            mount_empty(folder)
            await complains_of(follower, UNMOUNTED)
            (folder / "none.yaml").write_text("# none")
            await follower.holds()
            assert said(follower.known) == []

    in_own_mounts(lambda: asyncio.run(body()))


@pytest.mark.parametrize("text", ["", "\n", "apiVersion: ["], ids=["empty", "blank", "half"])
def test_an_empty_file_is_no_manifest_in_a_folder_that_was_mounted_over(text: str, folder: Path) -> None:
    async def body() -> None:
        async with following(folder, LOOK) as follower:
            await follower.holds(WEB, "shop/db@a")
            mount_empty(folder)
            await complains_of(follower, UNMOUNTED)
            (folder / "new.yaml").write_text(text)
            await looked(follower, 10)
            assert follower.state == {WEB, "shop/db@a"}
            assert any(UNMOUNTED in problem for problem in said(follower.known))
            (folder / "new.yaml").write_text(pod("api"))
            await follower.holds("shop/api@a")
            assert said(follower.known) == []

    in_own_mounts(lambda: asyncio.run(body()))


def test_a_folder_that_is_mounted_again_is_read_as_it_is_then(folder: Path) -> None:
    async def body() -> None:
        async with following(folder, LOOK) as follower:
            await follower.holds(WEB, "shop/db@a")
            mount_empty(folder)
            await complains_of(follower, UNMOUNTED)
            unmount(folder)
            await follower.complains()
            assert follower.state == {WEB, "shop/db@a"}
            (folder / "f.yaml").unlink()
            (folder / "team" / "g.yaml").unlink()
            await follower.holds()

    in_own_mounts(lambda: asyncio.run(body()))


def test_a_manifest_that_a_full_disk_left_empty_keeps_what_it_held(folder: Path) -> None:
    async def body() -> None:
        async with following(folder, LOOK) as follower:
            await follower.holds(WEB)
            with (folder / "f.yaml").open("w") as truncated, (folder / "filler").open("wb", buffering=0) as filler:
                with pytest.raises(OSError, match="No space left"):
                    filler.writelines([b"x" * 4096] * 100)
                truncated.write(pod(node="b"))
                with pytest.raises(OSError, match="No space left"):
                    truncated.flush()
                (folder / "filler").unlink()
                await complains_of(follower, "f.yaml: is empty (0 bytes), as a full disk leaves it")
                assert follower.state == {WEB}
                filler.truncate(0)
            await follower.holds("shop/web@b")

    def mounted() -> None:
        mount_empty(folder, "size=64k")
        (folder / "f.yaml").write_text(pod())
        asyncio.run(body())

    in_own_mounts(mounted)


@contextmanager
def unprivileged_user() -> Iterator[None]:
    """Run as a user without privileges."""
    os.seteuid(UNPRIVILEGED_UID)
    try:
        yield
    finally:
        os.seteuid(0)


def root(call: Callable[[], object]) -> None:
    """Call a function as root."""
    os.seteuid(0)
    try:
        call()
    finally:
        os.seteuid(UNPRIVILEGED_UID)


@pytest.mark.parametrize("where", [".", "team"])
def test_what_a_folder_held_that_may_not_be_listed_any_more_stays_in_force(where: str, folder: Path) -> None:
    async def body() -> None:
        with unprivileged_user():
            async with following(folder, LOOK) as follower:
                await follower.holds(WEB, "shop/db@a")
                root(lambda: (folder / where).chmod(0))
                await complains_of(follower, "Permission denied", HOLDS)
                await looked(follower) if where == "team" else None
                assert follower.state == {WEB, "shop/db@a"}
                root(lambda: (folder / where).chmod(0o755))
                await follower.complains()
                root((folder / "f.yaml").unlink)
                await follower.holds("shop/db@a")

    asyncio.run(body())


class Taken:
    """Takes what changes."""

    def __init__(self) -> None:
        self.held: set[ObjectRef] = set()
        self.ready = False

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:  # noqa: ARG002 - of the protocol
        for change in changes:
            if isinstance(change, ObjectRef):
                self.held.discard(change)
            else:
                self.held.add(change.ref)

    def on_synced(self) -> None:
        self.ready = True


KEPT = (
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: wall}\n"
    "spec: {podSelector: {}, policyTypes: [Ingress]}\n"
)
WALL = ObjectRef("NetworkPolicy", "shop", "wall")


async def started(folder: Path, state: Path) -> tuple[FolderSource, Taken]:
    taken = Taken()
    source = FolderSource(folder, taken, store := CheckpointStore(state, "a"))
    async with asyncio.timeout(DEADLINE):
        await source.start()
    await store.close()
    return source, taken


def test_a_start_with_a_folder_within_that_may_not_be_listed_has_what_an_agent_of_before_read(folder: Path) -> None:
    state = folder.parent / "state"
    state.mkdir()
    os.chown(state, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    (folder / "team" / "g.yaml").write_text(KEPT)

    async def body() -> None:
        with unprivileged_user():
            _, first = await started(folder, state)
            assert WALL in first.held
            root(lambda: (folder / "team").chmod(0))
            for _ in range(2):
                source, again = await started(folder, state)
                assert (WALL in again.held, again.ready) == (True, True)
                assert [problem.place for problem in source.problems] == ["team"]
            root(lambda: (folder / "team").chmod(0o755))
            root((folder / "team" / "g.yaml").unlink)
            (folder / "team").stat()
            _, last = await started(folder, state)
            assert WALL in last.held, "it is unknown whether team is the folder that was read before"

    asyncio.run(body())


def test_a_start_with_a_folder_that_is_not_mounted_yet_has_what_an_agent_of_before_read(folder: Path) -> None:
    state = folder.parent / "state"

    async def body() -> None:
        (folder / "f.yaml").write_text(KEPT)
        await started(folder, state)
        mount_empty(folder)
        source, again = await started(folder, state)
        assert WALL in again.held
        assert UNMOUNTED in str(source.problems)
        (folder / "none.yaml").write_text("# none")
        _, last = await started(folder, state)
        assert last.held == set()

    in_own_mounts(lambda: asyncio.run(body()))


def test_a_start_waits_for_an_unreadable_folder_without_last_known_objects(folder: Path) -> None:
    async def body() -> None:
        with unprivileged_user():
            root(lambda: folder.chmod(0))
            taken = Taken()
            source = FolderSource(folder, taken, CheckpointStore(None, "a"))
            starting = asyncio.create_task(source.start())
            done, _ = await asyncio.wait([starting], timeout=0.3)
            assert (done, taken.ready) == (set(), False)
            root(lambda: folder.chmod(0o755))
            async with asyncio.timeout(DEADLINE):
                await starting
            assert len(taken.held) == 2

    asyncio.run(body())


def test_what_is_held_stays_without_descriptors_and_is_read_when_there_are_some_again(folder: Path) -> None:
    async def body() -> None:
        async with following(folder, LOOK) as follower:
            await follower.holds(WEB, "shop/db@a")
            (folder / "f.yaml").write_text(pod(node="b"))
            with no_more_files():
                await complains_of_descriptors(follower)
                assert {event.partition("@")[0] for event in follower.state} == {"shop/web", "shop/db"}
            await follower.holds("shop/web@b", "shop/db@a")
            await follower.complains()

    asyncio.run(body())


async def complains_of_descriptors(follower: Follower) -> None:
    await follower.until(lambda: any("Too many open files" in words for words in said(follower.known)))
    await follower.until(
        lambda: any("no file descriptors are left for inotify" in words for words in said(follower.known))
    )


def test_a_hung_file_system_delays_no_other_file(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()

    async def body() -> None:
        disk = FolderReader(BoundedCalls(0.2))
        async with following(folder, LOOK, disk=disk) as follower:
            await follower.holds(WEB, "shop/db@a")
            with stalled(folder / "team"), stalled(elsewhere):
                link(folder / "z.yaml", str(elsewhere / "x.yaml"))
                hung = [
                    "team: can't be listed: the file system does not respond",
                    "z.yaml: can't be read: the file system does not respond",
                ]
                # On a busy machine any other call may take its 0.2 s, too; it is over with the next look.
                await follower.until(lambda: [words.partition(";")[0] for words in said(follower.known)] == hung)
                (folder / "f.yaml").write_text(pod(node="b"))
                await follower.holds("shop/web@b", "shop/db@a")
                (folder / "z.yaml").unlink()
            await follower.complains()
            assert follower.state == {"shop/web@b", "shop/db@a"}

    in_own_mounts(lambda: asyncio.run(body()))


# Limits of a user namespace of its own; those of the machine are not touched.
PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from tests.unit.manifests.test_index import following, pod, said

setting, words, parent = sys.argv[1:4]
folder = Path(sys.argv[4])

def limit(number):
    assert os.readlink("/proc/self/ns/user") != parent
    Path("/proc/sys/user", setting).write_text(str(number))

async def body():
    assert Path("/proc/sys/user", setting).read_text().strip() == "2147483647", "a namespace that is new"
    limit(0)
    async with following(folder) as follower:
        await follower.holds("shop/web@a", "shop/db@a")
        await follower.until(lambda: len(said(follower.known)) == 1)
        assert words in said(follower.known)[0] and "sysctl -w fs.inotify.max_user_" in said(follower.known)[0]
        (folder / "f.yaml").write_text(pod(node="b"))
        await follower.holds("shop/web@b", "shop/db@a")
        (folder / "team" / "g.yaml").unlink()
        await follower.holds("shop/web@b")
        limit(1000)
        (folder / "f.yaml").unlink()
        await follower.holds()
        await follower.complains()

asyncio.run(body())
print("followed")
"""


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("max_inotify_instances", "inotify has no instances left"),
        ("max_inotify_watches", "inotify has no watches left"),
    ],
    ids=["instances", "watches"],
)
def test_a_folder_is_followed_by_looking_where_inotify_has_no_more(setting: str, words: str, folder: Path) -> None:
    parent = str(Path("/proc/self/ns/user").readlink())
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", PROGRAM, setting, words, parent, str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.stdout == "followed\n", done.stderr


class Failing(BoundedCalls):
    """A machine whose file system refuses some paths: what can't be had on every machine for real."""

    def __init__(self, path: Path, code: int) -> None:
        super().__init__()
        self._path = path
        self._error = OSError(code, os.strerror(code))

    def each(self, call: Callable[[_K], _T], keys: Iterable[_K]) -> Iterator[tuple[_K, _T | OSError]]:
        for key, answer in super().each(call, keys):
            yield key, self._error if key == self._path else answer


CODES = [errno.EIO, errno.ESTALE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.ENOTCONN, errno.EUCLEAN, errno.EPERM]


@pytest.mark.parametrize("code", CODES, ids=[errno.errorcode[code] for code in CODES])
@pytest.mark.parametrize("where", [".", "team", "f.yaml"], ids=["the folder", "a folder within", "a file"])
def test_any_error_of(where: str, code: int, folder: Path) -> None:
    """Takes nothing away, is said, and is over when it is."""
    known = ManifestIndex()
    list(known.apply_scan(read_files(folder, known)))
    if where == ".":
        (folder / "f.yaml").unlink()
    failing = Failing(folder / where, code)
    look = read_files(folder, known, calls=failing)
    assert (list(known.apply_scan(look)), look.uncertain) == ([], True)
    (problem,) = said(known)
    assert os.strerror(code) in problem
    assert "stays in force" in problem
    (folder / "f.yaml").write_text(pod())
    assert list(known.apply_scan(read_files(folder, known))) == []
    assert (said(known), known.uncertain) == ([], False)
    (folder / "f.yaml").unlink()
    assert list(known.apply_scan(read_files(folder, known))) == [ObjectRef("Pod", "shop", "web")]
