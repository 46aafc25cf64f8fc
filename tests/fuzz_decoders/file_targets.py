"""Targets: files, and what other programs print."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path

import msgspec

from nfagent.checkpoint.codec import (
    CheckpointedObject,
    CheckpointHeader,
    decode_header,
    decode_record,
    encode_header,
    encode_record,
)
from nfagent.checkpoint.ruleset_codec import SavedHeader, decode_saved, encode_batches, encode_saved
from nfagent.config import load_settings
from nfagent.decode.registry import DECODERS
from nfagent.errors import DecodeError, NfagentError, WireError
from nfagent.lab.latency.samples import decode_samples, encode_samples
from nfagent.metrics.packet_totals import PacketTotals
from nfagent.model.netaddr import parse_cidr
from nfagent.netlink import codec
from nfagent.netlink.nft_batch import Batch
from nfagent.netlink.nft_messages import (
    NEWCHAIN,
    NEWOBJ,
    NEWRULE,
    NEWSET,
    NEWSETELEM,
    NEWTABLE,
    NFPROTO_INET,
    TABLE_ATTRIBUTE,
)
from nfagent.netlink.saved_batch import decode_saved_batch
from nfagent.nftables import foreign_json
from nfagent.nftables.bridge_table import parse_bridge_table
from nfagent.nftables.foreign_flowtables import parse_flowtables
from nfagent.nftables.foreign_logs import logs_in_save
from nfagent.nftables.foreign_marks import marks_in_listing, marks_in_save
from nfagent.nftables.foreign_nat import TranslatedTraffic, find_conflicts
from nfagent.nftables.iptables_save import parse_iptables_save
from nfagent.nftables.parse import parse_counters, parse_listing
from nfagent.simulate.logged_flows import LoggedFlows
from nfagent.verdicts import records
from tests.fuzz_decoders.object_targets import documents
from tests.fuzz_decoders.target import FuzzTarget
from tests.support.latency_samples import whole_run
from tests.support.two_node_cluster import TwoNodeCluster, pod
from tests.support.valid_documents import LISTING

_ADDS = frozenset({NEWTABLE, NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM, NEWOBJ})
_SYSTEMD = Path(__file__).parents[2] / "systemd"
_TRAFFIC = TranslatedTraffic((parse_cidr("10.244.1.0/24"),), (parse_cidr("10.0.0.0/8"),))


def _read_checkpoint(content: bytes) -> None:
    """Decode lines as they are, and with the checksum that they should have: what an older version wrote."""
    for decode in (decode_header, decode_record):
        for line in content.splitlines(keepends=True)[:8]:
            with suppress(DecodeError):
                decode(line)
            payload = line.rstrip(b"\n")
            with suppress(DecodeError):
                decode(b"%08x %s\n" % (zlib.crc32(payload), payload))


def _checkpoint_seeds() -> Iterator[bytes]:
    yield encode_header(CheckpointHeader("a", "https://api:6443"))
    for document in documents():
        item = DECODERS[document["apiVersion"], document["kind"]](document)
        if item is not None:
            line = encode_record(item.ref, CheckpointedObject(item, "team/f.yaml"))
            yield line
            yield line[9:]


def _read_saved_ruleset(content: bytes) -> None:
    """Decode a file as it is, and with the digest that it should have; and the content of one batch."""
    with suppress(DecodeError):
        decode_saved(content)
    with suppress(DecodeError):
        for batch in decode_saved(content + blake2b(content, digest_size=32).digest()).decoded():
            _check_batch(batch)
    with suppress(WireError):
        _check_batch(decode_saved_batch(content))


def _check_batch(batch: Batch) -> None:
    """Every message but the first and the last adds something to table inet nfagent, as the kernel reads them."""
    for found in list(codec.messages(batch.data))[1:-1]:
        # Of an attribute that is there twice, the kernel takes the last.
        last = dict(codec.attributes(found.payload, codec.NFGEN_SIZE))
        assert (found.payload[0], last[TABLE_ATTRIBUTE]) == (NFPROTO_INET, b"nfagent\0")
        assert found.type in _ADDS


def _saved_ruleset_seeds() -> Iterator[bytes]:
    wanted = TwoNodeCluster(pod("shop/web", "a", 10)).views["a"].ruleset()
    batches, content = encode_batches(wanted)
    # Inputs are short: of the batch its begin, first and last message and end; of the file the same.
    every = list(codec.messages(zlib.decompress(batches[0])))
    chosen = (*every[:3], *every[-2:])
    batch = b"".join(codec.message(each.type, each.flags, each.sequence, each.payload) for each in chosen)
    yield batch
    header = SavedHeader("1", "a", "b", 1.0, ("10.0.0.0/8",), holds_unknown=True, content=content)
    yield encode_saved(header, [zlib.compress(batch, 0)])[:-32]
    yield encode_saved(header, [zlib.compress(batch)])
    yield encode_saved(header, [b""])[:-32]


def _read_packet_counts(content: bytes) -> None:
    totals = PacketTotals("boot")
    if totals.decode(content):
        again = PacketTotals("boot")
        assert again.decode(totals.encode())
        assert again.totals == totals.totals


def _packet_counts_seeds() -> Iterator[bytes]:
    totals = PacketTotals("boot")
    totals.totals[("deny", "shop", "web")] = 7
    totals.owners["deny/x"] = [("deny", "shop", "web")]
    yield totals.encode()
    yield b'{"boot":"boot","readings":{"deny/x":5},"totals":[[["a","b"],3]],"table":9,"handles":{"deny/x":4}}'


@cache
def _file() -> tuple[int, Path]:
    """Return a file in memory, and its path."""
    descriptor = os.memfd_create("settings")
    return descriptor, Path(f"/proc/self/fd/{descriptor}")


def _read_settings(content: bytes) -> None:
    descriptor, path = _file()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
    settings = load_settings(path, {})
    settings.masquerade_settings()
    settings.metrics_address()


def _settings_seeds() -> Iterator[bytes]:
    text = (_SYSTEMD / "nfagent.toml").read_text()
    lines = [line.removeprefix("#").strip() for line in text.splitlines()]
    settings = [line for line in lines if line.startswith("[") or " = " in line]
    yield from (part.encode() for part in "\n".join(settings).replace("\n[", "\n\n[").split("\n\n"))
    yield b'node = "a"\nlog_level = "debug"\n[logging]\nsinks = ["file", "stdout"]\nburst = 1000\n'
    yield b'[masquerade]\nto_ports = ["1024-29999"]\ngateway_mark = "0x0ff00000"\n'
    yield b'[masquerade]\nnon_masquerade_cidrs = ["10.0.0.0/8"]\nenabled = false\n'
    yield b'[metrics]\nlisten = "127.0.0.1:9100"\n[cluster]\npod_cidrs = ["10.0.0.0/8", "fd00::/48"]\n'


def _read_records(content: bytes) -> None:
    logged = LoggedFlows()
    for line in content.splitlines()[:8]:
        with suppress(DecodeError):
            record = records.decode(line)
            assert records.decode(records.encode(record)) == record
            logged.add(record)
    assert all(seen.count >= 1 for seen in logged.flows)


def _record_seeds() -> Iterator[bytes]:
    for disposition, more in (("allow", {}), ("deny", {"policies": [{"kind": "NetworkPolicy", "name": "a"}]})):
        flow = {"src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "src_port": 40000, "dest_port": 80, "protocol": "tcp"}
        record = {
            "connection": {**flow, "direction": "ingress"},
            "disposition": disposition,
            "src": {"pod_name": "web", "pod_namespace": "shop"},
            "dest": {"pod_name": "db", "pod_namespace": "shop", "workload_kind": "Deployment"},
            "count": 1,
            "node_name": "a",
            "timestamp": "2020-06-13T21:29:31.445836587Z",
            **more,
        }
        yield json.dumps(record).encode() + b"\n" + json.dumps(record).encode()


def _read_samples(content: bytes) -> None:
    samples = decode_samples(content, "samples.json")
    assert decode_samples(encode_samples(samples), "samples.json") == samples


def _sample_seeds() -> Iterator[bytes]:
    whole = whole_run(scenarios=("policy-created",), sizes=(0,), count=2)
    yield encode_samples(whole)
    yield encode_samples(msgspec.structs.replace(whole, series=whole.series[:1], rates=[]))


def _read_listing(content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    with suppress(WireError):
        parse_listing(text)
    with suppress(WireError, msgspec.DecodeError, RecursionError):
        parse_counters(msgspec.json.decode(text))
    with suppress(WireError):
        parse_bridge_table(text)


def _listing_seeds() -> Iterator[bytes]:
    for entry in LISTING["nftables"]:
        yield json.dumps({"nftables": [LISTING["nftables"][1], entry]}).encode()
    for expression in LISTING["nftables"][8]["rule"]["expr"]:
        rule = {"family": "inet", "table": "nfagent", "chain": "ingress/x", "expr": [expression]}
        chain = {"family": "inet", "table": "nfagent", "name": "ingress/x"}
        yield json.dumps({"nftables": [LISTING["nftables"][1], {"chain": chain}, {"rule": rule}]}).encode()


def _read_foreign_listing(content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    foreign_json.parse_texts(text)
    for read in (
        foreign_json.parse_base_chains,
        foreign_json.referred_sets,
        foreign_json.parse_elements,
        foreign_json.parse_targets,
        lambda listing: foreign_json.parse_rules(listing, {}, {"s": None}, {}),
        parse_flowtables,
        lambda listing: list(marks_in_listing(listing)),
    ):
        with suppress(NfagentError):
            read(text)


def _foreign_listing_seeds() -> Iterator[bytes]:
    chain = {"family": "ip", "table": "nat", "name": "POSTROUTING", "type": "nat", "hook": "postrouting", "prio": 100}
    saddr = {"payload": {"protocol": "ip", "field": "saddr"}}
    mark = {"meta": {"key": "mark"}}
    expressions = [
        {"match": {"op": "==", "left": saddr, "right": {"prefix": {"addr": "10.0.0.0", "len": 8}}}},
        {"match": {"op": "!=", "left": saddr, "right": {"set": ["10.0.0.1", {"range": ["10.0.0.3", "10.0.0.9"]}]}}},
        {"match": {"op": "==", "left": saddr, "right": "@s"}},
        {"match": {"op": "==", "left": {"&": [mark, 16384]}, "right": 16384}},
        {"mangle": {"key": mark, "value": {"|": [{"&": [mark, 4294950911]}, 16384]}}},
        {"vmap": {"key": saddr, "data": "@m"}},
        {"jump": {"target": "x"}},
        {"snat": {"addr": "192.0.2.1"}},
        {"xt": {"type": "match", "name": "mark"}},
        {"masquerade": None},
    ]
    for expression in expressions:
        rule = {
            "family": "ip",
            "table": "nat",
            "chain": "POSTROUTING",
            "handle": 7,
            "expr": [expression, {"accept": None}],
        }
        yield json.dumps({"nftables": [{"chain": chain}, {"rule": rule}]}).encode()
    item = {
        "family": "ip",
        "table": "nat",
        "name": "s",
        "type": "ipv4_addr",
        "elem": ["10.0.0.1", ["10.0.0.2", {"jump": {"target": "x"}}]],
    }
    flowtable = {"family": "ip", "table": "f", "name": "ft", "hook": "ingress", "prio": 0, "dev": ["eth0"]}
    yield json.dumps(
        {"nftables": [{"set": item}, {"map": {**item, "map": "verdict"}}, {"flowtable": flowtable}]}
    ).encode()
    yield b"table ip nat {\n\tchain POSTROUTING {\n\t\tcounter packets 3 bytes 9 masquerade # handle 7\n\t}\n}\n"


def _read_save(content: bytes) -> None:
    """Decode a listing as one of iptables-save or of ip6tables-save: as both would take twice the time."""
    text = content.decode("utf-8", "replace")
    table = parse_iptables_save(text, "iptables", 4 if len(content) % 2 else 6)
    find_conflicts([table], _TRAFFIC)
    list(logs_in_save(text, "iptables", 100))
    list(marks_in_save(text, "iptables"))


def _save_seeds() -> Iterator[bytes]:
    rules = (
        b"-A POSTROUTING -s 10.244.0.0/16 ! -d 10.0.0.0/8 -j MASQUERADE --random-fully",
        b'-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE',
        b"-A KUBE -m mark ! --mark 0x4000/0x4000 -j RETURN",
        b"-A KUBE -m mark --mark 0x4000 -g OTHER",
        b"-A KUBE -j MARK --set-xmark 0x4000/0x0",
        b"-A OTHER -m iprange --src-range 10.0.0.1-10.0.0.9 -m addrtype --dst-type LOCAL -j SNAT --to 1.2.3.4",
        b"-A POSTROUTING -d fd00::/64 -o lo -j ACCEPT",
        b'-A POSTROUTING -j NFLOG --nflog-group 100 --nflog-prefix "-j X"',
    )
    for rule in rules:
        yield b"*nat\n:POSTROUTING ACCEPT [0:0]\n:KUBE - [0:0]\n" + rule + b"\nCOMMIT\n"
    yield b"*mangle\n" + b"\n".join(rules) + b"\nCOMMIT\n*nat\n:POSTROUTING ACCEPT [0:0]\n" + b"\n".join(rules)


_NFT_WORDS = tuple(
    f'"{word}"'.encode()
    for word in (
        "nftables",
        "table",
        "chain",
        "rule",
        "expr",
        "set",
        "map",
        "elem",
        "match",
        "op",
        "left",
        "right",
        "payload",
        "ct",
        "meta",
        "prefix",
        "range",
        "concat",
        "vmap",
        "counter",
        "log",
        "goto",
        "inet",
        "nfagent",
        "flags",
        "comment",
    )
)

TARGETS = (
    FuzzTarget(name="checkpoint", read=_read_checkpoint, seeds=_checkpoint_seeds, longest=1024),
    FuzzTarget(name="saved-ruleset", read=_read_saved_ruleset, seeds=_saved_ruleset_seeds, longest=1024),
    FuzzTarget(name="packet-counts", read=_read_packet_counts, seeds=_packet_counts_seeds, longest=512),
    FuzzTarget(name="settings", read=_read_settings, seeds=_settings_seeds, longest=512),
    FuzzTarget(name="verdict-records", read=_read_records, seeds=_record_seeds, longest=1024),
    FuzzTarget(name="lab-samples", read=_read_samples, seeds=_sample_seeds, longest=4096),
    FuzzTarget(name="nft-listings", read=_read_listing, seeds=_listing_seeds, words=_NFT_WORDS, longest=1024),
    FuzzTarget(
        name="foreign-listings", read=_read_foreign_listing, seeds=_foreign_listing_seeds, words=_NFT_WORDS, longest=768
    ),
    FuzzTarget(name="iptables-save", read=_read_save, seeds=_save_seeds, longest=768),
)
