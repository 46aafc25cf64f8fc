"""Targets: rules of iptables, as iptables-save prints ours, and as they are saved for a boot."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import suppress

from nfagent.checkpoint.xt_ruleset_codec import decode_xt_ruleset
from nfagent.errors import DecodeError
from nfagent.netlink import ipset, nfacct
from nfagent.xtables.changes import grouped, restore_input
from nfagent.xtables.names import PREFIX
from nfagent.xtables.objects import EMPTY, XtRuleset
from nfagent.xtables.order import StepOrder
from nfagent.xtables.saved import is_ours, parse_saved, words_of
from nfagent.xtables.steps import AddAccounts, CreateSet, Restore
from tests.fuzz_decoders.target import FuzzTarget

_RESTORED = ("*", "COMMIT", ":", "-A ", "-I ")


def _read_saved_iptables(content: bytes) -> None:
    """Decode the rules of a file, as they are and compressed; what is decoded is written, or can't be encoded."""
    for part in (content, zlib.compress(content, 0)):
        with suppress(DecodeError):
            _write(decode_xt_ruleset((part,)).ruleset)


def _write(ruleset: XtRuleset) -> None:
    """Encode a ruleset as a node that boots writes it. Raises WireError."""
    for group in grouped(StepOrder().steps(EMPTY, ruleset)):
        match group[0]:
            case CreateSet(name, item):
                ipset.create_request(name, item, 1, 1)
                list(ipset.member_requests("add", name, sorted(item.members, key=str), 1))
            case AddAccounts(names):
                for name in names:
                    nfacct.create_request(name, 1)
            case Restore():
                tables = restore_input(group, {}).splitlines()
                assert all(line.startswith(_RESTORED) and is_ours(_chain_of(line)) for line in tables), tables


def _chain_of(line: str) -> str:
    """Return the chain that a line of iptables-restore's input changes: for a jump to ours, the chain of ours."""
    words = line.split(" ")
    match line[:1]:
        case ":":
            return words[0][1:]
        case "-":
            return words[1] if words[0] == "-A" else words[-1]
    return PREFIX


def _saved_iptables_seeds() -> Iterator[bytes]:
    rule = {"matches": [["-m", "set", "--match-set", "nfa-s", "src"]], "target": ["-j", "DROP"], "comment": "a"}
    members: dict[str, list[object]] = {
        "hash:ip": ["10.0.0.1"],
        "hash:net": [["10.0.0.0", 8]],
        "hash:ip,port": [["10.0.0.1", "tcp", 80]],
        "hash:ip,port,ip": [["10.0.0.1", "udp", 53, "10.0.0.2"]],
        "hash:net,iface": [["10.0.0.0", 8, "eth0"]],
        "bitmap:port": [80],
    }
    for kind, members_of in members.items():
        made = {"name": "nfa-s", "type": kind, "family": 4, "members": members_of, "counters": True, "origin": "x"}
        content = {
            "variant": "legacy",
            "sets": [made | {"timeout": 0, "size": 65536}],
            "chains": [{"family": 4, "table": "mangle", "name": "nfa-c", "rules": [rule], "origin": "c"}],
            "hooks": [{"family": 4, "table": "mangle", "hook": "FORWARD", "target": "nfa-c"}],
            "accounts": ["nfa-a"],
        }
        yield json.dumps(content).encode()
        yield zlib.compress(json.dumps(content).encode())


def _read_own_save(content: bytes) -> None:
    """Decode a listing of our own chains; what a rule says is no other rule's."""
    for table in parse_saved(content.decode("utf-8", "replace"), 4 if len(content) % 2 else 6).values():
        for chain in table.chains.values():
            for rule in chain.rules:
                assert not rule.comment or "--comment" in list(words_of(rule))
                list(rule.lookups())


def _own_save_seeds() -> Iterator[bytes]:
    rules = (
        b"-A nfa-c -m set --match-set nfa-s src -j DROP",
        b'-A nfa-c ! -s 10.0.0.0/8 -p tcp -m comment --comment "a \\"b\\"" -g nfa-d',
        b'-A nfa-c -m rpfilter --loose --invert -j NFLOG --nflog-group 100 --nflog-prefix "-j X"',
        b"[3:40] -A nfa-c -m nfacct --nfacct-name nfa-a -m addrtype ! --src-type LOCAL",
        b"-A FORWARD -j nfa-c",
        b"-A KUBE -m mark --mark 0x1/0x1 -j nfa-c",
    )
    for rule in rules:
        yield b"*mangle\n:FORWARD ACCEPT [0:0]\n:nfa-c - [0:0]\n" + rule + b"\nCOMMIT\n"
    yield b"*raw\n:nfa-c - [0:0]\n" + b"\n".join(rules) + b"\nCOMMIT\n*nat\n" + b"\n".join(rules) + b"\nCOMMIT"


TARGETS = (
    FuzzTarget(name="saved-iptables", read=_read_saved_iptables, seeds=_saved_iptables_seeds, longest=1024),
    FuzzTarget(name="iptables-own", read=_read_own_save, seeds=_own_save_seeds, longest=768),
)
