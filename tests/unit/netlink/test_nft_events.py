"""Notifications of nf_tables: the table, and the process that committed."""

from __future__ import annotations

import struct

import pytest

from nfagent.errors import WireError
from nfagent.netlink.codec import Message, attribute, message, nfgen
from nfagent.netlink.nft_events import (
    ChainName,
    CommitOrigin,
    decode_chain_name,
    decode_commit_origin,
    decode_generation,
    decode_table,
    named_families,
)

NEWTABLE, NEWCHAIN, NEWGEN = 10 << 8 | 0, 10 << 8 | 3, 10 << 8 | 15
GENERATION = attribute(1, struct.pack("!I", 7))
PROCESS = attribute(2, struct.pack("!I", 4711))


def table(name: str, family: int = 1) -> bytes:
    return message(NEWTABLE, 0, 1, nfgen(family, 7) + attribute(1, name.encode() + b"\0"))


def generation(*attributes: bytes) -> bytes:
    return message(NEWGEN, 0, 1, nfgen(0, 7) + b"".join(attributes))


@pytest.mark.parametrize(
    ("datagram", "named"),
    [
        pytest.param(table("nfagent"), {1}, id="our table"),
        pytest.param(table("nfagent", 7), {7}, id="our table of bridges"),
        pytest.param(table("nfagent", 7) + table("nfagent"), {1, 7}, id="both, as a flush of the ruleset does"),
        pytest.param(table("kube-proxy", 7) + table("nfagent"), {1}, id="our table after another"),
        pytest.param(table("kube-proxy"), set(), id="another table"),
        pytest.param(table("nfagent-lab"), set(), id="a table whose name begins as ours does"),
        pytest.param(table("my-nfagent"), set(), id="a table whose name ends as ours does"),
        pytest.param(b"", set(), id="nothing at all"),
    ],
)
def test_a_datagram_names_our_tables_where_one_of_its_messages_does(datagram: bytes, named: set[int]) -> None:
    assert named_families(datagram) == named


def test_a_message_about_our_table_that_is_cut_short_is_a_wire_error() -> None:
    more = message(NEWTABLE, 0, 1, nfgen(1, 7) + attribute(1, b"nfagent\0") + attribute(2, bytes(4)))
    with pytest.raises(WireError):
        named_families(table("kube-proxy") + more[:-4])


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        pytest.param((GENERATION, PROCESS, attribute(3, b"nft\0")), "nft (process 4711)", id="process and name"),
        pytest.param((GENERATION, PROCESS), "unknown (process 4711)", id="a process without a name"),
        pytest.param((GENERATION, attribute(3, b"nft\0")), "nft", id="a name alone"),
        pytest.param((GENERATION,), "", id="no process, as in old kernels"),
        pytest.param((PROCESS, attribute(3, b"\xff\0")), "\\xff (process 4711)", id="a name that is no UTF-8"),
    ],
)
def test_newgen_names_the_process_that_committed(attributes: tuple[bytes, ...], words: str) -> None:
    committer = decode_commit_origin(generation(*attributes))
    assert committer is not None
    assert str(committer) == words


@pytest.mark.parametrize(
    "datagram",
    [pytest.param(table("nfagent"), id="a table"), pytest.param(b"", id="nothing")],
)
def test_a_message_other_than_newgen_has_no_committer(datagram: bytes) -> None:
    assert decode_commit_origin(datagram) is None


def test_a_process_id_of_another_size_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="a process id of 2 bytes, not 4"):
        decode_commit_origin(generation(attribute(2, b"\0\1")))


def test_an_unknown_committer_is_empty_text() -> None:
    assert str(CommitOrigin()) == ""


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        pytest.param(b"", "the reply is not NFT_MSG_NEWGEN", id="nothing"),
        pytest.param(table("nfagent"), "the reply is not NFT_MSG_NEWGEN", id="a table"),
        pytest.param(generation(PROCESS), "the reply has no NFTA_GEN_ID", id="no number"),
        pytest.param(generation(attribute(1, b"\0")), "a generation of 1 bytes, not 4", id="a number of another size"),
    ],
)
def test_an_answer_without_a_generation_is_a_wire_error(answer: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        decode_generation(answer)


def test_the_generation_is_read_from_its_answer() -> None:
    assert decode_generation(generation(GENERATION, PROCESS)) == 7


SIZE = attribute(3, struct.pack("!I", 12))


def test_the_size_of_a_table_is_decoded() -> None:
    payload = nfgen(1, 7) + attribute(1, b"kube-proxy\0") + SIZE
    table = decode_table(Message(NEWTABLE, 0, 1, 0, payload))
    assert (table.name, table.size) == ("kube-proxy", 12)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        pytest.param(Message(NEWGEN, 0, 1, 0, b""), "unexpected message of type 2575", id="something else"),
        pytest.param(
            Message(NEWTABLE, 0, 1, 0, nfgen(1, 7) + attribute(3, b"\0")),
            "a table's size of 1 bytes, not 4",
            id="a size of another size",
        ),
    ],
)
def test_a_message_that_is_not_a_table_is_a_wire_error(answer: Message, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        decode_table(answer)


def test_a_table_s_message_without_its_header_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="ends inside its header"):
        decode_table(Message(NEWTABLE, 0, 1, 0, b""))


def test_a_chain_is_named_with_its_family_and_table() -> None:
    payload = nfgen(2, 7) + attribute(1, b"mangle\0") + attribute(3, b"FORWARD\0")
    assert decode_chain_name(Message(NEWCHAIN, 0, 1, 0, payload)) == ChainName(2, "mangle", "FORWARD")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        pytest.param(Message(NEWTABLE, 0, 1, 0, nfgen(1, 7)), "unexpected message of type 2560", id="a table"),
        pytest.param(Message(NEWCHAIN, 0, 1, 0, b""), "ends inside its header", id="no header"),
    ],
)
def test_a_message_that_names_no_chain_is_a_wire_error(answer: Message, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        decode_chain_name(answer)
