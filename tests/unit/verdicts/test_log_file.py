"""The rotating file: sizes, names and mode; moves by other programs; disks that refuse."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nfagent.verdicts.log_file import RotatingFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network" / "policy_action.log"


@pytest.fixture
def log(path: Path) -> Iterator[RotatingFile]:
    opened = RotatingFile(path, max_bytes=100, backups=3)
    yield opened
    opened.close()


def lines(*numbers: int) -> list[bytes]:
    """Lines of 25 bytes each: four fill a file of 100."""
    return [f"line {number:019}\n".encode() for number in numbers]


def text(*numbers: int) -> bytes:
    return b"".join(lines(*numbers))


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def test_folder_and_file_are_made_with_the_first_line_and_a_mode_that_the_umask_does_not_change(
    log: RotatingFile, path: Path
) -> None:
    assert not path.parent.exists()

    before = os.umask(0o077)
    try:
        log.write(lines(1))
    finally:
        os.umask(before)

    assert path.read_bytes() == text(1)
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_is_there_already_is_kept_with_its_mode(log: RotatingFile, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(text(1))
    path.chmod(0o604)

    log.write(lines(2))

    assert path.read_bytes() == text(1, 2)
    assert path.stat().st_mode & 0o777 == 0o604


def test_a_file_is_filled_to_the_byte_and_not_beyond(log: RotatingFile, path: Path) -> None:
    log.write(lines(1, 2, 3))
    log.write(lines(4))
    assert names(path) == ["policy_action.log"]

    log.write(lines(5))

    assert path.read_bytes() == text(5)
    assert path.with_name("policy_action.log.1").read_bytes() == text(1, 2, 3, 4)


def test_backups_are_numbered_by_age_and_the_oldest_goes(log: RotatingFile, path: Path) -> None:
    for number in range(0, 24, 4):
        log.write(lines(*range(number, number + 4)))

    assert names(path) == ["policy_action.log", *(f"policy_action.log.{age}" for age in (1, 2, 3))]
    assert path.read_bytes() == text(20, 21, 22, 23)
    assert path.with_name("policy_action.log.1").read_bytes() == text(16, 17, 18, 19)
    assert path.with_name("policy_action.log.3").read_bytes() == text(8, 9, 10, 11)


def test_size_and_number_of_files_can_be_changed_between_two_batches(log: RotatingFile, path: Path) -> None:
    log.write(lines(1, 2, 3, 4))
    log.limit(max_bytes=50, backups=1)
    log.write(lines(5, 6))
    log.write(lines(7, 8))
    assert names(path) == ["policy_action.log", "policy_action.log.1"]
    assert path.read_bytes() == text(7, 8)
    assert path.with_name("policy_action.log.1").read_bytes() == text(5, 6)


def test_a_batch_larger_than_a_file_is_spread_over_files(log: RotatingFile, path: Path) -> None:
    log.write(lines(*range(10)))

    assert path.read_bytes() == text(8, 9)
    assert path.with_name("policy_action.log.1").read_bytes() == text(4, 5, 6, 7)
    assert path.with_name("policy_action.log.2").read_bytes() == text(0, 1, 2, 3)


def test_a_line_larger_than_a_file_has_one_for_itself(log: RotatingFile, path: Path) -> None:
    long = b"x" * 300 + b"\n"

    log.write([*lines(1), long, *lines(2)])

    assert path.read_bytes() == text(2)
    assert path.with_name("policy_action.log.1").read_bytes() == long
    assert log.errors == 0


def test_no_backups_means_to_start_over(path: Path) -> None:
    log = RotatingFile(path, max_bytes=100, backups=0)

    log.write(lines(1, 2, 3, 4, 5))
    log.close()

    assert names(path) == ["policy_action.log"]
    assert path.read_bytes() == text(5)


def test_a_gap_in_the_backups_is_no_error(log: RotatingFile, path: Path) -> None:
    log.write(lines(*range(12)))
    path.with_name("policy_action.log.1").unlink()

    log.write(lines(12))

    assert names(path) == ["policy_action.log", "policy_action.log.1", "policy_action.log.3"]
    assert log.errors == 0


def test_a_deleted_file_is_created_again(log: RotatingFile, path: Path) -> None:
    log.write(lines(1))
    path.unlink()

    log.write(lines(2))

    assert path.read_bytes() == text(2)


def test_a_deleted_folder_is_created_again(log: RotatingFile, path: Path) -> None:
    log.write(lines(1))
    path.unlink()
    path.parent.rmdir()

    log.write(lines(2))

    assert path.read_bytes() == text(2)


def test_a_file_that_was_moved_gets_no_more_lines(log: RotatingFile, path: Path) -> None:
    log.write(lines(1))
    path.rename(path.with_name("moved"))

    log.write(lines(2))

    assert path.with_name("moved").read_bytes() == text(1)
    assert path.read_bytes() == text(2)


def test_a_file_put_in_its_place_is_used(log: RotatingFile, path: Path) -> None:
    log.write(lines(1))
    path.rename(path.with_name("moved"))
    path.write_bytes(text(7))

    log.write(lines(2))

    assert path.read_bytes() == text(7, 2)


def test_a_file_that_was_emptied_by_its_shipper_is_filled_from_its_start(log: RotatingFile, path: Path) -> None:
    log.write(lines(1, 2, 3, 4))
    os.truncate(path, 0)

    log.write(lines(5))

    assert names(path) == ["policy_action.log"]
    assert path.read_bytes() == text(5)


def test_reopen_closes_the_file_and_the_next_line_opens_it(log: RotatingFile, path: Path) -> None:
    log.write(lines(1))
    held = open_files(path)
    log.reopen()

    assert (held, open_files(path)) == (1, 0)
    log.write(lines(2))
    assert path.read_bytes() == text(1, 2)


def open_files(path: Path) -> int:
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            count += link.readlink() == path
    return count


RECORD = b'{"connection":{"src_ip":"10.0.0.1"}}\n'


@pytest.mark.parametrize("length", [1, 5, 14, 20, len(RECORD) - 1])
def test_of_a_record_that_a_crash_cut_short_only_spaces_are_left_and_it_is_counted(
    log: RotatingFile, path: Path, length: int
) -> None:
    path.parent.mkdir()
    path.write_bytes(RECORD + RECORD[:length])

    log.write([RECORD])

    older = path.with_name("policy_action.log.1")
    before = older.read_bytes() if older.exists() else b""
    assert before + path.read_bytes() == RECORD + b" " * length + b"\n" + RECORD
    assert (log.lost, log.errors, log.problem) == ({"cut short by a crash": 1}, 0, "")


@pytest.mark.parametrize(
    ("tail", "left", "lost"),
    [
        pytest.param(b'{"cut":', b'{"cut":', 0, id="text of another program is kept, and no record was lost"),
        pytest.param(b"\0" * 20, b" " * 20, 1, id="NULs that a power failure leaves are a record's"),
        pytest.param(b'{"connection":{"src_ip"\0\0', b" " * 25, 1, id="a record that ends in NULs"),
        pytest.param(b"others\0\0\0", b"others   ", 1, id="text of another program is kept before NULs"),
        pytest.param(b"a\0b", b"a\0b", 0, id="NULs within text of another program are its own"),
    ],
)
def test_the_end_of_a_file_without_a_newline(
    log: RotatingFile, path: Path, tail: bytes, left: bytes, lost: int
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(text(0) + tail)

    log.write([text(1)])

    assert path.read_bytes() == text(0) + left + b"\n" + text(1)
    assert log.lost == ({"cut short by a crash": lost} if lost else {})


def test_a_record_that_a_full_disk_cut_short_is_counted_once(path: Path) -> None:
    log = RotatingFile(path)

    with largest_file(60):
        log.write([RECORD, RECORD, RECORD])
    log.check()
    log.write([RECORD])
    log.close()

    assert path.read_bytes() == RECORD + b" " * (60 - len(RECORD)) + b"\n" + RECORD
    assert log.lost == {"File too large": 2}


ENDLESS = """
import sys
from pathlib import Path
from nfagent.verdicts.log_file import RotatingFile
log = RotatingFile(Path(sys.argv[1]), max_bytes=1_000_000, backups=1000)
number = 0
while True:
    batch = range(number, number + 50)
    log.write([b'{"connection":[%s,%d,"%s"]}\\n' % (sys.argv[2].encode(), n, b"x" * (n % 900)) for n in batch])
    number += 50
    if number == 100:
        print("writing", flush=True)
"""


def test_after_kill_9_in_the_middle_every_line_is_whole_and_in_order(path: Path) -> None:
    runs = 12
    for run in range(runs):
        command = [sys.executable, "-c", ENDLESS, str(path), str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
            assert process.stdout is not None
            process.stdout.readline()
            rotated = len(list(path.parent.iterdir()))
            while len(list(path.parent.iterdir())) == rotated:
                pass
            process.kill()
    ended = RotatingFile(path)
    ended.write([b'{"connection":[-1,0,""]}\n'])
    ended.close()
    found: dict[int, list[int]] = {}
    files = sorted(path.parent.iterdir(), key=lambda file: -int(file.suffix[1:]) if file.suffix[1:].isdigit() else 0)
    for line in b"".join(file.read_bytes() for file in files).splitlines(keepends=True):
        assert line.endswith(b"\n")
        if not line.isspace():
            run, number, _ = json.loads(line)["connection"]
            found.setdefault(run, []).append(number)
    assert list(found) == [*range(runs), -1]
    assert all(numbers == list(range(len(numbers))) for numbers in found.values())


def test_a_disk_that_refuses_lines_is_counted_not_raised(log: RotatingFile) -> None:
    with largest_file(0):
        log.write(lines(1, 2))
        log.write(lines(3))

    assert (log.errors, log.lost_lines) == (2, 3)
    assert "File too large" in log.last_error


def test_a_disk_that_fills_up_inside_a_line_loses_that_line_and_the_rest_and_recovers(path: Path) -> None:
    log = RotatingFile(path)

    with largest_file(60):
        log.write(lines(1, 2, 3, 4))
    assert (log.errors, log.lost_lines) == (1, 2)

    log.write(lines(5))
    log.close()

    assert path.read_bytes().splitlines(keepends=True) == [*lines(1, 2), lines(3)[0][:10] + b"\n", *lines(5)]
    assert log.errors == 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the kernel refuse what goes beyond `size` bytes of a file (EFBIG), as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_can_not_be_made_is_counted_not_raised(tmp_path: Path) -> None:
    (tmp_path / "network").write_bytes(b"a file where the folder should be")
    log = RotatingFile(tmp_path / "network" / "policy_action.log")

    log.write(lines(1, 2))

    assert (log.errors, log.lost_lines) == (1, 2)
    assert "network" in log.last_error


def test_an_empty_batch_makes_no_file(log: RotatingFile, path: Path) -> None:
    log.write([])

    assert not path.parent.exists()


def put_in_place(kind: str, path: Path, other: Path) -> None:
    match kind:
        case "a symbolic link":
            path.symlink_to(other)
        case "a file with several names":
            path.hardlink_to(other)
        case _:
            path.write_bytes(b"")
            os.chown(path, 65534, 65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user's file")
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775], ids=oct)
@pytest.mark.parametrize("kind", ["a symbolic link", "a file with several names", "a file of user 65534"])
def test_in_a_folder_that_others_may_write_to_no_line_goes_where_they_lead_it(
    log: RotatingFile, path: Path, tmp_path: Path, kind: str, mode: int
) -> None:
    other = tmp_path / "shadow"
    other.write_bytes(b"root\n")
    path.parent.mkdir()
    path.parent.chmod(mode)
    put_in_place(kind, path, other)
    log.check()
    said = f"there is {kind} in place of the log, in a folder that others may write to"
    assert said in log.problem, "before the first line too"
    log.write(lines(1))
    assert (other.read_bytes(), log.lost_lines) == (b"root\n", 1)
    assert said in log.problem
    path.unlink()
    log.write(lines(2))
    assert (path.read_bytes(), log.problem) == (text(2), "")


def test_a_link_to_another_disk_is_followed_in_a_folder_that_is_roots_alone(
    log: RotatingFile, path: Path, tmp_path: Path
) -> None:
    path.parent.mkdir(mode=0o755)
    path.symlink_to(tmp_path / "elsewhere.log")
    (tmp_path / "elsewhere.log").touch()
    log.write(lines(1))
    assert ((tmp_path / "elsewhere.log").read_bytes(), log.problem) == (text(1), "")
