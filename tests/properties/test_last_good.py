"""What is kept for the next start is what was read; what is damaged is an error, and never another object."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.checkpoint.codec import CheckpointedObject, decode_record, encode_record
from nfagent.errors import DecodeError
from nfagent.model.gvk import Item
from tests.properties.strategies import items

LINES = items().map(lambda item: encode_record(item.ref, CheckpointedObject(item)))


@given(items(), st.sampled_from(["", "team/f.yaml", "\N{SNOWMAN}\n.yaml"]))
def test_an_object_comes_back_as_it_was(item: Item, file: str) -> None:
    line = encode_record(item.ref, CheckpointedObject(item, file))
    assert line.count(b"\n") == 1
    assert decode_record(line) == (item.ref, CheckpointedObject(item, file))


@given(LINES, st.data())
def test_a_damaged_line_is_an_error(line: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(line) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != line[at]))
    cut = data.draw(st.integers(0, len(line) - 2))
    for damaged in (line[:at] + bytes([byte]) + line[at + 1 :], line[:cut], line[cut + 1 :]):
        with pytest.raises(DecodeError):
            decode_record(damaged)
