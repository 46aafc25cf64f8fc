"""sock_diag messages about unix sockets, encoded and decoded."""

from __future__ import annotations

import struct

import pytest

from nfagent.errors import WireError
from nfagent.netlink.codec import Message, attribute, messages
from nfagent.netlink.unix_diag import SOCK_DIAG_BY_FAMILY, UnixSocket, decode_socket, encode_socket_dump


def told(inode: int, *said: bytes) -> Message:
    head = struct.pack("=BBBBIII", 1, 1, 7, 0, inode, 0, 0)
    return Message(SOCK_DIAG_BY_FAMILY, 2, 1, 0, head + b"".join(said))


def test_a_name_is_read_as_its_bytes_are() -> None:
    assert decode_socket(told(7, attribute(0, b"\0a\nb"))) == UnixSocket(7, b"\0a\nb")


def test_a_socket_without_a_name_has_none() -> None:
    assert decode_socket(told(7)) == UnixSocket(7)


def test_the_user_who_created_a_socket_is_read() -> None:
    assert decode_socket(told(7, attribute(7, struct.pack("=I", 65534)))) == UnixSocket(7, user=65534)


@pytest.mark.parametrize("value", [b"", b"\0\0\0", bytes(8)], ids=["empty", "short", "long"])
def test_a_user_of_another_length_is_unknown(value: bytes) -> None:
    assert decode_socket(told(7, attribute(7, value))) == UnixSocket(7)


def test_all_sockets_in_all_states_are_asked_for_with_names_and_users() -> None:
    (asked,) = messages(encode_socket_dump(5))
    assert (asked.type, asked.flags, asked.sequence) == (SOCK_DIAG_BY_FAMILY, 0x301, 5)
    assert asked.payload == struct.pack("=BBHIIIII", 1, 0, 0, 0xFFFFFFFF, 0, 0x41, 0, 0)


@pytest.mark.parametrize("found", [Message(3, 2, 1, 0, bytes(20)), Message(SOCK_DIAG_BY_FAMILY, 2, 1, 0, bytes(15))])
def test_a_message_that_is_not_a_socket_is_an_error(found: Message) -> None:
    with pytest.raises(WireError, match="is not a unix_diag_msg"):
        decode_socket(found)
