"""What a PromQL expression names."""

from __future__ import annotations

import pytest

from tests.support.promql import Matcher, read_expression


@pytest.mark.parametrize(
    ("text", "metrics", "grouping"),
    [
        pytest.param("up == 0", {"up"}, set(), id="a metric"),
        pytest.param("absent(up)", {"up"}, set(), id="a metric in a function"),
        pytest.param("rate(a_total[5m]) > 0 or b offset 10m", {"a_total", "b"}, set(), id="ranges and offsets"),
        pytest.param("sum by (node, le) (x)", {"x"}, {"node", "le"}, id="grouping before the operand"),
        pytest.param("sum (x) by(node)", {"x"}, {"node"}, id="grouping behind it"),
        pytest.param("sum without (node) (x)", {"x"}, set(), id="labels left out"),
        pytest.param("a and on (node) b", {"a", "b"}, {"node"}, id="vector matching"),
        pytest.param("a * 1e3 + 2.5 > bool inf", {"a"}, set(), id="numbers"),
        pytest.param('x{reason="sum(y)"}', {"x"}, set(), id="a label's value"),
        pytest.param("rte(a_total[5m]) > nfagent_typo", {"a_total", "nfagent_typo"}, set(), id="any other name"),
    ],
)
def test_metrics_and_grouping_labels_of(text: str, metrics: set[str], grouping: set[str]) -> None:
    found = read_expression(text)
    assert (set(found.metrics), set(found.grouping)) == (metrics, grouping)


def test_matchers_belong_to_their_metric() -> None:
    found = read_expression('a{x="1", y=~"2|3"} / on (x) b{z!=""}').matchers
    assert found == {Matcher("a", "x", "=", "1"), Matcher("a", "y", "=~", "2|3"), Matcher("b", "z", "!=", "")}


def test_labels_that_are_left_out_are_no_grouping() -> None:
    found = read_expression("max without (node, job) (x)")
    assert (set(found.grouping), set(found.removed)) == (set(), {"node", "job"})
