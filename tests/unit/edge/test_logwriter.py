"""The verdict log's thread: disks that stall, are full or read-only; the order of lines, and the end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfagent.edge.logfile import RotatingFile
from nfagent.edge.logwriter import LogWriter
from tests.labs import wait_until

FULL = "No space left on device"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy_action.log"


def lines(*numbers: int) -> list[bytes]:
    """Lines of 25 bytes each."""
    return [f"line {number:019}\n".encode() for number in numbers]


class Stalled:
    """A FIFO in the log's place that is full, and that nobody reads until `flows`."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._filled = 0
        try:
            while True:
                self._filled += os.write(self._end, b"x" * 4095 + b"\n")
        except BlockingIOError:
            pass

    def flows(self, count: int) -> bytes:
        """Read what filled it, and so many bytes more."""
        os.set_blocking(self._end, True)
        found = b""
        while len(found) < self._filled + count:
            found += os.read(self._end, 65536)
        return found[self._filled :]

    def close(self) -> None:
        os.close(self._end)


@contextmanager
def stalled(path: Path) -> Iterator[Stalled]:
    disk = Stalled(path)
    try:
        yield disk
    finally:
        disk.close()


def taken(writer: LogWriter, file: Path, content: bytes) -> None:
    """Wait until a file holds this."""
    wait_until(lambda: file.exists() and file.read_bytes() == content)
    assert file.read_bytes() == content
    assert writer.status()["lost_by"] == {}


def test_lines_keep_their_order_and_none_is_lost_at_a_stop(path: Path) -> None:
    writer = LogWriter(RotatingFile(path))
    for number in range(2000):
        writer.write(lines(2 * number, 2 * number + 1))
    writer.close()
    assert path.read_bytes() == b"".join(lines(*range(4000)))
    assert writer.status()["lost_lines"] == 0


def test_a_writer_that_never_wrote_makes_no_file_and_no_thread(path: Path) -> None:
    before = threading.active_count()
    writer = LogWriter(RotatingFile(path))
    writer.write([])
    assert threading.active_count() == before
    writer.close()
    assert not path.exists()


def test_who_writes_goes_on_while_the_disk_stalls_and_every_line_comes_in_the_end(path: Path) -> None:
    with stalled(path) as disk:
        writer = LogWriter(RotatingFile(path))
        for number in range(100):
            writer.write(lines(number))
        assert disk.flows(2500) == b"".join(lines(*range(100)))
        writer.close()
        assert writer.status()["lost_lines"] == 0


def test_what_a_full_queue_has_no_room_for_is_counted_and_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with stalled(path) as disk:
        writer = LogWriter(RotatingFile(path), queue_bytes=100)
        writer.write(lines(1, 2, 3))
        writer.write(lines(4, 5, 6))
        writer.write(lines(7))
        found = writer.status()
        assert (found["lost_by"], found["lost_lines"], found["queued_lines"]) == ({"queue full": 3}, 3, 4)
        assert "queue full" in writer.problem

        assert disk.flows(100) == b"".join(lines(1, 2, 3, 4))
        wait_until(lambda: writer.status()["queued_lines"] == 0)
        writer.write(lines(8))
        writer.close()
    assert writer.problem == ""
    assert caplog.messages == [
        "the disk is too slow for the verdict log, lines are lost: queue full",
        "mended: the verdict log has room again; lost so far: 3",
    ]


def test_a_disk_that_takes_nothing_for_long_is_a_problem_before_anything_is_lost(path: Path) -> None:
    now = [100.0]
    with stalled(path) as disk:
        writer = LogWriter(RotatingFile(path), monotonic=lambda: now[0])
        writer.write(lines(1))
        wait_until(lambda: writer.status()["queued_lines"] == 1)
        assert writer.problem == ""
        now[0] += 11
        wait_until(lambda: writer.problem != "")
        assert writer.problem == "the disk has taken nothing of the verdict log for more than 10 s"
        disk.flows(25)
        writer.close()
    assert writer.problem == ""


def test_a_stop_waits_for_a_stalled_disk_no_longer_than_it_may_and_says_what_is_lost(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with stalled(path) as disk:
        writer = LogWriter(RotatingFile(path))
        writer.write(lines(1, 2))
        writer.close(seconds=0.05)
        assert writer.status()["lost_by"] == {"stopped before it was written": 2}
        assert caplog.messages == ["the disk doesn't take the verdict log; lines lost at this stop: 2"]
        disk.flows(50)


def test_a_full_disk_is_said_once_with_its_reason_and_once_when_it_is_over(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path.symlink_to("/dev/full")
    writer = LogWriter(RotatingFile(path))
    for number in range(3):
        writer.write(lines(number))
        wait_until(lambda: writer.status()["queued_lines"] == 0)
    assert writer.status()["lost_by"] == {FULL: 3}
    assert writer.problem.endswith(FULL)
    path.unlink()
    writer.write(lines(3))
    writer.close()
    assert path.read_bytes() == b"".join(lines(3))
    assert writer.problem == ""
    assert caplog.messages == [
        f"lines of the verdict log are lost: [Errno 28] {FULL}",
        "mended: the verdict log is written again; lines lost so far: 3",
    ]


READ_ONLY = """
import sys
from pathlib import Path
from nfagent.edge.logfile import RotatingFile
from nfagent.edge.logwriter import LogWriter
writer = LogWriter(RotatingFile(Path(sys.argv[1]) / "policy_action.log"))
writer.write([b"a line\\n"])
writer.close()
print(writer.status()["lost_by"])
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


@pytest.mark.parametrize("moved", [True, False], ids=["a file that was moved", "a file that nobody moved"])
def test_a_reopened_log_goes_on_where_the_path_leads(path: Path, *, moved: bool) -> None:
    writer = LogWriter(RotatingFile(path))
    writer.write(lines(1))
    taken(writer, path, b"".join(lines(1)))
    if moved:
        path.rename(path.with_suffix(".old"))
    writer.reopen()
    wait_until(lambda: open_files(path) == 0)
    assert open_files(path) == 0
    writer.write(lines(2))
    writer.close()
    assert path.read_bytes() == b"".join(lines(2) if moved else lines(1, 2))


def open_files(path: Path) -> int:
    """Count this process's descriptors of a file, whatever it is called now."""
    return count(Path("/proc/self/fd").iterdir(), lambda link: str(link.readlink()).startswith(str(path.parent)))


def count(links: Iterator[Path], wanted: Callable[[Path], bool]) -> int:
    found = 0
    for link in links:
        try:
            found += wanted(link)
        except FileNotFoundError:
            continue
    return found
