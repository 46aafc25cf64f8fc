"""The early unit on a machine that boots: after the host's firewall, before the network, and before the agent."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfagent.checkpoint.ruleset_codec import SavedHeader, encode_batches, encode_saved
from nfagent.checkpoint.ruleset_file import write_saved
from nfagent.desired.state import DesiredState
from tests.support.nspawn_machine import CHECKOUT, NspawnMachine, debian_12
from tests.support.nspawn_service import COMMAND
from tests.support.two_node_cluster import decoded, node, pod, policy

pytestmark = pytest.mark.kernel

EARLY, FIREWALL = "nfagent-early.service", "nftables.service"
ENFORCED = "enforced until the agent has read the cluster: the saved ruleset of 20"


@contextmanager
def writable(root: Path, folder: Path) -> Iterator[Path]:
    """Mount a copy of a folder, whose changes are in another folder."""
    parts = {name: folder / name for name in ("upper", "work", "root")}
    for part in parts.values():
        part.mkdir()
    options = f"lowerdir={root},upperdir={parts['upper']},workdir={parts['work']}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(parts["root"])], check=True)
    try:
        yield parts["root"]
    finally:
        subprocess.run(["umount", str(parts["root"])], check=True)


def install(root: Path) -> None:
    """Install and enable the early unit and the host's firewall, with a saved ruleset of node a."""
    units = root / "etc/systemd/system"
    text = (CHECKOUT / "systemd" / EARLY).read_text("utf-8").replace("/opt/nfagent/bin/nfagent", str(COMMAND))
    (units / EARLY).write_text(text)
    wants = units / "sysinit.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / EARLY).symlink_to(f"/etc/systemd/system/{EARLY}")
    (wants / FIREWALL).symlink_to(f"/lib/systemd/system/{FIREWALL}")
    (root / "etc/nfagent").mkdir()
    (root / "etc/nfagent/nfagent.toml").write_text('node = "a"\n[policy]\nunknown_pods = "held"\n')
    (root / "opt/nfagent").mkdir(parents=True)
    desired = DesiredState("a")
    for document in (node("a"), pod("shop/web", "a", 10), policy("shop/closed")):
        desired.put(decoded(document))
    batches, content = encode_batches(desired.ruleset())
    header = SavedHeader(
        version="",
        node="a",
        boot_id="",
        written_at=time.time(),
        pod_ranges=("10.64.0.0/24",),
        holds_unknown=False,
        content=content,
    )
    write_saved(root / "var/lib/nfagent/saved-ruleset", encode_saved(header, batches))


@pytest.fixture(name="booted", scope="module")
def _booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NspawnMachine]:
    if os.geteuid() != 0:
        pytest.skip("needs root: systemd-nspawn")
    folder = tmp_path_factory.mktemp("early")
    with writable(debian_12(), folder) as root:
        install(root)
        with NspawnMachine(root, folder) as machine:
            yield machine


def seconds(machine: NspawnMachine, unit: str, name: str) -> float:
    return int(machine.run(f"systemctl show --value --property {name} {unit}")) / 1e6


def test_the_ruleset_is_in_the_kernel_before_the_network_and_after_the_firewall_s_flush(booted: NspawnMachine) -> None:
    assert booted.run(f"systemctl is-active {EARLY} {FIREWALL}").split() == ["active", "active"]
    assert {"table inet filter", "table inet nfagent"} <= set(booted.run("nft list tables").splitlines())
    assert "shop/closed" in booted.run("nft list table inet nfagent")
    began, ended = (seconds(booted, EARLY, f"ExecMain{word}TimestampMonotonic") for word in ("Start", "Exit"))
    assert seconds(booted, FIREWALL, "ExecMainExitTimestampMonotonic") <= began < ended
    assert ended <= seconds(booted, "network-pre.target", "ActiveEnterTimestampMonotonic")


def test_no_unit_failed_and_no_order_was_given_up(booted: NspawnMachine) -> None:
    assert booted.run("systemctl --failed --plain --no-legend").strip() == ""
    assert "ordering cycle" not in booted.run("journalctl --boot --output=cat")


def test_it_says_what_is_enforced_to_the_journal_and_to_the_agent(booted: NspawnMachine) -> None:
    said = booted.run(f"journalctl --boot --output=cat --unit={EARLY}")
    assert ENFORCED in said
    assert "unknown Pods of 10.64.0.0/24 are held" in said
    assert booted.json("cat /run/nfagent/restored")["rules"] == "saved"


def test_a_second_start_touches_nothing(booted: NspawnMachine) -> None:
    booted.run("nft add chain inet nfagent own")
    booted.run(f"systemctl restart {EARLY}")
    assert "table inet nfagent, which exists and stays as it is" in booted.run(
        f"journalctl --output=cat --unit={EARLY}"
    )
    assert "chain own" in booted.run("nft list table inet nfagent")


def test_a_refused_ruleset_is_a_failed_unit_with_the_reason(booted: NspawnMachine) -> None:
    booted.run("nft delete table inet nfagent; echo NFAGENT_NODE=b >/etc/default/nfagent")
    booted.run(f"systemctl restart {EARLY}", codes=(1,))
    assert "it is of node a, and this is node b" in booted.run(f"journalctl --output=cat --unit={EARLY}")
    assert "inet nfagent" not in booted.run("nft list tables")
