"""A latency run of tiny size has all samples, cleans up, and keeps what it has where it is interrupted."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfagent.lab.ebpf.check import ebpf_check
from nfagent.lab.latency.samples import SCENARIOS, LabSamples, Stage, read_samples
from nfagent.lab.topology import netns
from tests.support.packet_labs import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("interruptible")]

COMMAND = [sys.executable, "-m", "nfagent", "lab"]
TINY = ["--pods", "50", "--policies", "20", "--tries", "1"]
ALL: set[Stage] = {"source", "decode", "compile", "commit", "first_packet"}


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, "latency", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        if process.poll() is None:
            process.kill()


def left(pid: int) -> list[str]:
    folders = Path(tempfile.gettempdir()).glob(f"nfagent-latency-{pid}-*")
    return [*netns.named(netns.prefix("latency", pid)), *map(str, folders)]


def finished(process: subprocess.Popen[str], code: int) -> None:
    _, said = process.communicate(timeout=120)
    assert (process.returncode, left(process.pid)) == (code, []), said


@functools.cache
def paths() -> list[str]:
    lacks = any(check.result == "FAIL" for check in ebpf_check())
    return ["nftables"] if lacks else ["nftables", "ebpf"]


def test_a_run_has_samples_of_every_scenario_and_path_and_rates_and_cleans_up(tmp_path: Path) -> None:
    file = tmp_path / "samples.json"
    with running(*TINY, "--paths", "both" if len(paths()) > 1 else "nftables", "-o", str(file)) as process:
        finished(process, 0)
    samples = read_samples(file)
    found = {(series.scenario, series.path): series.tries for series in samples.series}
    assert found.keys() == {(scenario, path) for scenario in SCENARIOS for path in paths()}
    for (scenario, path), tries in found.items():
        for each in tries:
            assert each.latency_us is not None
            assert each.stages_us.keys() == ALL, (scenario, path)
            assert sum(each.stages_us.values()) == pytest.approx(each.latency_us)
    rates = {(rate.path, rate.quantity) for rate in samples.rates}
    measured = {"tcp_bits_per_second", "connections_per_second", "cpu_ns_per_packet"}
    assert rates == {(path, quantity) for path in (*paths(), "none") for quantity in measured} | {
        (path, "rss_bytes") for path in paths()
    }
    assert all(value > 0 for rate in samples.rates for value in rate.values)
    assert (samples.incomplete, samples.driver, {series.policies for series in samples.series}) == ("", "netns", {20})


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start a run of many scenarios; return it with the file of its samples, which has the first scenario by then."""
    file = tmp_path / "samples.json"
    with running(*TINY, "--tries", "3", "--paths", "nftables", "-o", str(file)) as process:
        wait_until(file.exists, seconds=90)
        yield process, file


def kept(file: Path) -> LabSamples:
    samples = read_samples(file)
    assert [(series.scenario, len(series.tries)) for series in samples.series][:1] == [("policy-created", 3)]
    return samples


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_keeps_its_samples_and_cleans_up(
    begun: tuple[subprocess.Popen[str], Path], number: signal.Signals
) -> None:
    process, file = begun
    process.send_signal(number)
    finished(process, 130)
    assert kept(file).incomplete == "interrupted"


def test_what_a_killed_run_leaves_is_removed_by_the_next_lab_down(begun: tuple[subprocess.Popen[str], Path]) -> None:
    process, file = begun
    process.kill()
    # It has ended, and has its process id still: until that is free, no lab of another test takes away what it left.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert left(process.pid)
    process.communicate(timeout=60)
    subprocess.run([*COMMAND, "down", f"none{os.getpid()}"], check=False, capture_output=True, timeout=60)
    wait_until(lambda: left(process.pid) == [])  # another one may be at it too
    assert kept(file).incomplete == "still running"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["--scenario", "pod-deleted"], "there is no scenario 'pod-deleted'; there are policy-", id="scenario"
        ),
        pytest.param(["--policies", "0,many"], "write numbers from 0 to 10000, like 0,1000,10000", id="no number"),
        pytest.param(["--policies", "10001"], "write numbers from 0 to 10000", id="too many policies"),
        pytest.param(["--policies", ""], "write numbers from 0 to 10000", id="no sizes"),
        pytest.param(["--pods", "15001"], "--pods 15001: write a number from 50 to 15000", id="too many Pods"),
        pytest.param(["--tries", "0"], "--tries 0: write a number from 1 to 10000", id="no tries"),
        pytest.param(["-o", "/no/such/folder/x.json"], "write a file in a folder that exists", id="no folder"),
    ],
)
def test_bad_input_is_named_before_anything_is_built(arguments: list[str], said: str) -> None:
    with running(*arguments) as process:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, left(process.pid)) == (2, "", [])
    assert said in errors


def test_without_a_compiler_the_run_names_the_package(tmp_path: Path) -> None:
    for name in ("ip", "nft", "setpriv"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        [*COMMAND, "latency", "--paths", "nftables"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(tmp_path)},
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "apt-get install gcc libc6-dev" in done.stderr


def test_check_lists_every_need_with_how_to_fix_it(tmp_path: Path) -> None:
    command = [*COMMAND, "check"]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2
    for fix in ("apt-get install iproute2 nftables util-linux", "apt-get install gcc libc6-dev", "clang"):
        assert fix in done.stdout
