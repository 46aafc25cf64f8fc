"""What a kernel lacks of iptables is named, and the rest works."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.backend_parts import BackendParts, RulesetClient
from nfagent.clock import SystemClock
from nfagent.config import Settings
from nfagent.desired.node_interfaces import NodeInterfaces
from nfagent.errors import HostError, KernelError
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.nft_monitor import NftMonitor
from nfagent.kernel.xt_boot import XtBoot
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_features import XtFeatures, kernel_options, open_xt_kernel
from nfagent.kernel.xt_programs import XtPrograms, programs_of
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.xtables.options import LoweringOptions, Unavailable
from tests.kernel.test_local_addresses import no_descriptor_left
from tests.support.own_namespace import own_iptables
from tests.support.two_node_cluster import TwoNodeCluster, namespace, pod, policy

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

# Stands for ip6tables-restore in a kernel without ip6table_nat.
WITHOUT_NAT = """#!/bin/sh
given=$(cat)
case $given in
*'*nat'*)
    echo "ip6tables-restore v1.8.9 (legacy): ip6tables-restore: unable to initialize table 'nat'" >&2
    exit 3
esac
printf '%s\\n' "$given" | exec {real} "$@"
"""


# Stands for iptables-restore in a kernel without a match or target.
WITHOUT = """#!/bin/sh
given=$(cat)
if printf '%s' "$given" | grep -qe '{pattern}'; then
    echo "{name} v1.8.9 (legacy): unknown option" >&2
    echo "Error occurred at line: 3" >&2
    exit 2
fi
printf '%s\\n' "$given" | exec {real} "$@"
"""


# Stands for iptables-restore of a node without memory.
SHORT = """#!/bin/sh
[ "$1" = --version ] && exec {real} "$@"
echo "{name}: line 2 failed: Memory allocation problem." >&2
exit 4
"""


# Stands for iptables-restore while another program holds the lock, in the runs whose numbers are given.
LOCKED = """#!/bin/sh
[ "$1" = --version ] && exec {real} "$@"
echo run >>{runs}
case " {numbers} " in *" $(wc -l <{runs}) "*)
    echo 'Another app is currently holding the xtables lock. Stopped waiting after 5s.' >&2
    exit 4
esac
exec {real} "$@"
"""


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with own_iptables("features", tmp_path, monkeypatch):
        yield


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> XtPrograms:
    """Return the programs of a kernel without table nat of IPv6."""
    name = "ip6tables-legacy-restore"
    program = tmp_path / name
    program.write_text(WITHOUT_NAT.format(real=shutil.which(name)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return programs_of("legacy")


def programs_without(pattern: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *commands: str) -> XtPrograms:
    """Return the programs of a kernel without a match or target; commands: those of one family, by default of both."""
    for command in commands or ("iptables", "ip6tables"):
        name = f"{command}-legacy-restore"
        program = folder / name
        program.write_text(WITHOUT.format(pattern=pattern, name=name, real=shutil.which(name)))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return programs_of("legacy")


def saved(command: str) -> str:
    return subprocess.run([f"{command}-legacy-save"], text=True, check=True, capture_output=True).stdout


def enforced(programs: XtPrograms) -> tuple[XtFeatures, tuple[Unavailable, ...]]:
    """Write a ruleset with all that the rules use; return what the kernel has, and what can't be had."""
    ports = [{"protocol": "SCTP", "port": 5000}, {"protocol": "TCP", "port": 80}]
    view = TwoNodeCluster(
        namespace("shop"), pod("shop/db", "a", 1), policy("shop/db", types=["Ingress"], ingress=[{"ports": ports}])
    ).views["a"]
    view.follow_links(NodeInterfaces(frozenset({"veth1"}), portless=True, bridged=True))
    wanted = view.ruleset()
    kernel, features = open_xt_kernel(programs)
    client = XtClient(kernel, lambda: wanted, kernel_options(LoweringOptions(), kernel, features))

    async def body() -> None:
        assert await client.difference(wanted) == diff(ABSENT, wanted)
        await client.apply(diff(ABSENT, wanted))
        assert await client.difference(wanted) == ()
        assert await client.read() == wanted

    try:
        asyncio.run(body())
    finally:
        client.close()
    return features, client.unavailable


@pytest.mark.parametrize(
    ("pattern", "lost", "is_named"),
    [
        pytest.param("-m rpfilter", "IPv4: of packets with a source that isn't their Pod's, only", True, id="rpfilter"),
        pytest.param("-m pkttype", "IPv6: packets for one host in frames for many", True, id="pkttype"),
        pytest.param("-m hl", "IPv6: isolated Pods have no neighbour discovery", True, id="hl"),
        pytest.param("-m length", "IPv6: isolated Pods have no neighbour discovery", True, id="length"),
        pytest.param("-m ipv6header", "IPv6: untracked packets are dropped", False, id="ipv6header"),
        pytest.param("-m sctp", "IPv4: SCTP is denied where a policy names its ports", True, id="sctp"),
        pytest.param("-j SET", "IPv4: tuples of ended connections", True, id="SET"),
        pytest.param("-m statistic", "IPv4: of several port ranges", False, id="statistic"),
        pytest.param("-j MASQUERADE", "IPv4: nothing is masqueraded", True, id="MASQUERADE"),
        pytest.param("random-fully", "IPv4: ports of masqueraded connections", False, id="random-fully"),
        pytest.param("-j SNAT", "IPv4: nothing has a fixed address outside", False, id="SNAT"),
        pytest.param("-j NFLOG", "IPv4: no verdict is logged", False, id="NFLOG"),
    ],
)
def test_without_a_match_or_target_the_rules_that_need_it_are_named_and_the_rest_is_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, lost: str, *, is_named: bool
) -> None:
    features, unavailable = enforced(programs_without(pattern, tmp_path, monkeypatch))

    assert any(problem.startswith(lost) for problem in features.problems), features.problems
    assert features.families == (4, 6)
    assert bool(unavailable) == is_named, unavailable
    assert "-A FORWARD -j nfa-" in saved("iptables")
    assert "-A FORWARD -j nfa-" in saved("ip6tables")


def test_without_a_match_that_all_rules_of_ipv6_need_ipv4_is_filtered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, _ = enforced(programs_without("-m addrtype", tmp_path, monkeypatch, "ip6tables"))

    assert features.families == (4,)
    [lost] = features.problems
    assert lost.startswith("IPv6 isn't filtered, masqueraded or logged: addrtype is needed: ")
    assert lost.endswith("; modprobe xt_addrtype")
    assert "-A FORWARD -j nfa-" in saved("iptables")
    assert "nfa-" not in saved("ip6tables")


def test_without_a_match_that_all_rules_of_ipv4_need_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HostError, match=r"addrtype is needed: .*; modprobe xt_addrtype"):
        enforced(programs_without("-m addrtype", tmp_path, monkeypatch))


def test_at_a_boot_without_the_target_that_logs_the_rules_are_written_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = programs_without("-j NFLOG", tmp_path, monkeypatch)
    view = TwoNodeCluster(namespace("shop"), pod("shop/db", "a", 1), policy("shop/db", types=["Ingress"])).views["a"]
    boot = XtBoot(programs, LoweringOptions())
    try:
        boot.write(view.ruleset())
        assert boot.has_rules()
    finally:
        boot.close()
    assert "NFLOG" not in saved("iptables")


def test_tables_that_come_to_be_as_rules_are_tried_are_named() -> None:
    made = [open_and_close().made for _ in range(2)]

    assert made == [
        ("mangle of IPv4", "mangle of IPv6", "nat of IPv4", "nat of IPv6", "raw of IPv4", "raw of IPv6"),
        (),
    ]


def open_and_close() -> XtFeatures:
    kernel, features = open_xt_kernel(programs_of("legacy"))
    kernel.close()
    return features


def test_a_table_that_one_family_lacks_takes_no_other_along(programs: XtPrograms) -> None:
    features, _ = enforced(programs)

    assert features.families == (4, 6)
    lost = (
        "IPv6: nothing is masqueraded or translated: ip6tables-legacy-restore: ip6tables-restore: unable to initialize "
        "table 'nat'; modprobe ip6table_nat, or run a kernel with CONFIG_IP6_NF_NAT"
    )
    assert lost in features.problems
    assert "-A POSTROUTING -j nfa-" in saved("iptables").partition("*nat")[2].partition("COMMIT")[0]
    assert "-A FORWARD -j nfa-" in saved("ip6tables")


def test_what_is_tried_leaves_nothing(programs: XtPrograms) -> None:
    kernel, _ = open_xt_kernel(programs)
    try:
        assert kernel.sets.names() == []
        assert kernel.accounts is None or list(kernel.accounts.read()) == []
    finally:
        kernel.close()
    assert "nfx-" not in saved("iptables") + saved("ip6tables")


@pytest.mark.parametrize("left", ["bitmap:port range 0-65535", "hash:ip,port"])
def test_what_an_agent_left_that_was_killed_as_it_tried_keeps_no_agent_from_starting(
    programs: XtPrograms, left: str
) -> None:
    kernel, _ = open_xt_kernel(programs)  # makes the tables
    kernel.close()
    kernel, expected = open_xt_kernel(programs)
    kernel.close()
    subprocess.run(["ipset", "create", "nfx-probe", *left.split()], check=True)
    accounts = NfacctSocket()
    accounts.create("nfx-probe")
    accounts.close()
    kernel, features = open_xt_kernel(programs)
    try:
        assert features == expected
        assert kernel.sets.names() == []
        assert kernel.accounts is not None
        assert list(kernel.accounts.read()) == []
    finally:
        kernel.close()


def test_rules_that_an_earlier_agent_left_in_iptables_are_known_at_the_start() -> None:
    view = TwoNodeCluster(namespace("shop"), pod("shop/db", "a", 1), policy("shop/db", types=["Ingress"])).views["a"]
    parts = BackendParts(
        Settings(backend="iptables"), view.ruleset, SystemClock(), NftMonitor(others_changed=lambda: None)
    )
    try:
        assert not parts.has_rules()
        asyncio.run(write(parts.client, view.ruleset()))
        assert parts.has_rules()
        by_nftables = BackendParts(
            Settings(backend="nftables"), view.ruleset, SystemClock(), NftMonitor(others_changed=lambda: None)
        )
        assert by_nftables.has_rules(), "they hold until those of the new backend do"
        by_nftables.close()
        programs = parts.choice.programs
        assert programs is not None
        for command in ("iptables", "ip6tables"):
            for table in ("raw", "mangle", "nat"):
                subprocess.run([f"{command}-{programs.variant}", "-t", table, "-F"], check=True)
        assert not parts.has_rules(), "the sets are there, and no rule that looks them up"
    finally:
        parts.close()


@pytest.mark.parametrize("numbers", ["1", "1 2 3", "3", "4"], ids=lambda numbers: f"in runs {numbers}")
def test_a_lock_that_is_held_at_the_start_is_waited_for_until_it_is_free(
    numbers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    subprocess.run(["iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"], check=True)  # tells the variant
    program = tmp_path / "iptables-legacy-restore"
    program.write_text(LOCKED.format(runs=tmp_path / "runs", numbers=numbers, real=shutil.which(program.name)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    view = TwoNodeCluster(namespace("shop"), pod("shop/db", "a", 1), policy("shop/db", types=["Ingress"])).views["a"]
    parts = BackendParts(
        Settings(backend="iptables"), view.ruleset, SystemClock(), NftMonitor(others_changed=lambda: None)
    )
    try:
        assert any("the xtables lock was held" in record.message for record in caplog.records)
        asyncio.run(write(parts.client, view.ruleset()))
        assert parts.has_rules()
    finally:
        parts.close()
    assert "nfx-" not in saved("iptables") + saved("ip6tables")


async def write(client: RulesetClient, wanted: Ruleset) -> None:
    await client.apply(await client.difference(wanted))


def test_a_shortage_at_the_start_does_not_count_as_a_kernel_without_ipv6_which_would_not_be_filtered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ip6tables-legacy-restore"
    program = tmp_path / name
    program.write_text(SHORT.format(name=name, real=shutil.which(name)))
    program.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(KernelError, match="Memory allocation problem"):
            open_xt_kernel(programs_of("legacy"))
    kernel, features = open_xt_kernel(programs_of("legacy"))
    kernel.close()
    assert features.families == (4, 6)


def test_a_program_that_no_descriptor_is_left_to_run_is_not_taken_for_missing() -> None:
    found = programs_of("legacy")
    with no_descriptor_left(), pytest.raises(KernelError, match="Too many open files"):
        found.restore(6, "*mangle\nCOMMIT\n")
