"""Checks of a lab's plan; encoded packets and `ip` lines, without I/O."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import UsageError
from nfagent.lab.probes import raw_packets
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, PodPlan, grid

NODE = NodePlan("n1", ("192.0.2.1",), ("10.244.1.0/24",), "bridge")


def pod(name: str, *addresses: str, node: str = "n1") -> PodPlan:
    return PodPlan("default", name, node, addresses)


@pytest.mark.parametrize(
    ("pods", "complaint"),
    [
        ([pod("a", "10.244.1.5", node="n2")], "no node 'n2'"),
        ([pod("a", "10.9.9.9")], "isn't in node n1's ranges"),
        ([pod("a", "10.244.1.1")], "the bridge's own"),
        ([pod("a")], "has no address"),
        ([pod("a", "10.244.1.5"), pod("a", "10.244.1.6")], "Pod 'default/a' is in the lab's plan twice"),
        ([pod("a", "10.244.1.5"), pod("b", "10.244.1.5")], "address '10.244.1.5' is in the lab's plan twice"),
    ],
    ids=[
        "a Pod on a node that isn't planned",
        "a Pod outside its node's ranges",
        "a Pod with the bridge's address",
        "a Pod without an address",
        "two Pods of one name",
        "two Pods of one address",
    ],
)
def test_a_plan_that_cannot_be_built_is_refused(pods: list[PodPlan], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        NetnsTopology([NODE], pods)


@pytest.mark.parametrize(
    ("nodes", "pods", "complaint"),
    [
        ([NODE, NodePlan("n2", ("192.0.2.2",), ("10.244.2.0/24",), underlay="vxlan")], [], "underlays flat and vxlan"),
        ([NodePlan("n1", ("192.0.2.1",), (), underlay="vxlan")], [], "node 'n1' has no Pod range"),
        (
            [NodePlan("n1", ("192.0.2.1",), ("10.244.1.0/24",), underlay="vxlan")],
            [pod("a", "10.244.1.0")],
            "the tunnel's own",
        ),
    ],
    ids=["nodes with two underlays", "a tunnel without an end", "a Pod with the tunnel's address"],
)
def test_nodes_that_cannot_be_joined_are_refused(nodes: list[NodePlan], pods: list[PodPlan], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        NetnsTopology(nodes, pods)


@pytest.mark.parametrize("tag", ["", "Demo", "a-b", "a/b", "a" * 21])
def test_a_tag_that_would_confuse_names_is_refused(tag: str) -> None:
    with pytest.raises(UsageError, match="is no tag for a lab"):
        netns.prefix(tag, 1)


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_the_grid_can_be_built_on_any_number_of_nodes(nodes: int) -> None:
    plans, pods, outside = grid("bridge", nodes, "vxlan")
    NetnsTopology(plans, pods, outside)
    assert [pod.key for pod in pods] == [(namespace, name) for namespace in "xyz" for name in "abc"]
    assert {pod.node for pod in pods} == {plan.name for plan in plans}


def test_crc32c_is_castagnoli() -> None:
    # The check value of CRC-32C over the digits, and RFC 3720's for 32 zero bytes.
    assert raw_packets.crc32c(b"123456789") == 0xE3069283
    assert raw_packets.crc32c(bytes(32)) == 0x8A9136AA


def test_the_internet_checksum_is_that_of_rfc_1071() -> None:
    assert raw_packets.internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D


@given(
    kind=st.sampled_from([raw_packets.INIT, raw_packets.INIT_ACK]),
    ports=st.tuples(*[st.integers(0, 65535)] * 2),
    tag=st.data(),
)
def test_sctp_is_read_as_it_was_written_with_a_right_checksum(
    kind: int, ports: tuple[int, int], tag: st.DataObject
) -> None:
    tags = tag.draw(st.tuples(*[st.integers(0, 2**32 - 1)] * 2))
    written = raw_packets.SctpInit(kind, *ports, *tags)
    content = raw_packets.sctp(written)
    assert raw_packets.read_sctp(content) == written
    (checksum,) = struct.unpack("<I", content[8:12])
    assert raw_packets.crc32c(content[:8] + bytes(4) + content[12:]) == checksum


@given(family=st.sampled_from([4, 6]), identifier=st.integers(0, 65535), nonce=st.integers(0, 2**32 - 1))
def test_an_echo_request_is_no_reply_and_gives_its_nonce(family: int, identifier: int, nonce: int) -> None:
    content = raw_packets.echo_request(family, identifier, nonce)
    assert raw_packets.read_echo_request(family, content) == nonce
    assert raw_packets.read_echo_reply(family, content) is None
    if family == 4:
        assert raw_packets.internet_checksum(content) == 0


@given(st.sampled_from([4, 6]), st.binary(max_size=80))
def test_any_bytes_are_read_or_declined(family: int, received: bytes) -> None:
    payload = raw_packets.payload_of(family, received)
    assert raw_packets.read_sctp(payload) is None or len(payload) >= 32
    assert raw_packets.read_echo_request(family, payload) is None or payload[0] in {8, 128}
    assert raw_packets.read_echo_reply(family, payload) is None or payload[0] in {0, 129}
