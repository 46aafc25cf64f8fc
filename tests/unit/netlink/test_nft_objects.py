"""Tables, chains, counters and deletions: encoding by linux/netfilter/nf_tables.h, equal to that of nft."""

from __future__ import annotations

import sys

import pytest

from nfagent.errors import WireError
from nfagent.netlink.nft_messages import HEADERS_SIZE, NFPROTO_BRIDGE, NFPROTO_INET
from nfagent.netlink.nft_objects import DeleteRule, ObjectCommand, object_message
from nfagent.nftables.objects import Chain, Hook
from nfagent.nftables.transaction import AddChain, AddCounter, AddTable, Delete, FlushChain

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes are those of a little-endian machine")

INET = "01000000 0c000100 6e666167656e7400"  # struct nfgenmsg; table nfagent
BASE = AddChain("f", Chain((), Hook("filter", "forward", -5)))
NAT = AddChain("n", Chain((), Hook("nat", "postrouting", 100)))


@pytest.mark.parametrize(
    ("command", "kind", "flags", "written"),
    [
        pytest.param(AddTable(), 0xA00, 0x400, "08000200 00000000", id="a table has no flags"),
        pytest.param(AddChain("k", Chain()), 0xA03, 0x400, "06000300 6b000000", id="a chain is its name"),
        pytest.param(
            BASE,
            0xA03,
            0x400,
            "06000300 66000000  0b000700 66696c74 65720000  08000500 00000001"
            "14000480 08000100 00000002 08000200 fffffffb",
            id="a base chain has type, policy, hook and a signed priority",
        ),
        pytest.param(
            NAT,
            0xA03,
            0x400,
            "06000300 6e000000  08000700 6e617400  08000500 00000001  14000480 08000100 00000004 08000200 00000064",
            id="a base chain of type nat likewise",
        ),
        pytest.param(
            AddCounter("c1"),
            0xA12,
            0x400,
            "07000200 63310000  08000300 00000001  1c000480 0c000100 0000000000000000 0c000200 0000000000000000",
            id="a counter starts with no bytes and no packets",
        ),
        pytest.param(
            FlushChain("k"), 0xA08, 0, "06000200 6b000000", id="all rules of a chain are a rule without handle"
        ),
        pytest.param(
            DeleteRule("k", 7),
            0xA08,
            0,
            "06000200 6b000000  0c000300 0000000000000007",
            id="one rule is deleted by its handle",
        ),
        pytest.param(Delete("table"), 0xA02, 0, "", id="a table is deleted with all its objects"),
        pytest.param(Delete("chain", "k"), 0xA05, 0, "06000300 6b000000", id="a chain is deleted by its name"),
        pytest.param(Delete("set", "s"), 0xA0B, 0, "06000200 73000000", id="a set is deleted by its name"),
        pytest.param(Delete("map", "m"), 0xA0B, 0, "06000200 6d000000", id="a map is a set to the kernel"),
        pytest.param(
            Delete("flowtable", "f"), 0xA18, 0, "06000200 66000000", id="a flowtable has a message of its own"
        ),
        pytest.param(
            Delete("counter", "c1"),
            0xA14,
            0,
            "07000200 63310000 08000300 00000001",
            id="a counter is an object of type 1",
        ),
        pytest.param(
            Delete("ct helper", "h"),
            0xA14,
            0,
            "06000200 68000000 08000300 00000003",
            id="an object of another program is deleted by its type and name",
        ),
    ],
)
def test_a_command_is_written_as_nft_writes_it(command: ObjectCommand, kind: int, flags: int, written: str) -> None:
    message = object_message(command, family=NFPROTO_INET)

    assert (message.type, message.flags) == (kind, flags)
    assert message.body.hex() == bytes.fromhex(INET + written).hex()


def test_the_table_of_another_family_has_its_number_and_its_name() -> None:
    message = object_message(FlushChain("k"), family=NFPROTO_BRIDGE)

    assert message.body[:4] == bytes.fromhex("07000000")
    assert message.request.describe() == "flush chain bridge nfagent k"
    assert message.request.part_at(HEADERS_SIZE) == "table bridge nfagent"


NAMES_END = HEADERS_SIZE + 12  # behind the table's name


@pytest.mark.parametrize(
    ("command", "offset", "part"),
    [
        pytest.param(BASE, None, "", id="where the kernel doesn't say"),
        pytest.param(BASE, 0, "", id="the header is no part"),
        pytest.param(BASE, HEADERS_SIZE, "table inet nfagent", id="the table's name comes first"),
        pytest.param(BASE, NAMES_END, "chain f", id="the chain's name is second"),
        pytest.param(BASE, NAMES_END + 8, "type filter", id="the type of the chain"),
        pytest.param(BASE, NAMES_END + 20, "policy accept", id="its policy"),
        pytest.param(BASE, NAMES_END + 28, "hook forward priority -5", id="its hook"),
        pytest.param(BASE, NAMES_END + 40, "hook forward priority -5", id="an attribute within the hook"),
        pytest.param(BASE, NAMES_END + 48, "", id="behind the last attribute there is none"),
        pytest.param(AddTable(), NAMES_END, "flags", id="the flags of a table"),
        pytest.param(AddCounter("c"), NAMES_END + 16, "counter c", id="the value of a counter is the counter"),
        pytest.param(DeleteRule("k", 7), NAMES_END + 8, "handle 7", id="the handle of a rule"),
        pytest.param(Delete("quota", "q"), NAMES_END + 8, "quota q", id="the type of an object"),
    ],
)
def test_a_part_is_found_by_its_offset(command: ObjectCommand, offset: int | None, part: str) -> None:
    assert object_message(command, family=NFPROTO_INET).request.part_at(offset) == part


def test_a_single_rule_is_described_by_its_handle() -> None:
    described = object_message(DeleteRule("deny/x", 7), family=NFPROTO_INET).request.describe()

    assert described == "delete rule inet nfagent deny/x handle 7"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param(AddChain("", Chain()), "name of a chain", id="no name"),
        pytest.param(FlushChain("k" * 256), "1 to 255 bytes", id="a name over the kernel's longest"),
        pytest.param(Delete("set", "a\0b"), "none of them 0", id="a name with a zero"),
        pytest.param(AddCounter("\ud800"), "isn't Unicode", id="a name that no bytes can have"),
        pytest.param(Delete("gate", "g"), "Delete.*gate", id="a kind that the kernel doesn't have"),
        pytest.param(
            AddChain("k", Chain((), Hook("filter", "sideways", 0))),  # type: ignore[arg-type]
            "AddChain.*sideways",
            id="a hook that the kernel doesn't have",
        ),
        pytest.param(
            AddChain("k", Chain((), Hook("filter", "input", 1 << 31))), "AddChain", id="a priority of 33 bits"
        ),
        pytest.param(DeleteRule("k", -1), "DeleteRule", id="a negative handle"),
        pytest.param(DeleteRule("k", 1 << 64), "DeleteRule", id="a handle of 65 bits"),
    ],
)
def test_what_has_no_encoding_is_an_error_with_its_object(command: ObjectCommand, said: str) -> None:
    with pytest.raises(WireError, match=said):
        object_message(command, family=NFPROTO_INET)
