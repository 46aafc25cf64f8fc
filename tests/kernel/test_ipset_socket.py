"""ipsets by netlink in a real kernel: what ipset(8) shows of them, and how a refusal reads."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nfagent.errors import KernelError, SetFullError
from nfagent.kernel.ipset_refusals import SetRefusedError
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.model.netaddr import Family
from nfagent.xtables.objects import IpSet, SetMember, SetType
from nfagent.xtables.text import member_text
from tests.support.own_namespace import own_iptables

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and ipset"),
]

ZERO = "0.0.0.0"  # noqa: S104 - nothing is bound to it
MEMBERS: dict[tuple[SetType, Family], tuple[SetMember, ...]] = {
    ("hash:ip", 4): ("10.0.0.1", "10.0.0.2"),
    ("hash:ip", 6): ("2001:db8::1", "fd00::2"),
    ("hash:net", 4): ((ZERO, 1), ("10.0.0.0", 8), ("10.1.2.0", 24)),
    ("hash:net", 6): (("2001:db8::", 32), ("8000::", 1)),
    ("hash:ip,port", 4): (("10.0.0.1", "tcp", 80), ("10.0.0.1", "sctp", 80)),
    ("hash:ip,port", 6): (("fd00::1", "udp", 53),),
    ("hash:ip,port,ip", 4): (("10.0.0.1", "udp", 53, "10.0.0.2"),),
    ("hash:ip,port,ip", 6): (("fd00::1", "tcp", 80, "fd00::2"),),
    ("hash:net,iface", 4): ((ZERO, 0, "eth0"), ("10.0.0.0", 24, "cali12345678901")),
    ("hash:net,iface", 6): (("::", 0, "eth0"),),
    ("bitmap:port", 4): (0, 80, 65535),
}


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; the lock of iptables is this test's own."""
    with own_iptables("ipset", tmp_path, monkeypatch):
        yield


@pytest.fixture
def sets(_namespace: None) -> Iterator[IpSetSocket]:
    with closing(IpSetSocket()) as opened:
        yield opened


def ipset(*arguments: str) -> str:
    """Run the program, as another one would."""
    return subprocess.run(["ipset", *arguments], check=True, capture_output=True, text=True).stdout


def shown_members(name: str) -> set[str]:
    return set(ipset("list", name).partition("Members:\n")[2].split("\n")) - {""}


@pytest.mark.parametrize(
    ("kind", "family", "members"),
    [(kind, family, members) for (kind, family), members in MEMBERS.items()],
    ids=[f"{kind} of IPv{family}" for kind, family in MEMBERS],
)
def test_members_are_listed_as_they_were_added_and_as_ipset_shows_them(
    sets: IpSetSocket, kind: SetType, family: Family, members: tuple[SetMember, ...]
) -> None:
    sets.create("nfa-x", IpSet(kind, family))

    sets.change("add", "nfa-x", members)

    listed = sets.read("nfa-x")
    assert (listed.header.type, listed.header.family, listed.members) == (kind, family, frozenset(members))
    assert shown_members("nfa-x") == set(map(member_text, members))


def test_deleted_members_are_gone_and_the_others_stay(sets: IpSetSocket) -> None:
    sets.create("nfa-x", IpSet("hash:ip", 4))
    sets.change("add", "nfa-x", ["10.0.0.1", "10.0.0.2", "10.0.0.3"])

    sets.change("delete", "nfa-x", ["10.0.0.2", "10.0.0.9"])

    assert sets.read("nfa-x").members == {"10.0.0.1", "10.0.0.3"}


def test_more_members_than_one_message_holds_are_all_added(sets: IpSetSocket) -> None:
    members = frozenset(f"10.1.{number >> 8}.{number & 255}" for number in range(10_000))
    sets.create("nfa-x", IpSet("hash:ip", 4))

    sets.change("add", "nfa-x", members)

    assert sets.read("nfa-x").members == members


def test_properties_are_listed_as_they_were_created(sets: IpSetSocket) -> None:
    sets.create("nfa-x", IpSet("hash:ip,port,ip", 6, counters=True, timeout=300, size=100))

    header = sets.read("nfa-x").header

    assert (header.timeout, header.size, header.flags, header.others) == (300, 100, 8, frozenset())


def test_packets_are_counted_by_address(sets: IpSetSocket) -> None:
    sets.create("nfa-x", IpSet("hash:ip", 4, counters=True))
    sets.change("add", "nfa-x", ["127.0.0.1", "127.0.0.2"])
    rule = ("-t", "mangle", "-A", "OUTPUT", "-p", "udp", "-m", "set", "--match-set", "nfa-x", "dst")
    subprocess.run(["iptables-legacy", *rule], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"packet", ("127.0.0.1", 9))

    assert sets.packets("nfa-x") == {"127.0.0.1": 1, "127.0.0.2": 0}
    assert sets.packets("nfa-none") == {}


def test_swapped_sets_have_each_others_members(sets: IpSetSocket) -> None:
    for name, member in (("nfa-x", "10.0.0.1"), ("nfa-y", "10.0.0.2")):
        sets.create(name, IpSet("hash:ip", 4))
        sets.change("add", name, [member])

    sets.swap("nfa-x", "nfa-y")

    assert sets.read("nfa-x").members == {"10.0.0.2"}


def test_a_renamed_set_is_found_by_its_new_name_only(sets: IpSetSocket) -> None:
    sets.create("nfa-x", IpSet("hash:ip", 4))

    sets.rename("nfa-x", "nfa-y")

    assert sets.names() == ["nfa-y"]


def test_all_names_and_numbers_of_members_are_listed_without_the_members(sets: IpSetSocket) -> None:
    ipset("create", "foreign", "list:set")
    sets.create("nfa-x", IpSet("hash:ip", 4))
    sets.change("add", "nfa-x", ["10.0.0.1", "10.0.0.2"])

    headers = {header.name: header.elements for header in sets.headers()}

    assert headers == {"foreign": 0, "nfa-x": 2}
    assert set(sets.names()) == {"foreign", "nfa-x"}


def test_members_of_a_form_that_is_never_written_are_counted(sets: IpSetSocket) -> None:
    sets.create("nfa-x", IpSet("hash:net", 4))
    sets.change("add", "nfa-x", [("10.0.0.0", 8)])
    ipset("add", "nfa-x", "10.1.0.0/16", "nomatch")

    listed = sets.read("nfa-x")

    assert (listed.members, listed.unknown) == (frozenset({("10.0.0.0", 8)}), 1)


def full(sets: IpSetSocket) -> None:
    sets.create("nfa-x", IpSet("hash:ip", 4, size=64))
    sets.change("add", "nfa-x", [f"10.0.{number}.1" for number in range(256)])


def refused_member(sets: IpSetSocket) -> None:
    sets.create("nfa-x", IpSet("hash:net", 4))
    sets.change("add", "nfa-x", [("10.0.0.0", 8), (ZERO, 0)])


def in_use(sets: IpSetSocket) -> None:
    sets.create("nfa-x", IpSet("hash:ip", 4))
    rule = ("-t", "mangle", "-A", "FORWARD", "-m", "set", "--match-set", "nfa-x", "src", "-j", "DROP")
    subprocess.run(["iptables-legacy", *rule], check=True)
    sets.destroy("nfa-x")


def other_types(sets: IpSetSocket) -> None:
    sets.create("nfa-x", IpSet("hash:ip", 4))
    sets.create("nfa-y", IpSet("hash:net", 4))
    sets.swap("nfa-x", "nfa-y")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (full, r"^ipset add nfa-x 10\.0\.\d+\.1: the set is full \(IPSET_ERR_HASH_FULL\)$"),
        (
            refused_member,
            r"^ipset add nfa-x 0\.0\.0\.0/0: the set takes no such prefix length \(IPSET_ERR_INVALID_CIDR\)$",
        ),
        (
            in_use,
            (
                r"^ipset destroy nfa-x: rules or other sets still refer to it \(IPSET_ERR_BUSY\); delete what "
                r"`\(iptables-legacy-save; iptables-nft-save; ipset save\) \| grep nfa-x` shows$"
            ),
        ),
        (other_types, r"^ipset swap nfa-x nfa-y: the two sets have different types"),
        (
            lambda sets: sets.change("add", "nfa-z", ["10.0.0.1"]),
            r"^ipset add nfa-z 10\.0\.0\.1: there is no set of this name",
        ),
        (lambda sets: sets.read("nfa-z"), r"^ipset list nfa-z: there is no set of this name \(ENOENT\)$"),
    ],
    ids=["full", "a member that is refused", "in use", "other types", "no set to add to", "no set to list"],
)
def test_a_refusal_names_the_set_the_member_and_the_reason(
    sets: IpSetSocket, act: Callable[[IpSetSocket], object], message: str
) -> None:
    with pytest.raises(SetRefusedError, match=message):
        act(sets)


def test_a_full_set_is_told_apart_from_other_refusals(sets: IpSetSocket) -> None:
    with pytest.raises(SetFullError):
        full(sets)


def test_a_type_that_the_kernel_lacks_is_named_with_its_module(sets: IpSetSocket) -> None:
    missing: SetType = "hash:net,nothing"  # type: ignore[assignment]

    with pytest.raises(KernelError, match=r"modprobe ip_set_hash_netnothing, or run a kernel with"):
        sets.create("nfa-x", IpSet(missing, 4))


def test_named_counters_are_created_listed_and_deleted() -> None:
    with closing(NfacctSocket()) as accounts:
        accounts.create("nfa-a")
        accounts.create("nfa-b")
        accounts.create("nfa-a")
        accounts.delete("nfa-b")
        accounts.delete("nfa-b")

        assert [(found.name, found.packets, found.bytes) for found in accounts.read()] == [("nfa-a", 0, 0)]
