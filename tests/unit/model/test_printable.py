"""Escaped text can't control a terminal or forge a line; JSON keeps its value."""

from __future__ import annotations

import json
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.printable import printable, printable_json, printable_lines
from nfagent.nftables.names import COMMENT_BYTES, comment

ANY = st.text(st.characters(codec=None))
STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of control characters, invisible and bidirectional ones, surrogates, separators of lines."""


def steers(text: str) -> bool:
    return any(unicodedata.category(character) in STEERING for character in text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("shop/db", "shop/db", id="a name of Kubernetes"),
        pytest.param("été 日本 😀", "été 日本 😀", id="other letters"),
        pytest.param("a\nb\r\tc", r"a\nb\r\tc", id="ends of lines"),
        pytest.param("\x1b[2J\a", r"\x1b[2J\x07", id="an escape sequence and a bell"),
        pytest.param("\x9b2J\x7f", r"\x9b2J\x7f", id="a control sequence of one character"),
        pytest.param(
            "\u202egnp.exe\u2066\u2069\u200f\u200e", r"\u202egnp.exe\u2066\u2069\u200f\u200e", id="directions"
        ),
        pytest.param("a\u2028b\u2029c\x85", r"a\u2028b\u2029c\x85", id="separators of lines"),
        pytest.param("\udcff", r"\udcff", id="half a surrogate pair"),
        pytest.param("\U000e0041\u00ad\ufeff", r"\U000e0041\xad\ufeff", id="what can't be seen"),
    ],
)
def test_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(ANY)
def test_any_text_becomes_one_line_without_control_characters(text: str) -> None:
    assert not steers(printable(text))
    assert len(printable(text).splitlines()) <= 1


@given(ANY)
def test_a_text_of_lines_keeps_its_own_ends_of_lines(text: str) -> None:
    shown = printable_lines(text)
    assert not steers(shown.replace("\n", "").replace("\t", ""))
    assert shown.count("\n") == text.count("\n")


@given(st.dictionaries(ANY, st.lists(ANY, max_size=3), max_size=3))
def test_json_keeps_its_values_and_steers_nothing(value: dict[str, list[str]]) -> None:
    for indent in (None, 2):
        shown = printable_json(json.dumps(value, ensure_ascii=False, indent=indent))
        assert not steers(shown.replace("\n", ""))
        assert json.loads(shown) == value


@given(st.text())
def test_so_does_json_of_msgspec_which_stays_one_line(value: str) -> None:
    shown = printable_json(msgspec.json.encode(value).decode())
    assert (json.loads(shown), len(shown.splitlines()), steers(shown)) == (value, 1, False)


@given(ANY)
def test_a_comment_of_nft_steers_nothing(text: str) -> None:
    made = comment(text)
    assert not steers(made)
    assert '"' not in made
    assert len(made.encode()) <= COMMENT_BYTES
