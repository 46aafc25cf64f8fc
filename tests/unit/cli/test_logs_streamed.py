"""nfagent logs -f over the agent's socket, where the settings write no file."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from nfagent.config import load_settings
from nfagent.introspection import http_server
from nfagent.introspection.record_route import record_routes
from nfagent.verdicts.log_stream import LogStream
from nfagent.verdicts.records import encode
from tests.support.packet_labs import wait_until
from tests.unit.cli.called import Call
from tests.unit.cli.test_logs import numbers, read_numbers, record, write
from tests.unit.introspection.test_http_server import Told

DEADLINE = 60.0


@pytest.fixture(autouse=True)
def _no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFAGENT_LOGGING_SINKS", "journald")


class Agent:
    """A stream of records on an event loop of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stream = LogStream(queue_bytes=5000)
        self._loop = loop

    def call(self, action: Callable[[], object]) -> None:
        """Call on the loop, and wait until it was."""

        async def called() -> None:
            action()

        asyncio.run_coroutine_threadsafe(called(), self._loop).result(30)

    def write(self, *ports: int) -> None:
        """Stream records, at once."""
        self.call(lambda: self.stream.write([encode(record(port)) for port in ports]))


@contextmanager
def agent() -> Iterator[Agent]:
    """Serve a stream at the socket that commands connect to."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made = Agent(loop)
    serve = http_server.serve(load_settings().socket_path, Told(), routes=record_routes(made.stream))
    serving = asyncio.run_coroutine_threadsafe(serve, loop).result(30)
    try:
        yield made
    finally:
        made.call(made.stream.close)
        asyncio.run_coroutine_threadsafe(serving.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def following(*options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "nfagent", "logs", "-f", "-o", "json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_new_records_are_shown_and_filtered() -> None:
    with agent() as made, following("--verdict", "allow") as process:
        wait_until(lambda: made.stream.readers == 1, DEADLINE)
        made.write(1, 2)
        assert read_numbers(process, 2) == [1, 2]
        made.call(lambda: made.stream.write([encode(record(3, denied=True)), encode(record(4))]))
        assert read_numbers(process, 1) == [4]


def test_a_gap_is_reported_beside_the_records() -> None:
    with agent() as made, following() as process:
        wait_until(lambda: made.stream.readers == 1, DEADLINE)
        made.write(*range(100))
        made.write(100)
        assert process.stderr is not None
        warning = process.stderr.readline()
        lost = int(warning.split()[1])
        assert warning == f"warning: {lost} records not shown: read too slowly\n"
        shown = read_numbers(process, 101 - lost)
        assert shown in (list(range(101 - lost)), [*range(100 - lost), 100])


def test_following_goes_on_with_the_next_agent() -> None:
    with ExitStack() as kept:
        with agent() as made:
            process = kept.enter_context(following())
            wait_until(lambda: made.stream.readers == 1, DEADLINE)
            made.write(1)
            assert read_numbers(process, 1) == [1]
        assert process.stderr is not None
        assert "the agent stopped; waiting for the next one" in process.stderr.readline()
        made = kept.enter_context(agent())
        wait_until(lambda: made.stream.readers == 1, DEADLINE)
        made.write(2)
        assert read_numbers(process, 1) == [2]


def test_without_an_agent_it_is_an_error(call: Call) -> None:
    said = call("logs", "-f")
    assert said.code == 2
    assert "no agent listens at" in said.err


def test_without_f_the_settings_and_what_to_do_are_named(call: Call) -> None:
    said = call("logs")
    assert said.code == 2
    assert "the settings write no log file: logging.sinks has none" in said.err
    assert "`nfagent logs -f` shows new records" in said.err


def test_a_file_that_is_named_is_read_all_the_same(call: Call, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere.log", record(7))
    assert numbers(call("logs", "--file", tmp_path / "elsewhere.log", "-o", "json").out) == [7]
