"""Sinks of the verdict log with real packets: file, a real journald, stdout, the stream; kill -9, moved folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest

from nfagent.errors import NfagentError
from nfagent.introspection.agent_client import get_json, get_lines
from nfagent.verdicts.log_journald import JournalSink
from nfagent.verdicts.records import PolicyName, encode
from tests.kernel.test_cli import DEADLINE, AgentSite, site
from tests.kernel.test_stalled_files import await_state, enforce, state
from tests.support.journald import journal_records, with_journald
from tests.support.packet_labs import wait_until
from tests.support.record_schema import check_line
from tests.unit.verdicts.test_journal_entry import DENY

__all__ = ["site"]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]
EVERY_PACKET = {"NFAGENT_LOGGING_AGGREGATION_SECONDS": "0", "NFAGENT_LOGGING_BURST": "1000000"}


@contextmanager
def agent(site: AgentSite, stdout: int = subprocess.DEVNULL, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an agent with a record for every denied packet, and wait until it is in sync."""
    environment = site.environment | EVERY_PACKET | {f"NFAGENT_LOGGING_{key}": text for key, text in settings.items()}
    command = [sys.executable, "-m", "nfagent", *site.running]
    with subprocess.Popen(command, env=environment, stdout=stdout, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: is_synced(site))
            yield process
        finally:
            process.kill()


def is_synced(site: AgentSite) -> bool:
    with suppress(NfagentError):
        return bool(get_json(site.socket, "/v1/dump/state", {})["agent"]["reconcile"]["in_sync"])
    return False


def drop_packets(site: AgentSite, first: int, count: int) -> None:
    """Send a datagram to each of so many ports of the node, which the Pod's policy denies."""
    program = (
        "import socket\n"
        "opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for port in range({first}, {first + count}): opened.sendto(b'x', ('10.0.0.254', port))\n"
    )
    subprocess.run([*site.in_pod, sys.executable, "-c", program], check=True, timeout=60)


def ports(lines: list[bytes]) -> list[int]:
    return [json.loads(check_line(line))["connection"]["dest_port"] for line in lines if not line.isspace()]


def log(site: AgentSite) -> Path:
    return site.folder / "log" / "policy_action.log"


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def reached(path: Path, enough: int) -> bool:
    return size(path) >= enough


def logged(site: AgentSite) -> list[bytes]:
    return log(site).read_bytes().splitlines(keepends=True) if log(site).exists() else []


def test_file_journald_stdout_and_stream_get_the_same_records(site: AgentSite) -> None:
    streamed: list[bytes] = []
    printed: list[bytes] = []

    def read_stream() -> None:
        # With the records of before: the first may be made before the agent has this reader.
        lines = get_lines(site.socket, "/v1/records", {"last": "all"})
        streamed.extend(line for line in lines if not line.isspace())

    def read_stdout(reader: int) -> None:
        with os.fdopen(reader, "rb") as lines:
            printed.extend(lines)

    def body() -> None:
        reader, writer = os.pipe()
        with agent(site, writer, SINKS="file,journald,stdout") as process:
            os.close(writer)
            reading = [threading.Thread(target=read_stream), threading.Thread(target=read_stdout, args=(reader,))]
            for thread in reading:
                thread.start()
            drop_packets(site, 1000, 1)
            wait_until(lambda: bool(streamed))
            drop_packets(site, 1001, 199)
            wait_until(lambda: len(logged(site)) == 200)
            wait_until(lambda: len(journal_records()) == 200)
            sinks = state(site)["verdict_log"]["sinks"]
            assert {name: found["lost_lines"] for name, found in sinks.items()} == {
                "file": 0,
                "journald": 0,
                "stdout": 0,
                "stream": 0,
            }
            assert "journald; stdout" in site.said("dump", "state")
            process.terminate()
            for thread in reading:
                thread.join(30)
        assert ports(logged(site)) == list(range(1000, 1200))
        assert printed == logged(site)
        assert streamed == logged(site)
        entries = journal_records()
        assert [entry["NFAGENT_RECORD"].encode() + b"\n" for entry in entries] == printed
        assert entries[0]["MESSAGE"] == "deny egress shop/web -> 10.0.0.254:1000/udp by NetworkPolicy shop/web"

    with_journald(body)


def test_a_real_journal_keeps_hostile_names_in_their_fields_and_large_records_whole() -> None:
    name = "db\nPRIORITY=0\nMESSAGE=forged\x1b[2J"
    hostile = msgspec.structs.replace(DENY, dest=msgspec.structs.replace(DENY.dest, pod_name=name))
    many = tuple(PolicyName(f"policy-{number:05}", "shop", "NetworkPolicy") for number in range(10_000))
    lines = [encode(hostile), encode(msgspec.structs.replace(DENY, isolating_policies=many))]

    def body() -> None:
        sink = JournalSink()
        sink.write(lines)
        sink.close()
        assert sink.lost == {}
        wait_until(lambda: len(journal_records()) == 2)
        first, second = journal_records()
        assert bytes(first["NFAGENT_DEST_POD"]).decode() == name
        assert first["PRIORITY"] == "6"
        assert first["MESSAGE"].startswith("deny ingress fd00::1 -> shop/db\\nPRIORITY=0\\nMESSAGE=forged\\x1b[2J:5432")
        assert second["NFAGENT_RECORD"].encode() + b"\n" == lines[1]

    with_journald(body)


def test_a_reader_of_stdout_that_is_stuck_delays_neither_policies_nor_the_file(site: AgentSite) -> None:
    reader, writer = os.pipe()
    try:
        with agent(site, writer, SINKS="stdout,file") as process:
            drop_packets(site, 1000, 2000)
            wait_until(lambda: len(logged(site)) == 2000)
            # A line counts as queued until its write has returned.
            found = await_state(site, lambda found: not found["verdict_log"]["sinks"]["file"]["queued_lines"])
            assert found["verdict_log"]["sinks"]["stdout"]["queued_lines"] > 0
            enforce(site, 5433)
            process.terminate()
            assert process.wait(DEADLINE) == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_after_kill_9_while_records_are_written_no_line_is_torn_and_the_next_agent_goes_on(site: AgentSite) -> None:
    for run in range(3):
        first = 1000 + run * 20_000
        with agent(site) as process:
            enough = size(log(site)) + 50_000
            flood = threading.Thread(target=drop_packets, args=(site, first, 20_000))
            flood.start()
            wait_until(partial(reached, log(site), enough))
            process.kill()
            process.wait(30)
            flood.join(60)
    with agent(site):
        drop_packets(site, 65_000, 1)
        wait_until(lambda: b'"dest_port":65000' in log(site).read_bytes())
    assert all(line.endswith(b"\n") for line in logged(site))
    found = ports(logged(site))
    assert found[-1] == 65_000
    assert len(set(found)) == len(found), "each packet has one record"


def test_a_log_folder_that_is_moved_and_made_anew_gets_the_following_records(site: AgentSite) -> None:
    with agent(site):
        drop_packets(site, 1000, 2)
        wait_until(lambda: len(logged(site)) == 2)
        (site.folder / "log").rename(site.folder / "moved")
        drop_packets(site, 1002, 2)
        wait_until(lambda: len(logged(site)) == 2)
        (site.folder / "log").rename(site.folder / "moved too")
        (site.folder / "log").mkdir(mode=0o700)
        drop_packets(site, 1004, 2)
        wait_until(lambda: len(logged(site)) == 2)
        assert log(site).stat().st_mode & 0o777 == 0o640
        assert state(site)["verdict_log"]["lost_lines"] == 0
    folders = ("moved", "moved too", "log")
    assert [ports((site.folder / name / "policy_action.log").read_bytes().splitlines()) for name in folders] == [
        [1000, 1001],
        [1002, 1003],
        [1004, 1005],
    ]
