"""The live page in headless Chromium, of a node of a cluster of 5,000 Pods, while 100,000 records pass.

Served by `nfagent ui`, a process whose memory is measured, and by the agent's own event loop, whose longest turn is in
CPU time. Reading the kernel's counters isn't part of it: they come from an empty table.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from benchmarks.suites.introspection import MeteredLoop
from benchmarks.suites.operator_tools import agent_of, log_lines
from nfagent.clock import SystemClock
from nfagent.desired.state import DesiredState
from nfagent.errors import HostError
from nfagent.introspection.page.access import PageAccess
from nfagent.introspection.page.listener import PageListener
from nfagent.introspection.page.token_file import read_token
from nfagent.lab.objects.synthetic import Size, synthetic
from nfagent.model.listen_address import ListenAddress
from nfagent.system.gc_tuning import collect_and_freeze, relax_collection
from nfagent.verdicts.log_stream import RECENT_LINES, LogStream

_LONGEST_MS = 20
_BATCH = 250
_BATCH_SECONDS = 0.05
_ROWS = "#verdicts-table tbody tr"
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@bench("live-page", "the live page at 5,000 Pods and 100,000 records: until data is shown, the agent's turns, memory")
def live_page(run: Run) -> Iterator[Row]:
    """Open the page, let records pass, look at all of its views. Raises HostError without a browser."""
    chromium = shutil.which("chromium")
    if chromium is None or find_spec("playwright") is None:
        raise HostError("the page needs chromium and playwright", hint="make browser-test")
    from playwright.sync_api import sync_playwright

    cluster = synthetic(Size(5_000, 1_000, 60, 20), run.seed)
    desired = DesiredState(cluster.node)
    for item in cluster.items():
        desired.put(item)
    desired.ruleset()
    relax_collection()
    lines = log_lines(cluster, 10_000 if run.quick else 100_000, run.seed)
    collect_and_freeze()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        for served in (_by_command, _by_agent):
            with tempfile.TemporaryDirectory() as folder:
                stream = LogStream()
                stream.recent.add(lines[:RECENT_LINES])
                path = Path(folder) / "agent.sock"
                with agent_of(path, desired, stream) as (loop, routes), served(path, loop, routes) as page:
                    yield from _looked_at(run, browser, page, loop, stream, lines)
        browser.close()


class _Served:
    """A page that is served: by whom, its address, and the process of the command, if it is one."""

    def __init__(self, by: str, url: str, process: int = 0) -> None:
        self.by, self.url, self.process = by, url, process


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def _by_command(path: Path, _loop: MeteredLoop, _routes: Sequence[Any]) -> Iterator[_Served]:
    folders = {f"NFAGENT_{name}_DIR": str(path.parent) for name in ("RUNTIME", "LOG", "STATE")}
    command = [sys.executable, "-m", "nfagent", "ui", "--address", f"127.0.0.1:{_free_port()}"]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, env=os.environ | folders, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdout is None:
            raise HostError("nfagent ui has no stdout")
        yield _Served("nfagent ui", process.stdout.readline().strip(), process.pid)
        process.terminate()


@contextmanager
def _by_agent(path: Path, loop: MeteredLoop, routes: Sequence[Any]) -> Iterator[_Served]:
    address = ListenAddress("127.0.0.1", _free_port())
    listener = PageListener(address, path.parent, SystemClock())

    async def start() -> None:
        listener.start(routes)

    asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with socket.socket() as tried:
            if tried.connect_ex((address.host, address.port)) == 0:
                break
        time.sleep(0.02)
    yield _Served("the agent", PageAccess(read_token(path.parent), address).url)
    asyncio.run_coroutine_threadsafe(listener.close(), loop).result(30)


def _looked_at(  # noqa: PLR0917 - the browser, and what is measured
    run: Run, browser: Any, served: _Served, loop: MeteredLoop, stream: LogStream, lines: Sequence[bytes]
) -> Iterator[Row]:
    run.progress(f"served by {served.by}")
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    loop.longest = 0.0
    began = time.monotonic()
    page.goto(served.url)
    page.wait_for_selector(_ROWS)
    shown = time.monotonic() - began
    yield Row(name=f"until {RECENT_LINES:,} records are shown, by {served.by}", unit="s", values=[shown])
    yield _turn("while the page opens", served, loop)
    for first in range(RECENT_LINES, len(lines), _BATCH):
        loop.call_soon_threadsafe(stream.write, lines[first : first + _BATCH])
        page.wait_for_timeout(_BATCH_SECONDS * 1e3)
    yield _turn(f"while {len(lines) - RECENT_LINES:,} records pass", served, loop)
    page.wait_for_timeout(1000)
    said = page.inner_text("#stream-count")
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
    yield Row(name=f"JavaScript heap of the page then, by {served.by}", unit="MiB", values=[heap], note=said)
    for view, waited in (("picture", "#picture svg"), ("policies", "#policies-table tbody tr")):
        loop.longest, began = 0.0, time.monotonic()
        page.click(f"nav a[href='#{view}']")
        page.wait_for_selector(waited)
        took = time.monotonic() - began
        yield Row(name=f"until the {view} are there, by {served.by}", unit="s", values=[took])
        yield _turn(f"for the {view}", served, loop)
    page.click("nav a[href='#verdicts']")
    page.click(_ROWS)
    page.wait_for_selector("#detail ol")
    yield _turn("for an explanation", served, loop)
    page.context.close()
    if served.process:
        peak = _PEAK.search(Path(f"/proc/{served.process}/status").read_text(encoding="ascii"))
        if peak is not None:
            yield Row(name="memory of nfagent ui", unit="MiB", values=[int(peak[1]) / 1024])


def _turn(what: str, served: _Served, loop: MeteredLoop) -> Row:
    longest, loop.longest = loop.longest * 1e3, 0.0
    name = f"the agent's longest turn {what}, by {served.by}"
    return Row(name=name, unit="ms", values=[longest], targets=(at_most("max", _LONGEST_MS),))
