"""One agent a table: who has the claim keeps it until it ends, however often somebody asks who that is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from nfagent.edge.claim import claim_table, holder
from nfagent.errors import MachineError

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
DEADLINE = 20


@pytest.fixture(autouse=True)
def _nobody_elses(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("kernel") is None and holder() not in {None, os.getpid()}:
        pytest.skip("an agent runs in this network namespace")


@contextmanager
def claimed_elsewhere() -> Iterator[int]:
    """Let another process have the claim; give its id."""
    program = "from nfagent.edge.claim import claim_table; c = claim_table(); print('claimed', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"claimed\n"
            yield process.pid
        finally:
            process.kill()
            process.wait(DEADLINE)


def test_without_a_claim_nobody_is_the_holder() -> None:
    assert holder() is None


def test_a_claim_holds_until_it_is_closed() -> None:
    with closing(claim_table()):
        assert holder() == os.getpid()
        with pytest.raises(MachineError, match=f"another agent keeps table inet nfagent .* process {os.getpid()}; "):
            claim_table()
    assert holder() is None
    claim_table().close()


def test_another_process_is_named_with_what_to_do() -> None:
    with claimed_elsewhere() as process:
        assert holder() == process
        with pytest.raises(MachineError) as caught:
            claim_table()
        assert str(caught.value) == (
            f"another agent keeps table inet nfagent in this network namespace: process {process}; "
            f"stop it (systemctl stop nfagent, or kill {process}), then start again"
        )


def test_a_claim_is_gone_with_its_process_however_that_ends() -> None:
    with claimed_elsewhere() as process:
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        assert holder() is None
        claim_table().close()


def test_the_holder_is_named_however_often_somebody_asks() -> None:
    with closing(claim_table()):
        assert {holder() for _ in range(12)} == {os.getpid()}


def test_a_refused_claim_leaves_no_socket_open() -> None:
    with closing(claim_table()):
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a folder of the kernel's
        with pytest.raises(MachineError):
            claim_table()
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def elsewhere(ask: Callable[[], T]) -> T:
    """Ask from a network namespace of the asker's own, which ends with its thread."""
    answers: list[T] = []

    def run() -> None:
        libc_unshare(CLONE_NEWNET)
        answers.append(ask())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(DEADLINE)
    return answers[0]


def libc_unshare(flags: int) -> None:
    import ctypes  # noqa: PLC0415 - Python has os.unshare from 3.12 on

    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


@pytest.mark.kernel
def test_every_network_namespace_has_a_claim_of_its_own() -> None:
    with closing(claim_table()):
        assert elsewhere(holder) is None
        with closing(elsewhere(claim_table)) as other:
            assert isinstance(other, socket.socket)
            assert holder() == os.getpid()
