"""The targets of `make fuzz-decoders` accept their seeds; needs no atheris."""

from __future__ import annotations

import pytest

from nfagent.netlink import codec
from tests.fuzz_decoders.target import FuzzTarget
from tests.fuzz_decoders.targets import TARGETS

EVERY = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@EVERY
def test_a_target_decodes_its_seeds(target: FuzzTarget) -> None:
    seeds = list(target.seeds())
    assert seeds
    assert any(len(seed) <= target.longest for seed in seeds)
    decoded = [target.accept(seed) for seed in seeds]
    assert any(decoded)


@EVERY
@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 40, b"{", b"[" * 300], ids=repr)
def test_a_target_refuses_what_no_decoder_takes_and_raises_nothing_else(target: FuzzTarget, content: bytes) -> None:
    target.accept(content)


def test_every_target_has_a_name_of_its_own() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)


def _logged(interface: int, *behind: bytes) -> bytes:
    head = codec.nfgen(2, 100) + codec.attribute(1, b"\x08\0\2\0") + codec.attribute(10, b"deny x\0")
    head += codec.attribute(4, bytes((0, 0, 0, interface))) + codec.attribute(3, bytes(16))
    tail = codec.attribute(12, bytes(4)) + codec.attribute(9, b"packet")
    return codec.message(0x400, 0, 0, b"".join((head, *behind, tail)))


FOUND = {
    "an interface behind a logged packet's timestamp": (
        "nflog",
        _logged(3) + _logged(3, codec.attribute(4, bytes((0, 0, 0, 9)))),
    ),
    "a rule of iptables without a chain": ("iptables-save", b"*nat\n-A "),
    "a rule of iptables without a chain that logs": ("iptables-save", b"*nat\n-A  -j NFLOG"),
    "a rule of ours that looks up no set": ("iptables-own", b"*raw\n-A nfa-c -m set\nCOMMIT"),
    "nat chains that lead to themselves": (
        "iptables-save",
        b"*nat\n:POSTROUTING ACCEPT\n" + b"-A POSTROUTING -j POSTROUTING\n" * 24,
    ),
    "a nat chain without a name": (
        "foreign-listings",
        b'{"nftables": [{"chain": {"family": "ip", "table": "nat", "type": "nat", "hook": "postrouting", "prio": 1}}]}',
    ),
}


@pytest.mark.parametrize(("name", "content"), FOUND.values(), ids=FOUND)
def test_what_was_found_once_is_decoded_or_refused(name: str, content: bytes) -> None:
    next(target for target in TARGETS if target.name == name).accept(content)
