"""Files of samples: what is written is read again, and what can't be read is named."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import UsageError
from nfagent.lab.latency.samples import Series, Try, decode_samples, encode_samples, read_samples
from tests.support.latency_samples import latency_samples, whole_run

RUN = whole_run(scenarios=("policy-created",), sizes=(0,), count=3)


def test_samples_are_read_as_they_were_written() -> None:
    assert decode_samples(encode_samples(RUN), "run.json") == RUN


def test_a_try_that_timed_out_is_read_as_one() -> None:
    run = latency_samples([Series("policy-created", 0, 10, "ebpf", [Try(None, {}), Try(1.5, {"commit": 1.0})])])
    assert decode_samples(encode_samples(run), "run.json") == run


def _set(*path: str | int, to: object) -> Callable[[Any], None]:
    def change(document: Any) -> None:  # noqa: ANN401 - a document of any shape
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = to

    return change


def _remove(field: str) -> Callable[[Any], None]:
    def change(document: Any) -> None:  # noqa: ANN401 - as above
        del document[field]

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_remove("series"), "Object missing required field `series`"),
        (_remove("schema"), "not the samples of a latency run: no field schema"),
        (_set("schema", to=0), "schema: 0: this version of nfagent reads schema 1"),
        (_set("schema", to=True), "schema: true: this version of nfagent reads schema 1"),
        (_set("schema", to=1.0), r"schema: 1\.0: this version of nfagent reads schema 1"),
        (_set("driver", to="docker"), 'driver: "docker": '),
        (_set("started", to="yesterday"), 'started: "yesterday": not a time with its zone'),
        (_set("started", to="2026-01-31T12:00:00"), "started: .*: not a time with its zone"),
        (_set("latency", to=1), "Object contains unknown field `latency`"),
        (_set("machine", "cores", to=-1), "machine.cores: -1: "),
        (_set("versions", "nft", to=1), r"versions\[\.\.\.\]: .*Expected `str`, got `int`"),
        (_set("series", 0, "scenario", to="pod-renamed"), r'series\[0\].scenario: "pod-renamed": '),
        (_set("series", 1, "path", to="iptables"), r'series\[1\].path: "iptables": '),
        (_set("series", 0, "tries", 2, "latency_us", to="fast"), r'series\[0\].tries\[2\].latency_us: "fast": '),
        (_set("series", 0, "tries", 2, "latency_us", to=-1), r"series\[0\].tries\[2\].latency_us: -1: "),
        (_set("series", 0, "tries", 2, "latency_us", to=1e308), r"series\[0\].tries\[2\].latency_us: 1e\+308: "),
        (_set("series", 0, "tries", 0, "stages_us", to={"idle": 1}), r"series\[0\].tries\[0\].stages_us: .*'idle'"),
        (_set("rates", 0, "values", to=None), r"rates\[0\].values: null: "),
        (
            lambda document: document["series"].append(document["series"][0]),
            r"series\[2\]: the same scenario, policies, pods and path .* as series\[0\]",
        ),
    ],
    ids=[
        "a missing field",
        "JSON of another program",
        "an older schema",
        "a schema that is no number",
        "a schema that is no whole number",
        "an unknown driver",
        "a time that is none",
        "a time without its zone",
        "an unknown field",
        "a negative count",
        "a version that is a number",
        "an unknown scenario",
        "an unknown path",
        "a latency that is a text",
        "a negative latency",
        "a latency of years",
        "an unknown stage",
        "rates without values",
        "two series of one scenario, size and path",
    ],
)
def test_samples_that_cannot_be_read_are_refused_with_file_field_and_value(
    change: Callable[[Any], None], complaint: str
) -> None:
    document = json.loads(encode_samples(RUN))
    change(document)
    with pytest.raises(UsageError, match=rf"run\.json: {complaint}") as refused:
        decode_samples(json.dumps(document).encode(), "run.json")
    assert refused.value.hint


@pytest.mark.parametrize("text", [b"", b"not JSON", b"[]", b"3", b"null", b'"\xff"', b"[" * 100_000, b'{"schema": 1}'])
def test_a_foreign_file_is_refused_as_such(text: bytes) -> None:
    with pytest.raises(UsageError, match=r"run\.json: "):
        decode_samples(text, "run.json")


@given(st.data())
def test_damaged_files_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    text = bytearray(encode_samples(RUN))
    for position in data.draw(st.lists(st.integers(0, len(text) - 1), min_size=1, max_size=4)):
        text[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(text)))
    for damaged in (bytes(text), bytes(text[:cut])):
        with contextlib.suppress(UsageError):
            decode_samples(damaged, "run.json")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.json: cannot be read: No such file or directory"):
        read_samples(tmp_path / "run.json")
