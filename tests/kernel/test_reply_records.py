"""Verdict records of packets that the present objects don't explain.

Denied replies of a revoked connection have the client as source; packets that are read after their Pod and a policy are
gone name these.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from pyroute2 import netns

from nfagent.desired.state import DesiredState
from nfagent.kernel.nflog import NflogSource
from nfagent.kernel.nft_client import NftClient
from nfagent.model.objects import ObjectRef
from nfagent.netlink.nflog import LoggedPacket
from nfagent.verdicts.attribution import Attributor
from nfagent.verdicts.history import ObjectHistory
from nfagent.verdicts.records import Record
from tests.support.packet_labs import logging_document
from tests.support.two_node_cluster import DECODERS, Document, labelled, node, pod, policy

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]

GROUP = 100
DEADLINE = 60.0
PORT, CLIENTS_PORT = 5432, 40_001
WEB, DB = pod("shop/web", "a", 10, app="web"), pod("shop/db", "a", 20, app="db")
CLOSED = {
    "ingress": policy("shop/closed", labelled(app="db"), policyTypes=["Ingress"]),
    "egress": policy("shop/closed", labelled(app="web"), policyTypes=["Egress"]),
}
UNTRACKED = "table inet before { chain c { type filter hook prerouting priority raw; notrack; }; }"
# A UDP connection's two ends, each in a Pod. They do what a line of their input says: `recv`, or `send`.
ENDS = """
import json, socket, sys
bound, peer = json.loads(sys.argv[1])
sock = socket.socket(socket.AF_INET6 if ":" in bound[0] else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(tuple(bound))
sock.connect(tuple(peer))
sock.settimeout(30)
print(flush=True)
for line in sys.stdin:
    if line.strip() == "send":
        sock.send(b"x")
    else:
        sock.recv(9)
    print(flush=True)
"""


def addresses(document: Document) -> list[str]:
    return [found["ip"] for found in document["status"]["podIPs"]]


class ConnectionEnd:
    """One end of a connection."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._await_done()

    def does(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        self._await_done()

    def _await_done(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "\n"


@contextmanager
def end(namespace: str, bound: tuple[str, int], peer: tuple[str, int]) -> Iterator[ConnectionEnd]:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", ENDS, json.dumps([bound, peer])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield ConnectionEnd(process)
        finally:
            process.kill()


@pytest.fixture
def pods() -> Iterator[tuple[str, str]]:
    """Enter a node's network namespace with this thread; yield those of its Pods web and db."""
    here, *made = (f"nfagent-reply-{word}-{uuid4().hex[:8]}" for word in ("node", "web", "db"))
    try:
        for name in (here, *made):
            subprocess.run(["ip", "netns", "add", name], check=True)
        netns.pushns(here)
        try:
            subprocess.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"], check=True)
            for number, (name, document) in enumerate(zip(made, (WEB, DB), strict=True)):
                lines = [
                    f"link add pod{number} type veth peer name eth0 netns {name}",
                    f"link set pod{number} up",
                    f"-n {name} link set eth0 up",
                ]
                for address, gateway in zip(
                    addresses(document), (f"10.99.{number}.1", f"fd99:{number}::1"), strict=True
                ):
                    lines += [
                        f"addr add {gateway} dev pod{number} nodad"
                        if ":" in gateway
                        else f"addr add {gateway} dev pod{number}",
                        f"route add {address} dev pod{number}",
                        f"-n {name} addr add {address} dev eth0" + (" nodad" if ":" in address else ""),
                        f"-n {name} route add {gateway} dev eth0",
                        f"-n {name} route add default via {gateway} dev eth0",
                    ]
                for line in lines:
                    family = ["-6"] if ":" in line else []
                    subprocess.run(["ip", *family, *line.split()], check=True)
            web, db = made
            yield web, db
        finally:
            netns.popns()
    finally:
        for name in (here, *made):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class RecheckedNode:
    """The rules of a node without a revoker: a revoked connection stays under re-check."""

    def __init__(self) -> None:
        self.desired = DesiredState("a", log_group=GROUP)
        self._kernel = NftClient()
        self.history = ObjectHistory(self.desired, time.time_ns)
        self._attributor = Attributor(self.desired, self.history)
        self._unread: list[LoggedPacket] = []
        self._came = asyncio.Event()

    async def put(self, *documents: Document) -> None:
        for document in documents:
            found: Any = DECODERS[document["kind"]](document)
            self.history.put(found)
        await self._commit()

    async def remove(self, *refs: ObjectRef) -> None:
        for ref in refs:
            self.history.remove(ref)
        await self._commit()

    async def _commit(self) -> None:
        self.history.cover()
        await self._kernel.apply(self.desired.drain_changes())
        self.history.committed()

    async def begin(self, *documents: Document) -> None:
        for document in documents:
            found: Any = DECODERS[document["kind"]](document)
            self.desired.put(found)
        await self._kernel.apply(await self._kernel.difference(self.desired.ruleset()))
        self.desired.mark_synced()
        self.history.cover()
        self.history.committed()

    def take(self, packets: list[LoggedPacket]) -> None:
        self._unread += packets
        self._came.set()

    async def logged(self) -> LoggedPacket:
        """Wait for a packet."""
        async with asyncio.timeout(DEADLINE):
            while not self._unread:
                self._came.clear()
                await self._came.wait()
        return self._unread.pop(0)

    def record(self, packet: LoggedPacket) -> Record:
        record = self._attributor.attribute(packet, 0)
        assert record is not None
        return record

    async def next(self) -> Record:
        """Wait for a packet, and return its record."""
        return self.record(await self.logged())

    def close(self) -> None:
        self._kernel.close()


def load(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def told(record: Record) -> tuple[object, ...]:
    connection = record.connection
    return (
        (connection.src_ip, connection.src_port, connection.dest_ip, connection.dest_port),
        (record.disposition, connection.direction, [found.name for found in record.isolating_policies]),
        (record.src.pod_name, record.dest.pod_name),
    )


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_what_db_answers_web_after_a_policy_revoked_it_is_recorded_as_web_s_connection(
    pods: tuple[str, str], direction: str, family: int
) -> None:
    web, db = ((addresses(document)[family == 6], port) for document, port in ((WEB, CLIENTS_PORT), (DB, PORT)))

    async def body() -> None:
        judged, source = RecheckedNode(), NflogSource(GROUP)
        try:
            await judged.begin(node("a"), WEB, DB, logging_document(allow=False, deny=True))
            source.open(judged.take)
            with end(pods[0], web, db) as client, end(pods[1], db, web) as server:
                for sender, reader in ((client, server), (server, client)):
                    sender.does("send")
                    reader.does("recv")
                await judged.put(CLOSED[direction])
                for sender in (server, client):
                    sender.does("send")
                    assert told(await judged.next()) == (
                        (*web, *db),
                        ("deny", direction, ["closed"]),
                        ("web", "db"),
                    )
        finally:
            source.close()
            judged.close()

    asyncio.run(body())


def test_a_packet_without_a_connection_is_recorded_by_its_own_addresses(pods: tuple[str, str]) -> None:
    web, db = (addresses(WEB)[0], CLIENTS_PORT), (addresses(DB)[0], PORT)

    async def body() -> None:
        judged, source = RecheckedNode(), NflogSource(GROUP)
        try:
            await judged.begin(node("a"), WEB, DB, CLOSED["ingress"], logging_document(allow=False, deny=True))
            source.open(judged.take)
            await asyncio.to_thread(load, UNTRACKED)
            with end(pods[0], web, db) as client:
                client.does("send")
                assert told(await judged.next()) == (
                    (*web, *db),
                    ("deny", "ingress", ["closed"]),
                    ("web", "db"),
                )
        finally:
            source.close()
            judged.close()

    asyncio.run(body())


@pytest.mark.parametrize("family", [4, 6])
def test_a_packet_is_judged_by_the_rules_it_met_when_its_pod_and_a_policy_are_gone_before_it_is_read(
    pods: tuple[str, str], family: int
) -> None:
    web, db = addresses(WEB)[family == 6], (addresses(DB)[family == 6], PORT)
    from_web = policy("shop/from-web", labelled(app="db"), ingress=[{"from": [{"podSelector": labelled(app="web")}]}])
    on_port = policy("shop/on-port", labelled(app="db"), ingress=[{"ports": [{"port": PORT, "protocol": "UDP"}]}])

    async def body() -> None:
        judged, source = RecheckedNode(), NflogSource(GROUP)
        try:
            await judged.begin(node("a"), WEB, DB, from_web, on_port, logging_document(allow=True, deny=True))
            source.open(judged.take)
            with end(pods[0], (web, CLIENTS_PORT), db) as client:
                client.does("send")
            early = await judged.logged()
            assert early.timestamp_ns is not None
            await judged.remove(ObjectRef("NetworkPolicy", "shop", "on-port"), ObjectRef("Pod", "shop", "web"))
            with end(pods[0], (web, CLIENTS_PORT + 1), db) as client:
                client.does("send")

            late = await judged.next()
            assert (late.disposition, late.src.instance) == ("deny", web)
            assert [found.name for found in late.isolating_policies] == ["from-web"]
            record = judged.record(early)
            assert (record.disposition, record.src.pod_name, record.dest.pod_name) == ("allow", "web", "db")
            assert [found.name for found in record.policies] == ["from-web", "on-port"]
        finally:
            source.close()
            judged.close()

    asyncio.run(body())
