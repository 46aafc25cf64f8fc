"""The demo has the expected results, and removes everything, also when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nfagent.lab.topology import netns
from tests.support.packet_labs import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("interruptible")]

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "nfagent", "lab", "demo"]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Return a folder with a short name: a unix socket below it has 107 bytes for its path."""
    with TemporaryDirectory(prefix="nfagent-test-") as folder:
        yield Path(folder)


@pytest.fixture
def demo(scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a demo that writes JSON; its files go into a folder of their own."""
    with subprocess.Popen(
        [*COMMAND, "-o", "json"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        if process.poll() is None:
            process.kill()


def namespaces(process: subprocess.Popen[str]) -> list[str]:
    return netns.named(netns.prefix("demo", process.pid))


def agents(folder: Path) -> list[int]:
    """Find processes whose manifests are below a folder: the demo's agents."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"nfagent" in command and any(part.startswith(os.fsencode(folder)) for part in command):
                found.append(int(entry.name))
    return found


def test_the_demo_has_the_expected_results_and_removes_everything(demo: subprocess.Popen[str], scratch: Path) -> None:
    output, said = demo.communicate(timeout=120)
    assert demo.returncode == 0, said
    result = json.loads(output)
    assert result["as_expected"], result
    assert [row["seen_as"] for row in result["masquerade"]] == ["192.0.2.1", "10.64.0.10", "2001:db8:ffff::1"]
    assert result["egress_nat"]["seen"] == {
        "shop/web": ["192.0.2.1", "10.64.0.10"],
        "shop/api": ["192.0.2.1", "192.0.2.1"],
    }
    assert {len(times) for times in result["latency_ms"].values()} == {20}
    assert (namespaces(demo), agents(scratch), list(scratch.iterdir())) == ([], [], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_demo_cleans_up(demo: subprocess.Popen[str], scratch: Path, number: signal.Signals) -> None:
    wait_until(lambda: len(agents(scratch)) == 2, seconds=30)
    assert len(namespaces(demo)) > 5
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert (namespaces(demo), agents(scratch), list(scratch.iterdir())) == ([], [], [])
