"""The published JSON Schema is that of the record's type, and accepts what is written.

`NFAGENT_REGOLD=1 pytest tests/unit/verdicts/test_record_schema.py` writes it anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.objects import Direction
from nfagent.verdicts.record_schema import record_schema
from nfagent.verdicts.records import (
    Disposition,
    LoggedProtocol,
    PolicyName,
    Record,
    RecordConnection,
    RecordEndpoint,
    encode,
    timestamp,
)
from tests.support.record_schema import SCHEMA, SchemaError, check_line, refused_lines
from tests.unit.verdicts.test_records import ALLOW_LINE


def test_the_published_schema_is_that_of_the_records_type() -> None:
    schema = json.dumps(record_schema(), indent=2) + "\n"
    if os.environ.get("NFAGENT_REGOLD") == "1":
        SCHEMA.write_text(schema, "utf-8")
    assert SCHEMA.read_text("utf-8") == schema


names = st.text(min_size=1)
ports = st.none() | st.integers(0, 65535)
policies = st.lists(st.builds(PolicyName, names, st.text(), names), max_size=3).map(tuple)
ends = st.builds(RecordEndpoint, instance=names) | st.builds(
    RecordEndpoint, pod_name=names, workload_kind=names, workload_name=names, pod_namespace=names, namespace=names
)
records = st.builds(
    Record,
    connection=st.builds(
        RecordConnection,
        src_ip=names,
        dest_ip=names,
        src_port=ports,
        dest_port=ports,
        protocol=st.sampled_from(get_args(LoggedProtocol)),
        direction=st.sampled_from(get_args(Direction)),
    ),
    disposition=st.sampled_from(get_args(Disposition)),
    policies=policies,
    isolating_policies=policies,
    src=ends,
    dest=ends,
    count=st.integers(1),
    node_name=st.text(),
    timestamp=st.integers(0, 10**18).map(timestamp),
)


@given(records)
def test_every_record_is_valid_and_one_line_without_control_characters(record: Record) -> None:
    line = check_line(encode(record))
    assert line.count(b"\n") == 1
    assert line.decode().rstrip("\n").isprintable()


def without(line: dict[str, Any], *path: str) -> dict[str, Any]:
    inner = line
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return line


def put(line: dict[str, Any], value: object, *path: str) -> dict[str, Any]:
    inner = line
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return line


EXAMPLE: dict[str, Any] = json.loads(ALLOW_LINE)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda line: without(line, "timestamp"), id="no time"),
        pytest.param(lambda line: without(line, "connection", "direction"), id="no direction"),
        pytest.param(lambda line: without(line, "src", "workload_kind"), id="a Pod without its workload's kind"),
        pytest.param(lambda line: put(line, "10.0.0.1", "src", "instance"), id="a Pod that is an address too"),
        pytest.param(lambda line: put(line, 65536, "connection", "src_port"), id="a port too high"),
        pytest.param(lambda line: put(line, None, "connection", "src_port"), id="a port that is null"),
        pytest.param(lambda line: put(line, 0, "count"), id="no packets"),
        pytest.param(lambda line: put(line, "maybe", "disposition"), id="an unknown disposition"),
        pytest.param(lambda line: put(line, "2020-06-13T21:29:31Z", "timestamp"), id="a time without nanoseconds"),
    ],
)
def test_what_no_record_says_is_refused(change: Any) -> None:  # noqa: ANN401 - a function of the table above
    line = json.dumps(change(json.loads(ALLOW_LINE))).encode()
    with pytest.raises(SchemaError):
        check_line(line)


def test_a_field_that_is_added_later_is_accepted() -> None:
    check_line(json.dumps(EXAMPLE | {"added": "later"}).encode())


def test_invalid_records_of_all_logs_below_a_folder_are_found(tmp_path: Path) -> None:
    for name in ("a/policy_action.log", "a/b/policy_action.log.1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(ALLOW_LINE + ALLOW_LINE.replace(b'"count":1', b'"other":1') + b"no record\n")
    found = list(refused_lines(tmp_path))
    for name in ("a/policy_action.log", "a/b/policy_action.log.1"):
        (tmp_path / name).unlink()
    assert [line.split(": ")[1] for line in found] == ["data must contain ['count'] properties"] * 2
