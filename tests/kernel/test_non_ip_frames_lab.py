"""Frames without IP between two Pods of one bridge: a table of the bridge family drops them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import pytest

from nfagent.controllers.drift_backoff import DriftBackoff
from nfagent.kernel.bridge_table import BridgeTableReconciler, KernelTables
from nfagent.kernel.nft_client import NftClient
from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.probes.listeners import pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology import netns
from nfagent.lab.topology.plan import grid
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.nftables.bridge_table import FRAMES, parse_bridge_table
from nfagent.nftables.transaction import Transaction
from tests.support.own_namespace import own_namespace
from tests.support.packet_labs import (
    ManifestLab,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)
from tests.support.raw_sockets import marker

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and raw frames"),
]

NODES, PODS, _OUTSIDE = grid("bridge", nodes=1)
TARGET, ATTACKER, FRIEND = "x/a", "y/a", "z/a"
SECONDS = 20.0
PORT = 4711
ETHER_TYPE: dict[Family, int] = {4: 0x0800, 6: 0x86DD}
PPP_TYPE: dict[Family, int] = {4: 0x0021, 6: 0x0057}
SENTINEL = 0x0806
"""ARP, which always passes: what was sent before it has arrived by then, or never will."""
DENY = policy_document(
    "x",
    "deny",
    podSelector={"matchLabels": {"pod": "a"}},
    policyTypes=["Ingress"],
    ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"ns": "z"}}}]}],
)
Made = TypeVar("Made")


def tagged(*tags: tuple[int, int]) -> Callable[[Family, bytes], bytes]:
    """Return a packet with tags before it: pairs of an EtherType, and a priority with a VLAN."""
    head = b"".join(struct.pack("!HH", *tag) for tag in tags)
    return lambda family, packet: head + struct.pack("!H", ETHER_TYPE[family]) + packet


def in_pppoe(family: Family, packet: bytes) -> bytes:
    return struct.pack("!HBBHHH", 0x8864, 0x11, 0, 1, len(packet) + 2, PPP_TYPE[family]) + packet


def in_mpls(_family: Family, packet: bytes) -> bytes:
    return struct.pack("!HI", 0x8847, 100 << 12 | 0x1FF) + packet


def in_snap(family: Family, packet: bytes) -> bytes:
    return struct.pack("!H6sH", len(packet) + 8, b"\xaa\xaa\x03\0\0\0", ETHER_TYPE[family]) + packet


def in_ethernet(family: Family, packet: bytes) -> bytes:
    return struct.pack("!H12xH", 0x6558, ETHER_TYPE[family]) + packet


SHAPES = {
    "a priority tag, VLAN 0": tagged((0x8100, 0)),
    "a priority tag with priority 7": tagged((0x8100, 7 << 13)),
    "a priority tag that may be dropped": tagged((0x8100, 1 << 12)),
    "a service tag of VLAN 0": tagged((0x88A8, 0)),
    "VLAN 0 within VLAN 0": tagged((0x8100, 0), (0x8100, 0)),
    "VLAN 0 within a service tag of VLAN 0": tagged((0x88A8, 0), (0x8100, 0)),
    "nine tags of VLAN 0": tagged(*[(0x8100, 0)] * 9),
    "VLAN 5": tagged((0x8100, 5)),
    "VLAN 5 within VLAN 0": tagged((0x8100, 0), (0x8100, 5)),
    "VLAN 0 within VLAN 5": tagged((0x8100, 5), (0x8100, 0)),
    "a service tag": tagged((0x88A8, 5)),
    "QinQ of old, 0x9100": tagged((0x9100, 0)),
    "QinQ of old, 0x9200": tagged((0x9200, 0)),
    "PPPoE": in_pppoe,
    "PPPoE in VLAN 0": lambda family, packet: struct.pack("!HH", 0x8100, 0) + in_pppoe(family, packet),
    "MPLS": in_mpls,
    "SNAP": in_snap,
    "Ethernet in Ethernet": in_ethernet,
}
UNTAGGED = tagged()
STRIPPED = frozenset(list(SHAPES)[:7])
"""What a receiver takes for an untagged packet."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    documents = [*(namespace_document(name) for name in "xyz"), *map(pod_document, PODS)]
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, documents=documents) as running:
        running.servers.listen(pod_endpoints(running.topology, [("tcp", 80), ("udp", 80)]))
        running.apply("deny", DENY)
        yield running


@pytest.fixture
def agent(lab: ManifestLab) -> LabAgent:
    """Return the node's agent, with its table of the bridge family in force."""
    found = lab.cluster.agent("n1")
    wait_until(lambda: frames(found)["state"] == "dropped")
    return found


def frames(agent: LabAgent) -> dict[str, Any]:
    found: dict[str, Any] = agent.ask("/v1/dump/state")["agent"]["frames"]
    return found


def in_force(agent: LabAgent) -> bool:
    tables = agent.nft("list", "tables", "bridge")
    return (
        "nfagent" in tables
        and parse_bridge_table(agent.nft("-j", "list", "table", "bridge", "nfagent")).ruleset == FRAMES
    )


def datagram(lab: ManifestLab, family: Family, content: bytes) -> bytes:
    """Write an IP packet with a UDP datagram from the attacker to the target."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    ends = b"".join(socket.inet_pton(kind, lab.address(pod, family)) for pod in (ATTACKER, TARGET))
    length = 8 + len(content)
    pseudo = ends + struct.pack("!II", length, socket.IPPROTO_UDP)
    udp = struct.pack("!HHHH", PORT, PORT, length, 0) + content
    udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp)) + content
    if family == 6:
        return struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64) + ends + udp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, socket.IPPROTO_UDP, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp


def checksum(content: bytes) -> int:
    words = content + bytes(len(content) % 2)
    total: int = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def frame_socket(lab: ManifestLab, pod: str) -> socket.socket:
    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
        made.bind(("eth0", 3))
        made.settimeout(SECONDS)
        return made

    return netns.inside(lab.pod(pod), opened)


def listener(lab: ManifestLab, family: Family) -> socket.socket:
    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        made.bind((lab.address(TARGET, family), PORT))
        made.settimeout(0)
        return made

    return netns.inside(lab.pod(TARGET), opened)


def arrivals(lab: ManifestLab, shape: Callable[[Family, bytes], bytes], family: Family) -> tuple[bool, bool]:
    """Send the target a packet in a frame of a shape: tell whether the frame arrived, and whether a socket has it."""
    content, end = marker(), marker()
    with (
        closing(frame_socket(lab, ATTACKER)) as sender,
        closing(frame_socket(lab, TARGET)) as seen,
        closing(listener(lab, family)) as received,
    ):
        ends = seen.getsockname()[4] + sender.getsockname()[4]
        sender.send(ends + shape(family, datagram(lab, family, content)))
        sender.send(ends + struct.pack("!H", SENTINEL) + end + bytes(46))
        arrived, deadline = False, time.monotonic() + SECONDS
        while end not in (frame := seen.recv(65536)):
            arrived = arrived or content in frame
            assert time.monotonic() < deadline
        try:
            return arrived, received.recv(65536) == content
        except BlockingIOError:
            return arrived, False


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("family", FAMILIES, ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("shape", [UNTAGGED, *SHAPES.values()], ids=["no tag", *SHAPES])
def test_no_frame_of_any_shape_arrives_at_an_isolated_pod(
    lab: ManifestLab, shape: Callable[[Family, bytes], bytes], family: Family
) -> None:
    assert arrivals(lab, shape, family) == (False, False)


def test_dropped_frames_are_counted_and_reported(lab: ManifestLab, agent: LabAgent) -> None:
    before = parse_bridge_table(agent.nft("-j", "list", "table", "bridge", "nfagent")).dropped
    arrivals(lab, SHAPES["VLAN 5"], 4)
    after = parse_bridge_table(agent.nft("-j", "list", "table", "bridge", "nfagent")).dropped
    assert before is not None
    assert after == before + 1
    # One commit that leaves the table as it is: heard, and looked at.
    agent.nft("add chain bridge nfagent other; delete chain bridge nfagent other")
    wait_until(lambda: frames(agent)["dropped"] == after)
    assert f"{after} frames dropped that no rule can match" in agent.run("dump", "state").stdout


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("family", FAMILIES, ids=["IPv4", "IPv6"])
def test_packets_that_policies_allow_arrive_as_before(lab: ManifestLab, family: Family) -> None:
    for protocol in ("tcp", "udp"):
        assert lab.reaches(Probe(lab.pod(FRIEND), lab.address(TARGET, family), protocol, 80))
        assert not lab.reaches(Probe(lab.pod(ATTACKER), lab.address(TARGET, family), protocol, 80))


DAMAGE = {
    "the table is deleted": "delete table bridge nfagent",
    "everything is flushed": "flush ruleset",
    "its chain is flushed": "flush chain bridge nfagent prerouting-frames",
    "the table is put to sleep": "add table bridge nfagent { flags dormant; }",
    "a rule lets pass": "insert rule bridge nfagent prerouting-frames accept",
    "a set lets pass": "add set bridge nfagent mine { type ether_addr; }",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_44_a_table_that_was_changed_is_made_anew_at_once(lab: ManifestLab, agent: LabAgent, damage: str) -> None:
    agent.nft(damage)
    wait_until(partial(in_force, agent))
    assert arrivals(lab, SHAPES["a priority tag, VLAN 0"], 4) == (False, False)
    wait_until(agent.recheck_is_done)


def test_a_start_keeps_an_existing_table_and_cleanup_deletes_it(agent: LabAgent) -> None:
    before = agent.nft("-a", "list", "table", "bridge", "nfagent")
    agent.stop()
    assert agent.nft("-a", "list", "table", "bridge", "nfagent") == before
    try:
        agent.start()
        wait_until(lambda: frames(agent)["state"] == "dropped")
        assert agent.nft("-a", "list", "table", "bridge", "nfagent") == before
        agent.stop()
        done = agent.run("cleanup")
        assert "removed table bridge nfagent" in done.stdout
        assert agent.nft("list", "tables") == ""
        assert json.loads(agent.run("cleanup", "-o", "json").stdout)["frames"] is False
    finally:
        agent.stop()
        agent.start()


def found_by_check(agent: LabAgent) -> tuple[str, str]:
    checks = json.loads(agent.run("check", "-o", "json").stdout)["checks"]
    return next((check["result"], check["found"]) for check in checks if check["name"] == "bridge frames")


def test_with_the_setting_for_such_frames_there_is_no_table_and_check_reports_it(
    lab: ManifestLab, agent: LabAgent
) -> None:
    assert found_by_check(agent) == ("ok", "table bridge nfagent drops frames that no policy can match")
    agent.stop()
    assert found_by_check(agent)[0] == "ok", "without an agent the kernel is asked"
    setting = {"NFAGENT_BRIDGES_UNJUDGED_FRAMES": "passed"}
    try:
        agent.start(setting)
        wait_until(lambda: frames(agent)["state"] == "passed")
        assert "nfagent" not in agent.nft("list", "tables", "bridge")
        for words, shape in SHAPES.items():
            assert arrivals(lab, shape, 4) == (True, words in STRIPPED), words
        assert arrivals(lab, UNTAGGED, 4) == (False, False)
        agent.environment.update(setting)
        result, found = found_by_check(agent)
        assert (result, "the settings allow them" in found) == ("warn", True)
    finally:
        for name in setting:
            agent.environment.pop(name, None)
        agent.stop()
        agent.start()


def run_nft(text: str) -> None:
    """Run commands in this thread's network namespace."""
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


OTHER = {"iifkind": "iiftypename"}


class OtherWords:
    """An nft that lists some keywords differently; `disturbs`: another program commits after each own commit."""

    def __init__(
        self, kernel: NftClient, *, words: Mapping[str, str] = MappingProxyType(OTHER), disturbs: bool = False
    ) -> None:
        self.written = 0
        self._words = words
        self._kernel = kernel
        self._disturbs = disturbs

    async def with_table(self, call: Callable[[KernelTables], Made]) -> Made:
        return await self._kernel.with_table(lambda _kernel: call(self))

    def list_now(self, family: str) -> str | None:
        answer = self._kernel.list_now(family)
        for ours, other in self._words.items():
            answer = answer and answer.replace(f'"{ours}"', f'"{other}"')
        return answer

    def commit_now(self, transaction: Transaction, *, family: int) -> None:
        self._kernel.commit_now(transaction, family=family)
        self.written += 1
        if self._disturbs:
            run_nft("add table ip foreign\ndelete table ip foreign")


def test_another_nft_s_words_for_the_table_are_learned_and_not_written_again() -> None:
    async def body() -> None:
        kernel = NftClient()
        try:
            commands = OtherWords(kernel)
            watch = BridgeTableReconciler(commands, DriftBackoff(), dropping=True)
            for _ in range(3):
                await watch.refresh()
                assert (watch.status()["state"], commands.written) == ("dropped", 1)
            run_nft("insert rule bridge nfagent prerouting-frames accept")
            await watch.refresh()
            assert (watch.status()["state"], commands.written) == ("dropped", 2)
        finally:
            kernel.close()

    with own_namespace("frames"):
        asyncio.run(body())


EARLIER = """add table bridge nfagent
add counter bridge nfagent drop/unjudged
add chain bridge nfagent prerouting-frames { type filter hook prerouting priority -300; policy accept; }
add rule bridge nfagent prerouting-frames ether type { ip, ip6, arp, 0x8035 } accept
add rule bridge nfagent prerouting-frames meta iifkind "veth" counter name "drop/unjudged" drop \
    comment "holds no packet that could be judged"
"""


def test_the_table_that_earlier_versions_wrote_is_kept() -> None:
    async def body() -> None:
        kernel = NftClient()
        try:
            run_nft(EARLIER)
            commands = OtherWords(kernel, words={})
            watch = BridgeTableReconciler(commands, DriftBackoff(), dropping=True)
            await watch.refresh()
            assert (watch.status()["state"], commands.written) == ("dropped", 0)
        finally:
            kernel.close()

    with own_namespace("frames"):
        asyncio.run(body())


def test_differences_that_another_program_may_have_written_are_not_accepted() -> None:
    async def body() -> None:
        kernel = NftClient()
        try:
            commands = OtherWords(kernel, disturbs=True)
            watch = BridgeTableReconciler(commands, DriftBackoff(), dropping=True)
            await watch.refresh()
            assert watch.status()["state"] == "unknown"
            assert "keeps changing table" in watch.status()["problem"]
        finally:
            kernel.close()

    with own_namespace("frames"):
        asyncio.run(body())
