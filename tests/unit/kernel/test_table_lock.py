"""One agent per table: a lock is held until it is closed, and only root can hold it."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from nfagent.errors import HostError
from nfagent.kernel import table_lock
from nfagent.kernel.table_lock import UNKNOWN, TableLock, acquire_table, holder

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
DEADLINE = 60.0


OLD_AGENT = """
import socket
opened = socket.socket(socket.AF_UNIX)
opened.bind(chr(0) + "nfagent/inet/nfagent")
print("claimed", flush=True)
input()
"""
"""Binds the address, as an agent of an earlier version, or as a user who wants to block agents."""
BUSY_USER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
opened = socket.socket(socket.AF_UNIX)
opened.bind(chr(0) + "nfagent/inet/nfagent")
done = []
for name, attempt in {
    "open": lambda: os.open(sys.argv[1], os.O_RDONLY),
    "make": lambda: os.open(sys.argv[1] + ".new", os.O_CREAT | os.O_WRONLY),
    "replace": lambda: os.unlink(sys.argv[1]),
    "move": lambda: os.rename(os.path.dirname(sys.argv[1]), "/run/nfagent-moved"),
}.items():
    try:
        attempt()
    except OSError:
        continue
    done.append(name)
print(*done, "claimed", flush=True)
input()
"""
FORGING_USER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
row = f"0000: 00000002 00000000 00010000 0001 01 {sys.argv[1]} @nfagent/inet/nfagent"
bound = [socket.socket(socket.AF_UNIX) for _ in range(900)]
bound[0].bind(chr(0) + "nfagent/inet/nfagent")
for number, opened in enumerate(bound[1:]):
    opened.bind(f"{chr(0)}{number}{chr(10)}{row}")
print("claimed", flush=True)
input()
"""
"""A user with sockets whose names look like rows of /proc/net/unix for a socket of root."""

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can open the lock, and network namespaces"),
]


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Move the test's thread to its own network namespace: other agents may run in this one."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    libc("unshare", CLONE_NEWNET)
    try:
        yield
    finally:
        lock_file().unlink(missing_ok=True)
        libc("setns", before, CLONE_NEWNET)
        os.close(before)


def lock_file() -> Path:
    namespace = os.stat("/proc/thread-self/ns/net")  # noqa: PTH116 - a file of the kernel's
    return table_lock.LOCK_FOLDER / f"nfagent-{namespace.st_dev}-{namespace.st_ino}.lock"


AGENT = """
import pathlib, sys
from nfagent.kernel import table_lock
table_lock.LOCK_FOLDER = pathlib.Path(*sys.argv[1:2] or [table_lock.LOCK_FOLDER])
lock = table_lock.acquire_table()
print("claimed", flush=True)
input()
"""
"""An agent; its argument is the folder of the locks, where that is another one."""


@contextmanager
def claimed_elsewhere(program: str = AGENT, *arguments: str, before: Sequence[str] = ()) -> Iterator[int]:
    """Hold the lock in another process; return its id."""
    with subprocess.Popen(
        [*before, sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"claimed\n"
            yield process.pid
        finally:
            process.kill()
            process.wait(DEADLINE)


def test_without_a_lock_there_is_no_holder() -> None:
    assert holder() is None


def test_a_lock_is_held_until_it_is_closed() -> None:
    with closing(acquire_table()):
        assert holder() == os.getpid()
        with pytest.raises(HostError, match=f"another agent holds table inet nfagent .* process {os.getpid()}; "):
            acquire_table()
    assert holder() is None
    assert not lock_file().exists()
    acquire_table().close()


def test_another_holder_is_named_with_the_command_that_stops_it() -> None:
    with claimed_elsewhere() as process:
        assert holder() == process
        with pytest.raises(HostError) as caught:
            acquire_table()
        assert str(caught.value) == (
            f"another agent holds table inet nfagent in this network namespace: process {process}; "
            f"stop it (systemctl stop nfagent, or kill {process}), then start again"
        )


def test_an_agent_in_a_container_is_not_named_by_its_number_there() -> None:
    """`kill 1` would be said, which on the node is init."""
    with claimed_elsewhere(before=["unshare", "--pid", "--fork", "--kill-child"]):
        assert lock_file().read_text().startswith("1 ")
        assert holder() == UNKNOWN
        with pytest.raises(HostError, match=r"a process that can't be seen from here; .* delete the Pod") as refused:
            acquire_table()
        assert "kill" not in str(refused.value)


def test_a_lock_file_of_an_earlier_version_has_the_process_alone() -> None:
    with closing(acquire_table()):
        lock_file().write_text(f"{os.getpid()}\n")
        assert holder() == os.getpid()


def test_a_lock_ends_with_its_process() -> None:
    with claimed_elsewhere() as process:
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        assert holder() is None
        acquire_table().close()


def test_the_holder_can_be_read_any_number_of_times() -> None:
    with closing(acquire_table()):
        assert {holder() for _ in range(12)} == {os.getpid()}


def test_a_refused_lock_leaves_no_socket_open() -> None:
    with closing(acquire_table()):
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a folder of the kernel's
        with pytest.raises(HostError):
            acquire_table()
        assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def elsewhere(ask: Callable[[], T]) -> T:
    """Call in a new network namespace, which ends with its thread."""
    answers: list[T] = []

    def run() -> None:
        libc("unshare", CLONE_NEWNET)
        answers.append(ask())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(DEADLINE)
    return answers[0]


def libc(name: str, *arguments: int) -> None:
    # Python has os.unshare and os.setns from 3.12 on.
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise OSError(ctypes.get_errno(), name)


def test_every_network_namespace_has_its_own_lock() -> None:
    with closing(acquire_table()):
        assert elsewhere(holder) is None
        with closing(elsewhere(acquire_table)) as other:
            assert isinstance(other, TableLock)
            assert holder() == os.getpid()


def test_an_ordinary_user_cannot_keep_an_agent_from_starting() -> None:
    acquire_table().close()
    with claimed_elsewhere(BUSY_USER, str(lock_file())):
        assert holder() is None
        with closing(acquire_table()):
            assert holder() == os.getpid()


def test_an_ordinary_user_cannot_disturb_a_running_agent() -> None:
    with closing(acquire_table()) as ours:
        assert ours.address is not None
        ours.address.close()
        with claimed_elsewhere(BUSY_USER, str(lock_file())):
            assert holder() == os.getpid()
            with pytest.raises(HostError, match=f"process {os.getpid()}; "):
                acquire_table()


def test_an_address_bound_by_a_user_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with claimed_elsewhere(BUSY_USER, str(lock_file())), closing(acquire_table()):
        assert caplog.messages == [
            "unix address @nfagent/inet/nfagent is bound by a non-root process (Address already in use); ignored"
        ]


def test_socket_names_that_look_like_rows_of_proc_keep_no_agent_from_starting() -> None:
    with socket.socket() as roots, claimed_elsewhere(FORGING_USER, str(os.fstat(roots.fileno()).st_ino)):
        assert holder() is None
        with closing(acquire_table()):
            assert holder() == os.getpid()


def test_where_unix_sockets_cannot_be_listed_the_file_alone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_lock, "NETLINK_SOCK_DIAG", 31)
    with claimed_elsewhere(OLD_AGENT):
        assert holder() is None
        with closing(acquire_table()):
            assert holder() == os.getpid()


def test_a_user_s_socket_inherited_by_a_process_of_root_is_no_agent() -> None:
    program = (
        "import os, socket, sys\n"
        "os.seteuid(65534)\n"
        "opened = socket.socket(socket.AF_UNIX)\n"
        "os.seteuid(0)\n" + OLD_AGENT.replace("import socket\nopened = socket.socket(socket.AF_UNIX)\n", "")
    )
    with claimed_elsewhere(program):
        assert holder() is None
        acquire_table().close()


def test_an_agent_of_an_earlier_version_holds_the_table() -> None:
    with claimed_elsewhere(OLD_AGENT) as process:
        assert holder() == process
        with pytest.raises(HostError, match=f"another agent holds table inet nfagent .* process {process}; "):
            acquire_table()
    acquire_table().close()


def test_an_agent_of_an_earlier_version_is_found_without_the_right_to_look_into_processes() -> None:
    with claimed_elsewhere(OLD_AGENT):
        command = ["setpriv", "--bounding-set", "-all,+net_admin", sys.executable, "-c", AGENT]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False, timeout=DEADLINE
        )
        assert "another agent holds table inet nfagent in this network namespace: a process that can't be seen" in (
            done.stderr
        )


def test_an_agent_keeps_earlier_versions_from_starting() -> None:
    with closing(acquire_table()):
        done = subprocess.run(
            [sys.executable, "-c", OLD_AGENT], capture_output=True, text=True, check=False, timeout=DEADLINE
        )
        assert "Address already in use" in done.stderr


def test_only_root_can_open_the_lock() -> None:
    before = os.umask(0)
    try:
        with closing(acquire_table()):
            found = lock_file().stat()
            assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(lambda path: path.symlink_to("/etc/hostname"), id="a symbolic link"),
        pytest.param(lambda path: os.mkfifo(path, 0o666), id="a FIFO"),
        pytest.param(lambda path: (path.touch(), path.chmod(0o666)), id="a file that every user can open"),
        pytest.param(lambda path: (path.touch(0o600), shutil.chown(path, 65534)), id="a user's file"),
    ],
)
def test_a_file_that_is_not_a_lock_of_root_is_replaced(plant: Callable[[Path], object]) -> None:
    acquire_table().close()
    plant(lock_file())
    with closing(acquire_table()):
        found = lock_file().lstat()
        assert (found.st_uid, found.st_mode) == (0, stat.S_IFREG | 0o600)
        assert holder() == os.getpid()
    assert Path("/etc/hostname").exists()


def test_the_lock_file_of_a_crashed_agent_is_locked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a folder of its own: another agent of this machine that starts meanwhile would delete the file.
    monkeypatch.setattr(table_lock, "LOCK_FOLDER", tmp_path / "nfagent")
    with claimed_elsewhere(AGENT, str(tmp_path / "nfagent")) as process:
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        assert lock_file().exists()
        with closing(acquire_table()):
            assert holder() == os.getpid()


def test_lock_files_of_other_namespaces_are_deleted_unless_an_agent_runs_there() -> None:
    with claimed_elsewhere() as process:
        kept = lock_file()
        elsewhere(lambda: acquire_table().close())
        assert (kept.exists(), holder()) == (True, process)
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        elsewhere(lambda: acquire_table().close())
        assert not kept.exists()


class TestFolder:
    """The folder of the locks, below a temporary folder."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "nfagent"
        monkeypatch.setattr(table_lock, "LOCK_FOLDER", folder)
        return folder

    def test_it_is_created_for_root_only(self, folder: Path) -> None:
        with closing(acquire_table()):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_a_mode_that_lets_others_write_is_changed_and_logged(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder.mkdir()
        folder.chmod(0o1777)
        with closing(acquire_table()):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert caplog.messages == [f"{folder} was writable by other users (mode 1777); mode is 0700 now"]

    def test_a_folder_of_a_user_is_refused_with_a_command(self, folder: Path) -> None:
        folder.mkdir()
        os.chown(folder, 65534, 65534)
        with pytest.raises(HostError, match=f"{folder} belongs to user 65534, .*: rm -r {folder}"):
            acquire_table()

    def test_a_link_is_refused(self, folder: Path, tmp_path: Path) -> None:
        folder.symlink_to(tmp_path)
        with pytest.raises(HostError, match=f"cannot lock .*: .*{folder}"):
            acquire_table()
