"""Verdict records of packets: attributed, none lost, switched on by the NetworkLogging object."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.probes.listeners import Endpoint, ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import OutsideHost, grid
from nfagent.verdicts.attribution import OTHER_HOOK, OTHER_POD
from nfagent.verdicts.records import Record, decode
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    logging_document,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)

pytestmark = pytest.mark.kernel

NODES, PODS, _ = grid()
OUTSIDE = OutsideHost("outside", ("198.51.100.10", "2001:db8:99::10"))
PORTS: list[tuple[ProbeProtocol, int]] = [("tcp", 80), ("udp", 80), ("sctp", 80), ("icmp", 0)]
SUBJECT = {"matchLabels": {"pod": "a"}}
FROM_Y = policy_document(
    "x", "from-y", podSelector=SUBJECT, ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}]
)
FROM_B = policy_document(
    "x",
    "from-b",
    podSelector=SUBJECT,
    ingress=[{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "b"}}}]}],
)
ROUTER = """table ip router {
  chain c { type filter hook prerouting priority -200; log prefix "DROP by x/y" group 100; }
}"""
COPIES = """table inet copies {
  chain early { type filter hook prerouting priority -200; %(ip)s daddr %(address)s log prefix "%(allow)s" group 100; }
  chain late { type filter hook postrouting priority 200; %(ip)s daddr %(address)s log prefix "%(deny)s" group 100; }
  chain here { type filter hook forward priority 5; %(ip)s daddr != %(address)s log prefix "%(deny)s" group 100; }
}"""
CONNECT = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_STREAM)
sock.settimeout(3.5)
try:
    sock.connect((sys.argv[1], 80))
except TimeoutError:
    pass
"""
ECHO = """
import socket, struct, sys, time
if ":" in sys.argv[1]:
    sock, kind = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6), 128
else:
    sock, kind = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), 8
for number in range(5):
    message = struct.pack("!BBHHH", kind, 0, 0, 7, number)
    checksum = 0xFFFF - (kind * 256 + 7 + number)
    sock.sendto(message[:2] + struct.pack("!H", checksum) + message[4:], (sys.argv[1], 0))
    time.sleep(0.05)
"""
FLOOD = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
count, per_second = int(sys.argv[2]), int(sys.argv[3])
start = time.monotonic()
for number in range(count):
    due = start + number / per_second
    while time.monotonic() < due:
        pass
    sock.sendto(b"x", (sys.argv[1], 9))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[ManifestLab]:
    documents = [*map(namespace_document, "yz"), *map(pod_document, PODS)]
    with running_lab(
        tmp_path_factory.mktemp("lab"), NODES, PODS, (OUTSIDE,), documents=documents, backend=backend
    ) as running:
        running.servers.listen(pod_endpoints(running.topology, PORTS))
        name = running.topology.outside_namespace("outside")
        running.servers.listen(Endpoint(name, address, "tcp", 80) for address in OUTSIDE.addresses)
        running.apply("enforced", namespace_document("x"))
        running.apply("policies", FROM_Y, FROM_B)
        yield running


def agent(lab: ManifestLab) -> LabAgent:
    return lab.cluster.agent(lab.topology.pods["x", "a"].node)


def records(lab: ManifestLab) -> list[Record]:
    log = agent(lab).verdict_log
    # The last line may still be written.
    return [decode(line) for line in log.read_bytes().split(b"\n")[:-1]] if log.exists() else []


ONCE = 0.15
"""A deadline of probes that are sent once: a second connection would be a second record."""


def fresh(lab: ManifestLab, count: int, act: Callable[[], object]) -> list[Record]:
    """Return the records that an act brings about; `count` of them are waited for."""
    known = len(records(lab))
    act()
    wait_until(lambda: len(records(lab)) >= known + count)
    return records(lab)[known:]


def switch(lab: ManifestLab, *, allow: bool, deny: bool) -> None:
    lab.apply("logging", logging_document(allow=allow, deny=deny))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("protocol", "port"), PORTS)
@pytest.mark.both_backends
def test_a_denied_packet_names_its_ends_and_the_isolating_policies(
    lab: ManifestLab, protocol: ProbeProtocol, port: int, family: int
) -> None:
    switch(lab, allow=False, deny=True)
    probe = Probe(lab.pod("z/c"), lab.address("x/a", family), protocol, port)
    found = fresh(lab, 1, lambda: lab.reaches(probe, ONCE))
    first = found[0]
    assert {record.disposition for record in found} == {"deny"}
    assert (first.connection.src_ip, first.connection.dest_ip) == (lab.address("z/c", family), probe.destination)
    expected = {"icmp": "icmpv6"}.get(protocol, protocol) if family == 6 else protocol
    assert (first.connection.protocol, first.connection.direction) == (expected, "ingress")
    assert first.connection.dest_port == (port or None)
    assert (first.src.pod_namespace, first.src.pod_name) == ("z", "c")
    assert (first.dest.pod_namespace, first.dest.pod_name) == ("x", "a")
    assert [policy.name for policy in first.isolating_policies] == ["from-b", "from-y"]
    assert (first.policies, first.count, first.node_name) == ((), 1, lab.topology.pods["x", "a"].node)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("source", "policies"),
    [("y/c", ["from-y"]), ("z/b", ["from-b"]), ("y/b", ["from-b", "from-y"])],
    ids=["one policy", "the other policy", "every policy that allows it"],
)
@pytest.mark.both_backends
def test_an_allowed_connection_is_one_record_that_names(
    lab: ManifestLab, source: str, policies: list[str], family: int
) -> None:
    switch(lab, allow=True, deny=False)
    probe = Probe(lab.pod(source), lab.address("x/a", family), "tcp", 80)
    found = fresh(lab, 1, lambda: lab.reaches(probe, ONCE))
    assert [[policy.name for policy in record.policies] for record in found] == [policies]
    assert (found[0].disposition, found[0].connection.dest_port) == ("allow", 80)


def test_an_end_outside_the_cluster_is_an_instance(lab: ManifestLab) -> None:
    switch(lab, allow=True, deny=True)
    probe = Probe(lab.topology.outside_namespace("outside"), lab.address("x/a", 4), "udp", 80)
    found = fresh(lab, 1, lambda: lab.reaches(probe, ONCE))
    assert found[0].src.instance == OUTSIDE.addresses[0]


def test_a_udp_stream_without_replies_is_one_allowed_connection(lab: ManifestLab) -> None:
    switch(lab, allow=True, deny=False)
    flood = [sys.executable, "-c", FLOOD, lab.address("x/a", 4), "20", "200"]
    command = lab.topology.command(lab.pod("y/c"), flood)
    found = fresh(lab, 1, lambda: subprocess.run(command, check=True, timeout=30))
    marker = Probe(lab.pod("z/b"), lab.address("x/a", 4), "tcp", 80)
    found += fresh(lab, 1, lambda: lab.reaches(marker, ONCE))
    assert [record.connection.protocol for record in found] == ["udp", "tcp"]


def test_without_the_object_nothing_is_logged_and_with_it_again_everything(lab: ManifestLab) -> None:
    switch(lab, allow=True, deny=True)
    lab.delete("logging")
    before = len(records(lab))
    denied = Probe(lab.pod("z/c"), lab.address("x/a", 4), "udp", 80)
    assert not lab.reaches(denied, ONCE)
    assert lab.reaches(Probe(lab.pod("y/c"), lab.address("x/a", 4), "tcp", 80))
    switch(lab, allow=False, deny=True)
    marker = Probe(lab.pod("z/a"), lab.address("x/a", 4), "icmp", 0)
    fresh(lab, 1, lambda: lab.reaches(marker, ONCE))
    since = records(lab)[before:]
    assert {record.connection.protocol for record in since} == {"icmp"}


def annotated(document: Document, key: str) -> Document:
    return {**document, "metadata": {**document["metadata"], "annotations": {f"policy.network.gke.io/{key}": "true"}}}


def delegate(lab: ManifestLab) -> None:
    both = {"log": True, "delegate": True}
    document = logging_document(allow=True, deny=True)
    lab.apply("logging", {**document, "spec": {"cluster": {"allow": both, "deny": both}}})


def test_where_logging_is_delegated_annotations_decide_at_once_and_no_rule_changes(lab: ManifestLab) -> None:
    delegate(lab)
    allowed = Probe(lab.pod("y/b"), lab.address("x/a", 4), "tcp", 80)
    denied = Probe(lab.pod("z/c"), lab.address("x/a", 6), "udp", 80)
    node, known = lab.topology.pods["x", "a"].node, len(records(lab))
    rules, left_out = listed(lab, node), dict(counters(lab)["not_delegated"])
    assert lab.reaches(allowed)
    assert not lab.reaches(denied, ONCE)
    wait_until(lambda: counters(lab)["not_delegated"].keys() >= {"allow", "deny"})
    found = counters(lab)["not_delegated"]
    assert {each: found[each] > left_out.get(each, 0) for each in found} == {"allow": True, "deny": True}
    assert len(records(lab)) == known
    try:
        lab.apply("policies", FROM_Y, annotated(FROM_B, "enable-logging"))
        [allow] = fresh(lab, 1, lambda: lab.reaches(allowed, ONCE))
        assert ([policy.name for policy in allow.policies], allow.disposition) == (["from-b"], "allow")
        lab.apply("enforced", annotated(namespace_document("x"), "enable-deny-logging"))
        deny = fresh(lab, 1, lambda: lab.reaches(denied, ONCE))[0]
        assert ([policy.name for policy in deny.isolating_policies], deny.disposition) == (["from-b", "from-y"], "deny")
        assert listed(lab, node) == rules
    finally:
        lab.apply("policies", FROM_Y, FROM_B)
        lab.apply("enforced", namespace_document("x"))
        switch(lab, allow=False, deny=True)


def test_switching_the_log_takes_effect_with_the_next_packet_and_changes_no_rule(lab: ManifestLab) -> None:
    node = lab.topology.pods["x", "a"].node
    passing = Probe(lab.pod("y/c"), lab.address("x/a", 4), "tcp", 80)
    dropped = Probe(lab.pod("z/c"), lab.address("x/a", 6), "udp", 80)
    rules = listed(lab, node)
    for allow, deny in ((True, True), (False, True), (True, False), (False, False)):
        switch(lab, allow=allow, deny=deny)
        assert listed(lab, node) == rules
        found = fresh(lab, allow + deny, lambda: [lab.reaches(probe, ONCE) for probe in (passing, dropped)])
        logged = (("allow", allow), ("deny", deny))
        assert {record.disposition for record in found} == {verdict for verdict, is_logged in logged if is_logged}


def test_records_of_another_program_in_the_group_are_counted_reported_and_never_attributed(lab: ManifestLab) -> None:
    switch(lab, allow=False, deny=True)
    node, known, before = lab.topology.pods["x", "a"].node, len(records(lab)), foreign(lab)
    nft(lab, node, "-f", "-", text=ROUTER)
    try:
        assert lab.reaches(Probe(lab.pod("y/c"), lab.address("x/a", 4), "tcp", 80))
        wait_until(lambda: counters(lab)["group_problem"] != "")
        state = counters(lab)
    finally:
        nft(lab, node, "delete", "table", "ip", "router")
    assert "table ip router, chain c, `handle 2`" in state["group_problem"]
    assert foreign(lab) > before
    assert (len(records(lab)), state["unattributed"]["unknown"]) == (known, 0)


@pytest.mark.parametrize("family", [4, 6])
def test_another_program_s_rules_that_copy_prefixes_are_counted_by_reason_and_never_attributed(
    lab: ManifestLab, family: int
) -> None:
    switch(lab, allow=True, deny=True)
    node, before, address = lab.topology.pods["x", "a"].node, counters(lab), lab.address("x/a", family)
    prefixes = {"allow": "allow ingress x/from-y", "deny": "deny ingress x/from-b_from-y"}
    assert all(f'log prefix "{prefix}"' in listed(lab, node) for prefix in prefixes.values())
    nft(lab, node, "-f", "-", text=COPIES % {"ip": "ip6" if family == 6 else "ip", "address": address, **prefixes})
    try:
        probe = Probe(lab.pod("y/c"), address, "tcp", 80)
        found = fresh(lab, 1, lambda: lab.reaches(probe, ONCE))
        wait_until(lambda: len(new_foreign(lab, before)) == 2)
    finally:
        nft(lab, node, "delete", "table", "inet", "copies")
    found += fresh(lab, 1, lambda: lab.reaches(Probe(lab.pod("z/b"), lab.address("x/a", 4), "udp", 80), ONCE))
    assert [(record.disposition, record.connection.protocol) for record in found] == [
        ("allow", "tcp"),
        ("allow", "udp"),
    ]
    assert counters(lab)["unattributed"]["unknown"] == before["unattributed"]["unknown"]


def new_foreign(lab: ManifestLab, before: dict[str, Any]) -> set[str]:
    """Return the reasons of another hook or Pod for which records were counted since."""
    found = counters(lab)["foreign_by"]
    return {reason for reason in (OTHER_HOOK, OTHER_POD) if found.get(reason, 0) > before["foreign_by"].get(reason, 0)}


ATTEMPTS = {
    "udp": (FLOOD, "20", "100"),
    "tcp": (CONNECT,),
    "icmp": (ECHO,),
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("attempts", ATTEMPTS.values(), ids=ATTEMPTS)
def test_a_connection_that_egress_allows_and_ingress_denies_is_one_allow_however_often_it_is_tried(
    lab: ManifestLab, attempts: tuple[str, ...], family: int
) -> None:
    out = policy_document("z", "out", podSelector={"matchLabels": {"pod": "c"}}, policyTypes=["Egress"], egress=[{}])
    lab.apply("out", out)
    switch(lab, allow=True, deny=True)
    script, *arguments = attempts
    program = [sys.executable, "-c", script, lab.address("x/a", family), *arguments]
    known, reporting = len(records(lab)), agent(lab)
    reporting.stop()
    reporting.start({"NFAGENT_LOGGING_AGGREGATION_SECONDS": "300"})
    try:
        subprocess.run(lab.topology.command(lab.pod("z/c"), program), check=True, timeout=30)
        wait_until(lambda: counters(lab)["waiting_packets"] >= 3)
        wait_until(lambda: counters(lab)["repeated"].get("allow") == counters(lab)["waiting_packets"] - 1)
        state = counters(lab)
    finally:
        reporting.stop()
        reporting.start()
        lab.delete("out")
    allow, deny = records(lab)[known:]
    assert (allow.disposition, [policy.name for policy in allow.policies]) == ("allow", ["out"])
    assert (deny.disposition, deny.connection.direction) == ("deny", "ingress")
    assert deny.count >= state["waiting_packets"], "packets that were read after the state are in it too"
    assert (state["dropped_packets"], state["records"]) == ({}, {"allow": 1})


def foreign(lab: ManifestLab) -> int:
    found: int = counters(lab)["unattributed"]["foreign"]
    return found


def nft(lab: ManifestLab, node: str, *arguments: str, text: str = "") -> str:
    command = ["ip", "netns", "exec", lab.topology.node_namespace(node), "nft", *arguments]
    return subprocess.run(command, check=True, input=text, capture_output=True, text=True, timeout=30).stdout


def listed(lab: ManifestLab, node: str) -> str:
    """Return a node's rules, in nftables with handles, without elements of sets and values of counters."""
    if lab.cluster.agent(node).backend == "iptables":
        command = lab.topology.command(lab.topology.node_namespace(node), ["iptables-legacy-save"])
        saved = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
        return re.sub(r"\[\d+:\d+\]|^#.*$", "", saved, flags=re.MULTILINE)
    found = nft(lab, node, "-a", "list", "table", "inet", "nfagent")
    return re.sub(r"packets \d+ bytes \d+|\n\s*elements = \{[^}]*\}", "", found)


@pytest.mark.parametrize("family", [4, 6])
def test_ten_thousand_packets_a_second_are_all_recorded(lab: ManifestLab, family: int) -> None:
    """A second's worth at a time: so much the kernel holds for an agent that has no CPU meanwhile."""
    switch(lab, allow=False, deny=True)
    count, seconds = 10_000, 3
    flood = [sys.executable, "-c", FLOOD, lab.address("x/a", family), str(count), str(count)]
    before, written = counters(lab), lines(lab)
    for second in range(1, seconds + 1):
        subprocess.run(lab.topology.command(lab.pod("z/c"), flood), check=True, timeout=60)
        sent = before["received"] + second * count
        wait_until(lambda sent=sent: is_written(counters(lab), sent))  # type: ignore[misc]
    after = counters(lab)
    assert (after["lost"], after["overruns"]) == (before["lost"], before["overruns"])
    assert lines(lab) == written + seconds * count


def is_written(found: dict[str, Any], received: int) -> bool:
    """Return whether so many packets were read, and no record of them waits to be written."""
    return bool(found["received"] >= received and not found["queued_lines"])


def test_a_flood_of_one_connection_is_one_record_that_counts_it_and_a_stop_loses_none(lab: ManifestLab) -> None:
    switch(lab, allow=False, deny=True)
    count, known, reporting = 2_000, len(records(lab)), agent(lab)
    reporting.stop()
    reporting.start({"NFAGENT_LOGGING_AGGREGATION_SECONDS": "300"})
    try:
        flood = [sys.executable, "-c", FLOOD, lab.address("x/a", 4), str(count), "10000"]
        for _source_port in range(2):
            subprocess.run(lab.topology.command(lab.pod("z/c"), flood), check=True, timeout=60)
        wait_until(lambda: counters(lab)["waiting_packets"] >= 2 * count, seconds=60)
        assert (counters(lab)["waiting_keys"], len(records(lab))) == (1, known)
    finally:
        reporting.stop()
        reporting.start()
    assert [record.count for record in records(lab)[known:]] == [2 * count]


def counters(lab: ManifestLab) -> dict[str, Any]:
    found: dict[str, Any] = agent(lab).ask("/v1/dump/state")["agent"]["verdict_log"]
    return found


def lines(lab: ManifestLab) -> int:
    return sum(path.read_bytes().count(b"\n") for path in agent(lab).verdict_log.parent.iterdir())
