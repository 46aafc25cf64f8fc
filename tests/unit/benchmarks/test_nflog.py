"""Synthetic NFLOG datagrams are as the kernel's: the decoder reads them, and every record is attributed."""

from __future__ import annotations

from collections import Counter

from benchmarks.suites.nflog import datagrams, loaded, logged_packets
from nfagent.lab.objects.synthetic import SIZES, synthetic
from nfagent.netlink.nflog import decode_datagram
from nfagent.netlink.packet_header import TCP, decode_head
from nfagent.verdicts.attribution import Attributor


def test_datagrams_decode_to_their_packets() -> None:
    desired = loaded(synthetic(SIZES[1_000], 1))
    wanted = list(logged_packets(desired, 1, 500))
    read = [decode_datagram(datagram) for datagram in datagrams(iter(wanted))]
    assert {part.undecodable for part in read} == {0}
    packets = [packet for part in read for packet in part.packets]
    assert [packet.sequence for packet in packets] == list(range(500))
    for logged, packet in zip(wanted, packets, strict=True):
        head = decode_head(packet.payload)
        assert (head.source, head.destination, head.destination_port) == (
            logged.source,
            logged.destination,
            logged.port,
        )
        assert (head.protocol, packet.prefix) == (TCP, logged.prefix)


def test_every_synthetic_packet_becomes_a_record_of_both_verdicts_and_directions() -> None:
    desired = loaded(synthetic(SIZES[1_000], 1))
    attributor = Attributor(desired)
    made = datagrams(logged_packets(desired, 1, 500))
    records = [attributor.attribute(packet, 0) for part in made for packet in decode_datagram(part).packets]
    seen = Counter((record.disposition, record.connection.direction) for record in records if record is not None)
    assert sum(seen.values()) == 500
    assert seen.keys() == {(verdict, way) for verdict in ("allow", "deny") for way in ("ingress", "egress")}
