"""Tables of iptables-legacy in a real kernel: any change of rules is noticed, and counters are none."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.kernel.xt_tables import table_digest, table_shape
from nfagent.model.netaddr import FAMILIES, Family
from tests.support.own_namespace import own_iptables

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

COMMANDS: dict[Family, str] = {4: "iptables-legacy", 6: "ip6tables-legacy"}
LOOPBACK: dict[Family, str] = {4: "127.0.0.1", 6: "::1"}
DOMAINS: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; the lock of iptables is this test's own."""
    with own_iptables("xttables", tmp_path, monkeypatch):
        yield


@pytest.fixture(params=FAMILIES, ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> Family:
    family: Family = request.param
    rules(family, "-N", "nfa-x")
    rules(family, "-A", "OUTPUT", "-j", "nfa-x")
    rules(family, "-A", "nfa-x", "-s", LOOPBACK[family], "-m", "mark", "--mark", "0x1/0x1", "-j", "RETURN")
    return family


def rules(family: Family, *arguments: str) -> None:
    subprocess.run([COMMANDS[family], "-t", "mangle", *arguments], check=True)


def send_to_loopback(family: Family) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with socket.socket(DOMAINS[family], socket.SOCK_DGRAM) as sender:
        sender.sendto(b"packet", (LOOPBACK[family], 9))


def test_a_digest_stays_while_packets_are_counted(family: Family) -> None:
    before = table_digest(family, "mangle")

    send_to_loopback(family)

    assert "[0:0]" not in saved_with_counters(family)
    assert table_digest(family, "mangle") == before


def saved_with_counters(family: Family) -> str:
    done = subprocess.run([f"{COMMANDS[family]}-save", "-c"], check=True, capture_output=True, text=True)
    return "".join(line for line in done.stdout.splitlines() if "-A OUTPUT" in line)


CHANGES = {
    "a flush": ("-F",),
    "a rule more": ("-A", "FORWARD", "-j", "DROP"),
    "another value of the same length": (
        *("-R", "nfa-x", "1", "-m", "mark", "--mark", "0x2/0x2", "-j", "RETURN", "-s"),
        "LOOPBACK",
    ),
    "another verdict of the same length": (
        *("-R", "nfa-x", "1", "-m", "mark", "--mark", "0x1/0x1", "-j", "DROP", "-s"),
        "LOOPBACK",
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_digest_changes_with(family: Family, change: tuple[str, ...]) -> None:
    before = table_digest(family, "mangle")

    rules(family, *(LOOPBACK[family] if word == "LOOPBACK" else word for word in change))

    assert table_digest(family, "mangle") != before


def test_a_shape_changes_with_the_number_of_rules_alone(family: Family) -> None:
    before = table_shape(family, "mangle")
    send_to_loopback(family)
    assert table_shape(family, "mangle") == before

    rules(family, "-A", "FORWARD", "-j", "DROP")

    after = table_shape(family, "mangle")
    assert before is not None
    assert after is not None
    assert after.entries == before.entries + 1


def test_a_table_that_is_absent_has_no_digest_and_is_not_made() -> None:
    assert (table_digest(4, "mangle"), table_shape(4, "mangle")) == (b"", None)
    assert Path("/proc/thread-self/net/ip_tables_names").read_text("ascii") == ""
