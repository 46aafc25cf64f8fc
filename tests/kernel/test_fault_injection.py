"""One fault of each kind, put into a running agent's calls under traffic; `make faults` has all of them, many times."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nfagent.cli import INTERRUPTED
from nfagent.errors import KernelError
from nfagent.kernel.backend_choice import BackendName
from nfagent.lab.machine.patience import patient
from nfagent.lab.topology import netns
from tests.fault_injection import crashes
from tests.fault_injection.catalogue import faults_of
from tests.fault_injection.fault import Fault
from tests.fault_injection.fault_table import Action, Call, Kind, Rule
from tests.fault_injection.lab import FaultLab, fault_lab
from tests.fault_injection.streams import Streams
from tests.fault_injection.trial import Trial

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, for the library that injects faults"),
]

RESUBSCRIBE_SECONDS = 20.0
"""Far above the second after which the agent opens another socket, far below the minute of its other checks."""

ENDED_SECONDS = patient(60.0)
SHARED_PORT = 31_000
"""Of two clients; beyond the ports that connections get otherwise."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, backend: BackendName) -> Iterator[FaultLab]:
    with fault_lab(tmp_path_factory.mktemp("faults"), backend) as running:
        yield running


@pytest.mark.both_backends(asked=True)
@pytest.mark.parametrize(
    ("of_nftables", "of_iptables"),
    [
        pytest.param("commit: refused by EBUSY", "set change: refused by EBUSY", id="the kernel refuses changes"),
        pytest.param("commit: refused by ENOMEM", "iptables-restore: refuses", id="there is no memory for rules"),
        pytest.param(
            "commit: the reply is lost (ENOBUFS)", "iptables-restore: changes, and fails", id="a change isn't confirmed"
        ),
        pytest.param(
            "listing: no descriptor (EMFILE)", "iptables-save: prints a part", id="the rules can't be read, or in part"
        ),
        pytest.param(
            "notifications: the socket fails (ENOMEM)",
            "look: sets can't be listed (ENOMEM)",
            id="changes by others can't be seen",
        ),
        pytest.param(
            "notifications: the event loop can watch no descriptor more (ENOSPC)",
            "look: sets can't be listed (ENOMEM)",
            id="notifications and manifests can't be watched",
        ),
        pytest.param(
            "counters: refused by EPERM", "set listing: the reply is cut short", id="packet counters can't be read"
        ),
    ],
)
def test_no_packet_meets_a_wrong_verdict_where_the_backend_fails(
    lab: FaultLab, of_nftables: str, of_iptables: str
) -> None:
    try_fault(lab, of_nftables if lab.backend == "nftables" else of_iptables)


@pytest.mark.both_backends(asked=True)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("conntrack: the reply is lost (ENOBUFS)", id="replies of conntrack are lost"),
        pytest.param("NFLOG: records are cut short", id="packets of NFLOG are cut short"),
        pytest.param("manifest: reading fails with EIO", id="the disk fails under a manifest"),
        pytest.param("own socket: accepting fails with EMFILE", id="no descriptor is left for a request"),
        pytest.param("wall clock: 5 hours back, and again", id="the wall clock jumps"),
    ],
)
def test_no_packet_meets_a_wrong_verdict_and_the_agent_recovers_after(lab: FaultLab, name: str) -> None:
    try_fault(lab, name)


def try_fault(lab: FaultLab, name: str) -> None:
    agent = lab.agent
    every = faults_of(
        lab.manifests, agent.state_dir, agent.log_dir, agent.socket, agent.notify_path, backend=lab.backend
    )
    fault = next(fault for fault in every if fault.name == name)
    found = Trial(lab, fault).run()
    assert (found.wrong, found.failed) == ([], [])


@pytest.mark.both_backends(asked=True)
def test_no_packet_meets_a_wrong_verdict_when_the_agent_is_killed_right_after_its_commit(lab: FaultLab) -> None:
    sync = next(one for one in crashes.syncs(lab) if one.name == "policy changed")
    kind = Kind.NFT_COMMIT if lab.backend == "nftables" else Kind.IPSET
    commit = Rule(calls=Call.SEND, kinds=kind, action=Action.COUNT)
    found = crashes.crash(lab, crashes.Step(sync=sync, counted=commit, what="commit", number=0))
    assert found is not None, "the agent was never killed"
    assert (found.wrong, found.failed) == ([], [])


@pytest.mark.parametrize(
    ("damage", "repair", "expected"),
    [
        pytest.param("delete table inet nfagent", "", "forbidden new to port 8001: ", id="pass though forbidden"),
        pytest.param(
            "add table ip stranger; add chain ip stranger c { type filter hook forward priority 0; policy drop; }",
            "delete table ip stranger",
            "allowed new to port 8001: ",
            id="are missing though allowed",
        ),
    ],
)
def test_a_try_finds_packets_that(lab: FaultLab, damage: str, repair: str, expected: str) -> None:
    lab.place(lab.scene.before)
    lab.settle()
    with Streams(lab.scene.flows) as streams:
        os.kill(lab.agent.pid, signal.SIGSTOP)
        try:
            before = streams.packets
            lab.nft(damage)
            lab.agent.wait_until(lambda: streams.packets > before + 600, "packets are sent", RESUBSCRIBE_SECONDS)
        finally:
            os.kill(lab.agent.pid, signal.SIGCONT)
            if repair:
                lab.nft(repair)
        lab.settle()
        streams.stop()
        assert streams.wrong_packets > 0
        assert any(line.startswith(expected) for line in streams.wrong()), streams.wrong()


def test_two_clients_with_the_same_port_are_not_counted_for_each_other(lab: FaultLab) -> None:
    lab.place(lab.scene.before)
    lab.settle()
    flows = tuple(msgspec.structs.replace(flow, client_port=SHARED_PORT) for flow in lab.scene.flows)
    allowed, forbidden = flows[0], flows[2]
    with Streams((allowed, forbidden)) as streams:
        streams.stop()
        assert (streams.wrong(), streams.packets > 0) == ([], True)


def test_a_try_whose_packets_end_early_is_not_taken_for_right(lab: FaultLab) -> None:
    with Streams(lab.scene.flows) as streams:
        assert streams.sender_pid
        os.kill(streams.sender_pid, signal.SIGKILL)
        streams.stop()
        with pytest.raises(KernelError, match="the sender of packets ended early"):
            streams.wrong()


def test_an_agent_that_ends_during_a_try_is_a_failure_though_it_is_started_again(lab: FaultLab) -> None:
    kills = Rule(calls=Call.OPEN, kinds=Kind.FILES, action=Action.KILL, path=str(lab.manifests / "policy.yaml"), most=1)
    found = Trial(lab, Fault(name="the agent ends", boundary="process", rules=(kills,))).run()
    assert found.wrong == []
    assert any(line.startswith("the agent ended 1 times") for line in found.failed), found.failed


def test_a_socket_for_notifications_that_failed_is_opened_again_within_seconds(lab: FaultLab) -> None:
    def listening() -> bool:
        return bool(lab.agent.state()["agent"]["drift"]["listening"])

    def noticed() -> int:
        return lab.agent.stderr_text.count("cannot read nf_tables notifications: ")

    fails = Rule(calls=Call.RECV, kinds=Kind.NFT_EVENTS, action=Action.FAIL, error=errno.ENOMEM, most=1)
    assert listening()
    before = noticed()
    with lab.table.armed(fails):
        lab.nft("add set inet nfagent stranger { type ipv4_addr; }")
        # By the log: the second without a socket may be over before it is looked at.
        lab.agent.wait_until(lambda: noticed() > before, "the failed socket is noticed", RESUBSCRIBE_SECONDS)
        lab.agent.wait_until(listening, "another socket is opened", RESUBSCRIBE_SECONDS)
    lab.settle()
    assert lab.agent.ask("/v1/dump/diff")["equal"]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return a folder whose path leaves room for that of a unix socket, of 107 bytes, below it."""
    with tempfile.TemporaryDirectory(prefix="nfi-") as folder:
        yield Path(folder)


def test_an_interrupted_run_removes_its_labs(short_folder: Path) -> None:
    # So many tries that it still runs when it is interrupted.
    command = [sys.executable, "-m", "tests.fault_injection", "--only", "commit: refused by EBUSY", "--times", "100"]
    environment = os.environ | {"TMPDIR": str(short_folder)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout is not None
        try:
            assert "0 wrong" in run.stdout.readline()
            threads = Path(f"/proc/{run.pid}/task").iterdir()
            parts = [part for thread in threads for part in (thread / "children").read_text("ascii").split()]
            made = [name for part in parts for name in netns.named(netns.prefix("faults", int(part)))]
            run.terminate()
            assert run.wait(ENDED_SECONDS) == INTERRUPTED
        finally:
            run.kill()
    assert made
    assert [name for name in made if (netns.RUN / name).exists()] == []
    assert list(short_folder.iterdir()) == []
