"""The configurations in docs/log-shipping.md parse, read the file that the agent writes, and use what records have."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import yaml

from nfagent.config import SINKS, Settings
from nfagent.verdicts.journal_entry import IDENTIFIER, MESSAGE_ID, record_fields
from nfagent.verdicts.records import encode
from tests.unit.verdicts.test_journal_entry import DENY
from tests.unit.verdicts.test_records import ALLOW

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "log-shipping.md").read_text("utf-8")
FLUENT_BIT, FLUENT_BIT_JOURNAL, VECTOR, VECTOR_JOURNAL = map(
    yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
)
LOG = str(Settings().verdict_log)


def one(found: list[dict[str, Any]]) -> dict[str, Any]:
    (item,) = found
    return item


def test_fluent_bit_reads_the_file_and_each_part_matches_the_input() -> None:
    pipeline = FLUENT_BIT["pipeline"]
    tail, parser = one(pipeline["inputs"]), one(FLUENT_BIT["parsers"])
    assert (tail["name"], tail["path"], tail["parser"]) == ("tail", LOG, parser["name"])
    assert {item["match"] for item in pipeline["filters"] + pipeline["outputs"]} == {tail["tag"]}
    assert (parser["format"], parser["time_key"] in ALLOW.__struct_fields__) == ("json", True)
    assert one(pipeline["filters"])["regex"].split()[0] in ALLOW.__struct_fields__


def test_vector_reads_the_file_and_each_part_has_its_input() -> None:
    assert VECTOR["sources"]["nfagent_file"]["include"] == [LOG]
    named = {*VECTOR["sources"], *VECTOR["transforms"]}
    inputs = [name for part in ("transforms", "sinks") for item in VECTOR[part].values() for name in item["inputs"]]
    assert sorted(inputs) == sorted(named)
    fields = re.findall(r"(?<![\w)])\.(\w+)", VECTOR["transforms"]["nfagent_records"]["source"])
    assert set(fields) <= {"message", *ALLOW.__struct_fields__}


def test_both_find_the_entries_of_the_journal() -> None:
    tail, parse = one(FLUENT_BIT_JOURNAL["pipeline"]["inputs"]), one(FLUENT_BIT_JOURNAL["pipeline"]["filters"])
    fields = dict(record_fields(DENY, encode(DENY)))
    assert tail["systemd_filter"] == f"SYSLOG_IDENTIFIER={IDENTIFIER}"
    assert VECTOR_JOURNAL["sources"]["nfagent_journal"]["include_matches"] == {"SYSLOG_IDENTIFIER": [IDENTIFIER]}
    assert parse["key_name"] in fields
    assert parse["parser"] == one(FLUENT_BIT["parsers"])["name"]


def test_the_table_of_the_journals_fields_is_complete() -> None:
    table = TEXT.partition("## The journal")[2]
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", table))
    written = {name for record in (ALLOW, DENY) for name, _ in record_fields(record, encode(record))}
    ends = {name for name in written if name.startswith("NFAGENT_DEST_") and name not in named}
    assert {name.replace("_DEST_", "_SRC_") for name in ends} <= named, "the table has them for the source"
    assert written - ends == named
    assert f"MESSAGE_ID={MESSAGE_ID}" in table


def test_every_sink_is_in_the_table() -> None:
    assert re.findall(r"^\| `(\w+)` \|", TEXT.partition("## Sinks")[2].partition("Each sink has")[0], re.MULTILINE) == [
        *SINKS
    ]


def test_the_unit_lets_journald_keep_every_record() -> None:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.read(ROOT / "systemd" / "nfagent.service")
    assert unit["Service"]["LogRateLimitIntervalSec"] == "0"
    assert "`LogRateLimitIntervalSec=0`" in TEXT
