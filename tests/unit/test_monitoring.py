"""The files of `deploy/monitoring/`: alerts with runbook and tests, and a dashboard; by promtool where it is there."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from nfagent.cli import nfagent
from nfagent.metrics.families import BY_NAME, MetricFamily
from tests.support.prometheus import ALERTS, MONITORING, prometheus_binary, scrape_config
from tests.support.promql import read_expression

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
RULE_TESTS = MONITORING / "alerts.test.yaml"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
SEVERITIES = {"critical", "warning", "info"}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries(panel: dict[str, Any]) -> Iterator[str]:
    """Return a panel's expressions, with a value for each of Grafana's variables."""
    for target in panel["targets"]:
        text: str = target["expr"]
        for variable, value in (("$__rate_interval", "5m"), ("$__range", "3h")):
            text = text.replace(variable, value)
        yield re.sub(r"\$\w+", ".*", text)


def variable_queries() -> list[tuple[str, str]]:
    """Return metric and label that each variable of the dashboard is filled from."""
    definitions = [item["definition"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"]
    found = [re.fullmatch(r"label_values\((\w+), (\w+)\)", text) for text in definitions]
    return [(match[1], match[2]) for match in found if match]


def checked(*arguments: str | Path) -> None:
    done = subprocess.run(
        [prometheus_binary("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> dict[str, str]:
    """Return every expression of alerts and dashboard, by the name of what has it."""
    found = {rule["alert"]: rule["expr"] for rule in alerts()}
    return found | {f"{panel['title']} {n}": text for panel in GRAPHS for n, text in enumerate(queries(panel), 1)}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_has_a_severity_a_summary_and_its_runbook_entry(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    entry = re.search(rf"^## {rule['alert']}\n(.*?)(?=^## |\Z)", RUNBOOK, re.DOTALL | re.MULTILINE)
    assert entry is not None
    assert all(
        part in entry[1] for part in ("**Meaning.**", "**Look at", "do.**" if "Look at, do" in entry[1] else "**Do.**")
    )


def test_every_runbook_entry_has_an_alert() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == [rule["alert"] for rule in alerts()]


def test_every_command_and_option_that_the_runbook_names_exists() -> None:
    for name, options in re.findall(r"`nfagent ([a-z]+)((?: [^`]+)?)`", RUNBOOK):
        command = nfagent.get_command(click.Context(nfagent), name)
        assert command is not None, name
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", options)) <= known, name


def test_every_setting_that_the_runbook_names_exists() -> None:
    shown = (ROOT / "systemd" / "nfagent.toml").read_text(encoding="utf-8")
    settings = tomllib.loads(re.sub(r"^# (?=[a-z_]+ = )", "", shown, flags=re.MULTILINE))
    named = re.findall(r"`\[([a-z]+)\] ([a-z_]+)", RUNBOOK)
    assert len(named) > 3
    assert [(section, key) for section, key in named if key not in settings.get(section, {})] == []


def test_every_alert_is_tested_too_early_and_when_exactly_one_fires() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text(encoding="utf-8"))["tests"]
    cases = [(case["alertname"], len(case["exp_alerts"])) for test in tests for case in test["alert_rule_test"]]
    assert Counter(cases) == Counter((rule["alert"], fires) for rule in alerts() for fires in (0, 1))


def family(metric: str) -> MetricFamily | None:
    """Return the family of a scraped name; None where no family has it."""
    histogram = BY_NAME.get(re.sub(r"_(bucket|sum|count)$", "", metric))
    return histogram if histogram is not None and histogram.type == "histogram" else BY_NAME.get(metric)


def labels_of(metric: str) -> set[str]:
    """Return the labels that Prometheus has of a metric: the family's, the target's, and a histogram's `le`."""
    found = family(metric)
    return {"job", "instance"} | (
        set() if found is None else {*found.labels, *(["le"] if metric.endswith("_bucket") else [])}
    )


@pytest.mark.parametrize("text", list(expressions().values()), ids=list(expressions()))
def test_metrics_labels_and_values_are_in_the_table_for(text: str) -> None:
    expression = read_expression(text)
    assert {metric for metric in expression.metrics - {"up"} if family(metric) is None} == set()
    for matcher in expression.matchers:
        assert matcher.label in labels_of(matcher.metric)
        found = family(matcher.metric)
        known = None if found is None else found.known.get(matcher.label)
        if known is not None:
            assert set(matcher.value.split("|") if "~" in matcher.operator else [matcher.value]) <= set(known)
    assert expression.grouping | expression.removed <= set().union(*map(labels_of, expression.metrics))


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_labels_of_the_summary_are_labels_of_the_alert(rule: dict[str, Any]) -> None:
    expression = read_expression(rule["expr"])
    known = expression.grouping or set().union(*map(labels_of, expression.metrics)) - expression.removed
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= known


def test_rates_are_of_metrics_that_only_grow() -> None:
    grown = {name for text in expressions().values() for name in re.findall(r"\b(?:rate|increase)\((\w+)", text)}
    types = {name: found.type for name in grown if (found := family(name)) is not None}
    assert len(types) > 10
    assert {name for name, kind in types.items() if kind == "gauge"} == set()


def test_every_metric_that_runbook_or_variable_names_is_in_the_table() -> None:
    named = set(re.findall(r"`((?:nfagent|policy|process)_\w+)", RUNBOOK))
    assert [name for name in named if family(name) is None] == []
    assert [(name, label) for name, label in variable_queries() if label not in labels_of(name)] == []
    assert len(variable_queries()) == 2


def test_promtool_accepts_the_alerts() -> None:
    checked("check", "rules", ALERTS)


def test_the_alerts_fire_when_they_should() -> None:
    checked("test", "rules", RULE_TESTS)


def test_promtool_accepts_the_scrape_configuration(tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump(scrape_config("node-a", "192.0.2.1:10250")), encoding="utf-8")
    (tmp_path / "alerts.yaml").write_text(ALERTS.read_text(encoding="utf-8"), encoding="utf-8")
    checked("check", "config", config)


def test_promtool_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    found = [text for panel in GRAPHS for text in queries(panel)]
    rules = [{"record": f"query:{number}", "expr": text} for number, text in enumerate(found)]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    checked("check", "rules", path)


@pytest.mark.parametrize("panel", GRAPHS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    places = [(panel["title"], panel["gridPos"]) for panel in PANELS]
    assert all(place["x"] + place["w"] <= 24 for _, place in places)
    overlapping = [
        (left, right)
        for (left, a), (right, b) in combinations(places, 2)
        if a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    ]
    assert overlapping == []


def test_every_variable_of_a_query_is_one_of_the_dashboards() -> None:
    known = {item["name"] for item in DASHBOARD["templating"]["list"]} | {"__rate_interval", "__range"}
    used = {name for panel in GRAPHS for target in panel["targets"] for name in re.findall(r"\$(\w+)", target["expr"])}
    assert used - known == set()
    assert {"instance", "namespace"} <= used
