"""How a target splits an input into what a connection delivers."""

from __future__ import annotations

import pytest

from tests.fuzz_decoders.target import pieces

TEXT = bytes(range(200)) * 5


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 1000])
def test_the_pieces_are_the_input_behind_its_first_byte(size: int) -> None:
    for first in range(256):
        found = pieces(bytes([first]) + TEXT[:size])
        assert b"".join(found) == TEXT[:size]
        assert len(found) <= 66


def test_an_empty_input_has_no_bytes() -> None:
    assert b"".join(pieces(b"")) == b""


def test_a_short_input_comes_byte_by_byte() -> None:
    assert pieces(b"\0abc") == [b"a", b"b", b"c"]


def test_a_long_input_can_be_cut_at_any_byte() -> None:
    cuts = set[int]()
    for first in range(256):
        position = 0
        for piece in pieces(bytes([first]) + TEXT):
            position += len(piece)
            cuts.add(position)
    assert cuts == set(range(1, len(TEXT) + 1))
