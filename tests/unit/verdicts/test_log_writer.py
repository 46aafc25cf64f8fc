"""The thread of the verdict log: stalled, full and read-only disks, order of lines, stop."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfagent.verdicts.log_file import RotatingFile
from nfagent.verdicts.log_sink import ErrorCounts
from nfagent.verdicts.log_writer import LogWriter
from tests.support.disk_images import Disk, ext4, fill, hung, remount, tmpfs
from tests.support.packet_labs import wait_until

FULL = "No space left on device"
REASONS, LONG = 40, 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy_action.log"


def lines(*numbers: int) -> list[bytes]:
    """Lines of 25 bytes each."""
    return [f"line {number:019}\n".encode() for number in numbers]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a separate disk that can stall."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a disk that is frozen")
    with ext4(tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture
def stalling(disk: Disk) -> Path:
    """Return the path of the log on that disk."""
    return disk.folder / "policy_action.log"


def taken(writer: LogWriter, file: Path, content: bytes) -> None:
    """Wait until a file holds this."""
    wait_until(lambda: file.exists() and file.read_bytes() == content)
    assert file.read_bytes() == content
    assert writer.status().lost_by == {}


def test_lines_keep_their_order_and_none_is_lost_at_a_stop(path: Path) -> None:
    writer = LogWriter(RotatingFile(path))
    for number in range(2000):
        writer.write(lines(2 * number, 2 * number + 1))
    writer.close(LONG)
    assert path.read_bytes() == b"".join(lines(*range(4000)))
    assert writer.status().lost_lines == 0


def test_a_writer_that_never_wrote_makes_no_file_and_no_thread(path: Path) -> None:
    before = set(threading.enumerate())
    writer = LogWriter(RotatingFile(path))
    writer.write([])
    assert set(threading.enumerate()) <= before
    writer.close()
    assert not path.exists()


def test_writing_does_not_block_on_a_stalled_disk_and_no_line_is_lost(disk: Disk, stalling: Path) -> None:
    disk.freeze()
    writer = LogWriter(RotatingFile(stalling))
    for number in range(100):
        writer.write(lines(number))
    assert writer.status().queued_lines == 100
    disk.thaw()
    taken(writer, stalling, b"".join(lines(*range(100))))
    writer.close()


def test_lines_that_a_full_queue_drops_are_counted_and_reported_once(
    disk: Disk, stalling: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    disk.freeze()
    writer = LogWriter(RotatingFile(stalling), queue_bytes=100)
    writer.write(lines(1, 2, 3))
    for batch in ((4, 5, 6), (7,), (8, 9)):
        writer.write(lines(*batch))
    found = writer.status()
    assert (found.lost_by, found.lost_lines, found.queued_lines) == ({"queue full": 5}, 5, 4)
    assert "queue full" in writer.problem

    disk.thaw()
    wait_until(lambda: writer.problem == "")
    assert writer.problem == "", "free space ends the problem, without another line"
    writer.write(lines(10))
    writer.close(LONG)
    assert stalling.read_bytes() == b"".join(lines(1, 2, 3, 4, 10))
    assert caplog.messages == [
        "the disk is too slow for the verdict log, lines are lost: queue full; lost_lines=2",
        "verdict log is written again; lost_lines=5",
    ]


def test_a_stalled_disk_is_a_problem_before_lines_are_lost(disk: Disk, stalling: Path) -> None:
    now = [100.0]
    disk.freeze()
    writer = LogWriter(RotatingFile(stalling), monotonic=lambda: now[0])
    writer.write(lines(1))
    assert writer.status().queued_lines == 1
    assert writer.problem == ""
    now[0] += 11
    wait_until(lambda: writer.problem != "")
    assert writer.problem == "the disk hasn't accepted lines of the verdict log for more than 10 s"
    disk.thaw()
    writer.close(LONG)
    assert writer.problem == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a disk that never answers")
def test_a_disk_that_does_not_answer_is_a_problem_before_there_is_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    with hung(tmp_path / "disk"):
        writer = LogWriter(RotatingFile(tmp_path / "disk" / "policy_action.log"), monotonic=lambda: now[0])
        writer.start()
        wait_until(lambda: writer.looking)
        now[0] += 11
        assert writer.problem != ""
        assert writer.problem == "the disk hasn't answered the verdict log for more than 10 s"
        writer.report_problem()
        writer.report_problem()
        assert caplog.messages == [f"{writer.problem}; lost_lines=0"]
        writer.close(seconds=0.05)


def test_a_stop_waits_for_a_stalled_disk_up_to_its_deadline_and_reports_the_loss(
    disk: Disk, stalling: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk.freeze()
    writer = LogWriter(RotatingFile(stalling))
    writer.write(lines(1, 2))
    writer.close(seconds=0.05)
    assert writer.status().lost_by == {"stopped before it was written": 2}
    assert caplog.messages == ["the disk doesn't accept the verdict log; lines dropped at this stop: lost_lines=2"]
    disk.thaw()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a small disk")
def test_a_full_disk_is_reported_with_reason_and_count_and_its_end_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    now = [100.0]
    with tmpfs(tmp_path / "small", 64) as small:
        path = small / "policy_action.log"
        writer = LogWriter(RotatingFile(path), monotonic=lambda: now[0])
        writer.write(lines(0))
        wait_until(lambda: writer.status().queued_lines == 0)
        filler = fill(small)
        long = b"x" * 6000 + b"\n"
        for _ in range(3):
            writer.write([long])
            wait_until(lambda: writer.status().queued_lines == 0)
        assert writer.status().lost_by == {FULL: 3}
        assert FULL in writer.problem
        assert len(caplog.messages) == 1, "once a minute, however many lines are lost"
        now[0] += 61
        writer.write([long])
        wait_until(lambda: len(caplog.messages) == 2)
        filler.unlink()
        writer.write(lines(3))
        writer.close(LONG)
        begun, cut, last = path.read_bytes().splitlines(keepends=True)
    assert [begun, last] == [*lines(0), *lines(3)], "the line that was cut short has ended before the next begins"
    assert set(cut) == set(b"x\n")
    assert writer.problem == ""
    said = f"lines of the verdict log are lost: [Errno 28] {FULL}: '{path}'; lost_lines="
    first, second, last_said = caplog.messages
    assert (first, last_said) == (f"{said}1", "verdict log is written again; lost_lines=4")
    # The thread may report on the third line after the minute has passed, before the fourth comes.
    assert second in {f"{said}3", f"{said}4"}


def test_a_flapping_problem_is_reported_once_a_minute(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    now = [100.0]
    writer = LogWriter(RotatingFile(path), monotonic=lambda: now[0])
    for _ in range(5):
        path.mkdir()
        writer.write(lines(1))
        wait_until(lambda: writer.problem != "")
        path.rmdir()
        writer.write(lines(2))
        wait_until(lambda: writer.problem == "" and writer.status().queued_lines == 0)
        path.unlink()
    writer.close(LONG)
    assert len(caplog.messages) == 2
    assert writer.status().lost_by == {"there is a folder in place of the log": 5}


READ_ONLY = """
import sys
from pathlib import Path
from nfagent.verdicts.log_file import RotatingFile
from nfagent.verdicts.log_sink import ErrorCounts
from nfagent.verdicts.log_writer import LogWriter
from tests.support.disk_images import Disk, ext4, fill, hung, remount, tmpfs
writer = LogWriter(RotatingFile(Path(sys.argv[1]) / "policy_action.log"))
writer.write([b"a line\\n"])
writer.close()
print(writer.status().lost_by)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a read-only mount in a mount namespace of its own")
def test_a_read_only_disk_is_counted_as_such(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o ro none "{tmp_path}" && exec "$0" "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, sys.executable, "-c", READ_ONLY, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout == "{'Read-only file system': 1}\n"


@pytest.mark.parametrize("moved", [True, False], ids=["a file that was moved", "a file in its place"])
def test_a_reopened_log_writes_to_the_file_that_the_path_names(path: Path, *, moved: bool) -> None:
    writer = LogWriter(RotatingFile(path))
    writer.write(lines(1))
    taken(writer, path, b"".join(lines(1)))
    if moved:
        path.rename(path.with_suffix(".old"))
    writer.reopen()
    wait_until(lambda: open_files(path) == 0)
    assert open_files(path) == 0
    writer.write(lines(2))
    writer.close(LONG)
    assert path.read_bytes() == b"".join(lines(2) if moved else lines(1, 2))


def open_files(path: Path) -> int:
    """Return the number of this process's descriptors of a file, under any name."""
    return count(Path("/proc/self/fd").iterdir(), lambda link: str(link.readlink()).startswith(str(path.parent)))


def count(links: Iterator[Path], wanted: Callable[[Path], bool]) -> int:
    found = 0
    for link in links:
        try:
            found += wanted(link)
        except FileNotFoundError:
            continue
    return found


PLACES = {
    "a full disk": FULL,
    "a disk without inodes": FULL,
    "a read-only disk": "Read-only file system",
    "a FIFO": "there is a FIFO in place of the log",
    "a folder": "there is a folder in place of the log",
    "a device": "there is a device in place of the log",
    "a link to a device": "there is a device in place of the log",
    "a socket": "there is a socket in place of the log",
    "a link to nothing": "No such file or directory",
    "a link to itself": "Too many levels of symbolic links",
    "a file for its folder": "Not a directory",
}


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


IN_PLACE: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "a link to a device": lambda path: path.symlink_to("/dev/null"),
    "a socket": bind,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path),
}
ON_DISK: dict[str, Callable[[Path], object]] = {
    "a full disk": fill,
    "a disk without inodes": lambda folder: remount(folder, "nr_inodes=1"),
    "a read-only disk": lambda folder: remount(folder, "ro"),
}


@contextmanager
def obstacle(name: str, folder: Path) -> Iterator[Path]:
    """Put an obstacle in place of the log and yield the log's path; remove it at the end."""
    path = folder / "policy_action.log"
    if name in ON_DISK:
        with tmpfs(folder, 64):
            ON_DISK[name](folder)
            yield path
        return
    if name in IN_PLACE:
        folder.mkdir()
        IN_PLACE[name](path)
    else:
        folder.touch()
    yield path
    if folder.is_file():
        folder.unlink()
    elif path.is_dir():
        path.rmdir()
    else:
        path.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and devices")
@pytest.mark.parametrize("name", PLACES)
def test_an_unwritable_log_is_detected_without_a_line_and_recovers(tmp_path: Path, name: str) -> None:
    file: RotatingFile
    with obstacle(name, tmp_path / "log") as path:
        file = RotatingFile(path)
        file.check()
        assert PLACES[name] in file.problem
        assert file.lost_lines == 0
        file.write(lines(1))
        assert file.lost_lines == 1
        assert PLACES[name] in file.problem
    file.check()
    assert file.problem == "", "without another line"
    file.write(lines(2))
    file.close()
    assert path.read_bytes() == b"".join(lines(2))


def test_a_disk_check_creates_nothing(path: Path) -> None:
    file = RotatingFile(path.parent / "network" / "policy_action.log")
    file.check()
    assert file.problem == ""
    assert list(path.parent.iterdir()) == []


def test_a_link_to_a_file_is_a_log(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.touch()
    path.symlink_to(elsewhere)
    file = RotatingFile(path)
    file.write(lines(1))
    file.close()
    assert (file.problem, elsewhere.read_bytes()) == ("", b"".join(lines(1)))


class FailingSink(ErrorCounts):
    """A sink that refuses each line, for a reason that isn't counted yet."""

    label, target = "verdict log", "the disk"

    def __init__(self) -> None:
        """Start without lines."""
        super().__init__()
        self.refused = 0

    def write(self, lines: Sequence[bytes]) -> None:
        """Refuse lines."""
        for _ in lines:
            self.refused += 1
            if self.refused % REASONS == 0:
                self.lost.clear()
            self._failed(OSError(errno.EIO, f"reason {self.refused % REASONS}"), 1)

    def check(self) -> None:
        """Find nothing."""

    def reopen(self) -> None:
        """Stay as it is."""

    def close(self) -> None:
        """Stay as it is."""


def test_the_status_can_be_asked_while_lines_are_refused_for_new_reasons() -> None:
    sink = FailingSink()
    writer = LogWriter(sink)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        while sink.refused < 200_000:
            writer.write(lines(*range(50)))
            assert len(writer.status().lost_by) <= REASONS + 1  # and the full queue
    finally:
        sys.setswitchinterval(interval)
        writer.close(LONG)
