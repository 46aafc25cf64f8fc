"""Cost of verdict records: from the bytes of NFLOG to an attributed record, and NFLOG itself under load.

The first rows feed datagrams as the kernel encodes them, of packets between the Pods of a synthetic cluster, to the
decoder and the attribution; one of them aggregates and limits, as the agent does. The last one has real packets denied
by a real ruleset, at a growing rate, and reports the highest rate at which every record arrived and none was pending
when the sender had ended.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, suppress

import msgspec

from benchmarks.harness.packet_labs import load
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_least
from nfagent.clock import SystemClock
from nfagent.desired.state import DesiredState
from nfagent.kernel.nflog import NflogSource, OnPackets
from nfagent.lab.latency.traffic_rates import Client, Traffic
from nfagent.lab.objects.synthetic import SIZES, Synthetic, synthetic
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, PodPlan
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import LoggingSwitch, Namespace, NetworkLogging, Pod
from nfagent.netlink import codec
from nfagent.netlink.nflog import LoggedPacket
from nfagent.netlink.nflog_layouts import RecordLayouts
from nfagent.nftables.objects import Goto, Jump, Ruleset
from nfagent.nftables.verdict_keys import split_reply_prefix
from nfagent.verdicts.attribution import Attributor
from nfagent.verdicts.delegation import Delegation
from nfagent.verdicts.rate_limit import RecordLimits
from nfagent.verdicts.record_stream import RecordStream
from nfagent.verdicts.records import Record, encode

TARGET = 50_000
_A_DATAGRAM = 64
_ALLOWED = 0.7
_PORTS = (53, 443, 5432, 8080, 9090)
_GROUP = 100
_PACKET_MESSAGE = 0x0400  # NFNL_SUBSYS_ULOG, NFULNL_MSG_PACKET
_RATES = (10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 80_000, 100_000)
_LATE_SECONDS = 0.2  # how long after the last packet its record may come: the kernel itself may keep it for 0.1 s
_GRACE_SECONDS = 2.0


class Logged(msgspec.Struct, frozen=True):
    """A packet to be logged: its ends, and the rule's prefix."""

    source: str
    destination: str
    port: int
    prefix: str


@bench("nflog", "verdict records: bytes to attributed record, and the highest rate of real NFLOG without loss")
def nflog(run: Run) -> Iterator[Row]:
    """Measure the code by itself, and then with the kernel."""
    cluster = synthetic(SIZES[1_000], run.seed)
    desired = loaded(cluster)
    yield from _decoding(run, desired)
    yield from _real(run, cluster)


def loaded(cluster: Synthetic) -> DesiredState:
    """Return the desired state of a cluster, with all verdicts logged."""
    desired = DesiredState(cluster.node, log_group=_GROUP)
    for item in cluster.items():
        desired.put(item)
    desired.put(NetworkLogging(LoggingSwitch(log=True), LoggingSwitch(log=True)))
    return desired


def _decoding(run: Run, desired: DesiredState) -> Iterator[Row]:
    count, rounds = (10_000, 5) if run.quick else (50_000, 15)
    run.progress("synthetic records")
    logged = datagrams(logged_packets(desired, run.seed, count))
    attributor = Attributor(desired)
    lines = [encode(record) for record in _attributed(attributor, logged)]
    if len(lines) != count:
        raise ValueError(f"only {len(lines)} of {count} synthetic packets became records")
    attributed, written, counted, plain = [], [], [], []
    for turn in range(rounds):
        run.progress(f"round {turn + 1} of {rounds}")
        attributed.append(count / _seconds(_attributed(attributor, logged)))
        plain.append(count / _seconds(map(json.loads, lines)))
        written.append(count / _seconds(map(encode, _attributed(attributor, logged))))
        counted.append(count / _seconds(_counted(desired, logged)))
    row = functools.partial(
        Row, unit="records/s", reference=plain, reference_name="json.loads of the records", paired=True, better="higher"
    )
    yield row(
        name="NFLOG bytes to attributed record",
        values=attributed,
        targets=(at_least("p50", TARGET),),
        note=f"{count:,} packets between Pods, {_A_DATAGRAM} a datagram, allowed and denied, IPv4 and IPv6",
    )
    yield row(name="NFLOG bytes to its line of JSON", values=written)
    yield row(
        name="NFLOG bytes to packets read, attributed and counted",
        values=counted,
        targets=(at_least("p50", TARGET),),
        note="as the agent does by default: denies aggregated, 500 records/s",
    )


def _attributed(attributor: Attributor, datagrams: list[bytes]) -> Iterator[Record]:
    attribute, decode = attributor.attribute, RecordLayouts().decode
    for datagram in datagrams:
        for packet in decode(datagram).packets:
            record = attribute(packet, 0)
            if record is not None:
                yield record


def _counted(desired: DesiredState, datagrams: list[bytes]) -> Iterator[None]:
    stream = RecordStream(Attributor(desired), RecordLimits(), SystemClock(), _discard, Delegation(desired))
    decode = RecordLayouts().decode
    for datagram in datagrams:
        stream.add(decode(datagram).packets)
        yield


def _discard(_lines: Sequence[bytes]) -> None:
    pass


def _seconds(items: Iterator[object]) -> float:
    """Consume an iterator; return how long it took."""
    began = time.perf_counter()
    for _item in items:
        pass
    return time.perf_counter() - began


def logged_packets(desired: DesiredState, seed: int, count: int) -> Iterator[Logged]:
    """Yield random packets that this node's rules log: to or from its isolated Pods, allowed by a policy or denied."""
    rng = random.Random(seed)  # noqa: S311 - packets, not secrets
    ruleset = desired.ruleset()
    others: dict[bool, list[str]] = {False: [], True: []}
    for pod in desired.cluster.pods.values():
        for address in pod.addresses:
            others[":" in address].append(address)
    ends = [(name, own, chain) for name, pods in ruleset.maps.items() for own, chain in pods.elements.items()]
    prefixes = {chain: _prefixes(ruleset, chain) for _name, _own, chain in ends}
    for _number in range(count):
        name, own, chain = rng.choice(ends)
        denies, allows = prefixes[chain]
        prefix = rng.choice(allows if not denies or (allows and rng.random() < _ALLOWED) else denies)
        other = rng.choice(others[":" in own])
        source, destination = (own, other) if name.startswith("egress") else (other, own)
        yield Logged(source, destination, rng.choice(_PORTS), prefix)


def _prefixes(ruleset: Ruleset, chain: str) -> tuple[list[str], list[str]]:
    """Return the prefixes of a policy set's denied packets, and of its allowed ones, its tiers included."""
    reached = {chain}
    while fresh := {target for name in reached for target in _targets(ruleset, name)} - reached:
        reached |= fresh
    written = {rule.log.prefix for name in reached for rule in ruleset.chains[name].rules if rule.log is not None}
    logged = sorted({split_reply_prefix(prefix)[0] for prefix in written})
    denies = [prefix for prefix in logged if prefix.startswith("deny ")]
    return denies, [prefix for prefix in logged if prefix not in denies]


def _targets(ruleset: Ruleset, chain: str) -> set[str]:
    return {rule.verdict.chain for rule in ruleset.chains[chain].rules if isinstance(rule.verdict, Goto | Jump)}


def datagrams(packets: Iterator[Logged]) -> list[bytes]:
    """Encode packets as the datagrams in which the kernel sends their records."""
    messages = [_message(number, logged) for number, logged in enumerate(packets)]
    return [b"".join(messages[start : start + _A_DATAGRAM]) for start in range(0, len(messages), _A_DATAGRAM)]


def _message(number: int, logged: Logged) -> bytes:
    """Encode a record as the kernel does (linux/netfilter/nfnetlink_log.h): its attributes, in its order."""
    six = ":" in logged.source
    attributes = (
        codec.attribute(1, struct.pack("!HBx", 0x86DD if six else 0x0800, 2)),
        codec.attribute(10, logged.prefix.encode() + b"\0"),
        codec.attribute(4, struct.pack("!I", 7)),
        codec.attribute(5, struct.pack("!I", 8)),
        codec.attribute(3, struct.pack("!QQ", 1_700_000_000, number % 1_000_000)),
        codec.attribute(12, struct.pack("!I", number)),
        codec.attribute(9, _packet(number, logged, six=six)),
    )
    payload = codec.nfgen(socket.AF_INET6 if six else socket.AF_INET, _GROUP) + b"".join(attributes)
    return codec.message(_PACKET_MESSAGE, 0, 0, payload)


def _packet(number: int, logged: Logged, *, six: bool) -> bytes:
    """Encode a TCP SYN: the IP header, and twenty bytes of TCP (RFC 791, 8200, 9293)."""
    upper = struct.pack("!HHIIBBHHH", 32_768 + number % 28_000, logged.port, number, 0, 5 << 4, 2, 64_240, 0, 0)
    family = socket.AF_INET6 if six else socket.AF_INET
    ends = socket.inet_pton(family, logged.source) + socket.inet_pton(family, logged.destination)
    if six:
        return struct.pack("!IHBB", 6 << 28, len(upper), 6, 63) + ends + upper
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(upper), number & 0xFFFF, 0x4000, 63, 6, 0) + ends + upper


def _real(run: Run, cluster: Synthetic) -> Iterator[Row]:
    """Deny datagrams between two Pods, at a growing rate, and log all of them."""
    node = NodePlan(cluster.node, ("192.0.2.1",), ("10.244.1.0/24",))
    pods = [PodPlan("bench", name, node.name, (f"10.244.1.{host}",)) for host, name in enumerate(("a", "b"), 10)]
    desired = loaded(cluster)
    desired.put(Namespace("bench", ()))
    for pod in pods:
        desired.put(Pod(pod.namespace, pod.name, (("app", pod.name),), node.name, pod.addresses))
    desired.put(NetworkPolicy(namespace="bench", name="closed"))
    with ExitStack() as stack:
        traffic = stack.enter_context(Traffic())
        topology = stack.enter_context(NetnsTopology([node], pods, tag="benchlog"))
        inside = topology.node_namespace(node.name)
        netns.inside(inside, functools.partial(load, desired.ruleset()))
        client = stack.enter_context(traffic.client(topology.pod_namespace("bench", "a"), pods[1].addresses[0]))
        attributor = Attributor(desired)
        read = functools.partial(_highest, run, inside, client)
        full, alone = [], []
        for _round in range(1 if run.quick else 3):
            stream = RecordStream(attributor, RecordLimits(), SystemClock(), _discard, Delegation(desired))
            full.append(read("read, attributed and counted", stream.add))
            alone.append(read("read", _ignore))
    yield Row(
        name="NFLOG, real packets, highest rate without loss",
        unit="records/s",
        values=full,
        reference=alone,
        reference_name="read and decoded only",
        targets=(at_least("p50", TARGET),),
        better="higher",
        note=f"rates measured: {_RATES[0]:,} to {_RATES[-1]:,}; sender, kernel and reader share this machine's cores",
    )


def _ignore(_batch: list[LoggedPacket]) -> None:
    pass


def _highest(run: Run, inside: str, client: Client, words: str, on_batch: OnPackets) -> float:
    """Raise the rate until a record is lost or late; return the highest before, 0 where the first is too high."""
    seconds = 0.3 if run.quick else 2.0
    best = 0.0
    for rate in _RATES:
        run.progress(f"{words}: {rate:,} a second")
        trial = functools.partial(_keeps_up, client, rate, seconds, on_batch)
        sent = netns.inside(inside, functools.partial(_run, trial))
        if sent is None:
            break
        best = sent
    return best


def _run(trial: Callable[[], Coroutine[None, None, float | None]]) -> float | None:
    return asyncio.run(trial())


async def _keeps_up(client: Client, rate: int, seconds: float, on_batch: OnPackets) -> float | None:
    """Send at a rate for so long; return the actual rate, None where a record was lost or late."""
    source, sent, came = NflogSource(_GROUP), asyncio.Event(), asyncio.Event()

    def on_packets(batch: list[LoggedPacket]) -> None:
        on_batch(batch)
        came.set()

    loop = asyncio.get_running_loop()
    source.open(on_packets)
    try:
        loop.add_reader(client.output.fileno(), sent.set)
        client.send_datagrams(seconds, rate)
        await asyncio.wait_for(sent.wait(), seconds + _GRACE_SECONDS)
        loop.remove_reader(client.output.fileno())
        count, nanoseconds = client.answer()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LATE_SECONDS):
                while source.counters.received < count:
                    came.clear()
                    await came.wait()
        whole = source.counters.received == count and not source.counters.lost
        return count / nanoseconds * 1e9 if whole else None
    finally:
        source.close()
