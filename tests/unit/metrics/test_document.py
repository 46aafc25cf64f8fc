"""docs/metrics.md, and the table of families that it is generated from."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from nfagent.metrics.document import document
from nfagent.metrics.families import FAMILIES, MetricFamily

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"
REGOLD = os.environ.get("NFAGENT_REGOLD") == "1"
NAME = re.compile(r"(nfagent|policy|process)_[a-z_]+[a-z]")
UNITS = ("_seconds", "_bytes", "_ratio", "_total", "_count", "_info", "_microseconds")


def test_the_document_is_the_one_that_the_table_gives() -> None:
    if REGOLD:
        DOCUMENT.write_text(document(), encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_no_name_is_there_twice() -> None:
    names = [family.name for family in FAMILIES]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_is_named_and_bounded_by_prometheus_rules(family: MetricFamily) -> None:
    assert NAME.fullmatch(family.name)
    assert family.name.endswith("_total") == (family.type == "counter")
    assert family.help.endswith(".")
    assert "|" not in family.help
    assert family.series or set(family.known) == set(family.labels), "how many series are there at most?"
    assert not {"le", "job", "instance", "node"} & set(family.labels), "labels that Prometheus sets"
