"""The journald sink: entries arrive at the socket, also large ones; a journald that is gone or stuck."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nfagent.verdicts.log_journald import JournalSink
from nfagent.verdicts.log_writer import LogWriter
from nfagent.verdicts.records import PolicyName, encode
from tests.support.journal_entries import decode_entry
from tests.support.packet_labs import wait_until
from tests.unit.verdicts.test_journal_entry import DENY

LINE = encode(DENY)
GONE = "No such file or directory"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


class Journal:
    """A socket as journald's, and what arrives there."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)

    def entry(self) -> dict[str, bytes]:
        """Return the next entry: a datagram's, or a sealed memory file's whose descriptor the datagram carries."""
        content, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        for _, _, rights in ancillary:
            (descriptor,) = array.array("i", rights)
            with os.fdopen(descriptor, "rb") as file:
                file.seek(0)
                content = file.read()
                with pytest.raises(PermissionError):
                    os.write(descriptor, b"sealed")
        return dict(decode_entry(content))


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.socket.close()


def test_each_record_is_an_entry(path: Path, journal: Journal) -> None:
    sink = JournalSink(path)
    sink.write([LINE, encode(msgspec.structs.replace(DENY, count=7))])
    assert [journal.entry()["NFAGENT_COUNT"] for _ in range(2)] == [b"3", b"7"]
    assert (sink.problem, sink.errors, sink.lost) == ("", 0, {})
    sink.close()


def test_an_entry_that_no_datagram_holds_arrives_whole(path: Path, journal: Journal) -> None:
    many = tuple(PolicyName(f"policy-{number:05}", "shop", "NetworkPolicy") for number in range(10_000))
    line = encode(msgspec.structs.replace(DENY, isolating_policies=many))
    sink = JournalSink(path)
    sink.write([line, LINE])
    assert journal.entry()["NFAGENT_RECORD"] == line.rstrip(b"\n")
    assert journal.entry()["NFAGENT_RECORD"] == LINE.rstrip(b"\n")
    assert sink.lost == {}
    sink.close()


def test_without_journald_lines_are_counted_and_it_is_written_again_once_it_is_back(path: Path) -> None:
    sink = JournalSink(path)
    sink.check()
    assert GONE in sink.problem
    sink.write([LINE, LINE])
    assert (sink.lost, sink.errors) == ({GONE: 2}, 1)
    back = Journal(path)
    sink.check()
    assert sink.problem == ""
    sink.write([LINE])
    assert back.entry()["NFAGENT_COUNT"] == b"3"
    back.socket.close()
    sink.write([LINE])
    assert sink.lost == {GONE: 2, "Connection refused": 1}
    assert "Connection refused" in sink.problem
    path.unlink()
    again = Journal(path)
    sink.write([LINE])
    assert again.entry()["NFAGENT_COUNT"] == b"3", "another socket at the same path is used"
    assert sink.problem == ""
    again.socket.close()
    sink.close()


def test_a_journald_that_does_not_read_delays_no_caller_and_loses_lines_by_number(path: Path, journal: Journal) -> None:
    now = [100.0]
    writer = LogWriter(JournalSink(path), queue_bytes=1000 * len(LINE), monotonic=lambda: now[0])
    for _ in range(3000):
        writer.write([LINE])
    wait_until(lambda: writer.status().queued_lines > 0)
    status = writer.status()
    assert status.lost_by.keys() == {"queue full"}
    assert writer.problem == (
        "systemd-journald is too slow for the verdict log in journald, lines are lost: queue full"
    )
    arrived = 0
    while arrived < 3000 - status.lost_lines:
        journal.entry()
        arrived += 1
    writer.close(30)
    assert writer.status().lost_by == status.lost_by
