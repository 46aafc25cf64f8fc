"""Hostile names on the pages: nothing of them is run, turns the text around, or makes the page unusable."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.conftest import Tab
from tests.support.page_agent import COUNTER, EXPLANATION, POLICY, STATUS, PageAgent

SCRIPT = "<script>window.broken=1</script><img src=x onerror='window.broken=1'>"
BIDI = "safe\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe"
HIDDEN = "a\N{ZERO WIDTH SPACE}b\x1b[31m\x00"
LONG = "x" * 10_000
NAMES = [
    pytest.param(SCRIPT, id="markup"),
    pytest.param(BIDI, id="bidi"),
    pytest.param(HIDDEN, id="characters that aren't visible"),
    pytest.param(LONG, id="10 kB"),
    pytest.param("javascript:window.broken=1", id="address of a script"),
    pytest.param("__proto__", id="prototype"),
    pytest.param('"]};{"', id="JSON"),
]


def line(name: str) -> bytes:
    """Return a record in which every text is a hostile name."""
    end = {
        "pod_name": name,
        "workload_kind": name,
        "workload_name": name,
        "pod_namespace": name,
        "namespace": name,
    }
    connection = {
        "src_ip": "10.0.0.1",
        "dest_ip": "10.0.0.2",
        "src_port": 40000,
        "dest_port": 5432,
        "protocol": "tcp",
        "direction": "ingress",
    }
    found = {
        "connection": connection,
        "disposition": "deny",
        "isolating_policies": [{"name": name, "namespace": name, "kind": name}],
        "src": end,
        "dest": end,
        "count": 1,
        "node_name": name,
        "timestamp": "2026-01-02T03:04:05.000000000Z",
    }
    return json.dumps(found).encode() + b"\n"


def hostile(agent: PageAgent, name: str) -> None:
    agent.answers["/v1/explain"] = EXPLANATION | {"connection": name, "lines": [name], "notes": [name], "verdict": name}
    agent.answers["/v1/dump/policies"] = {
        "policies": [
            {
                **POLICY,
                "name": name,
                "namespace": name,
                "local_pods": [name],
                "problem": {"field": name, "reason": name},
            }
        ]
    }
    agent.answers["/v1/dump/counters"] = {
        "counters": [{**COUNTER, "namespace": name, "policies": [name]}],
        "unknown": [name],
        "notes": [],
    }
    agent.answers["/v1/status"] = STATUS | {
        "node": name,
        "problems": [name],
        "health": "degraded",
        "drift_repairs": 1,
        "drift_by": name,
        "failing_closed": [name],
        "failing_closed_in_all": 1,
    }
    agent.write([line(name)])


@pytest.mark.parametrize("name", NAMES)
def test_names_of_objects_are_text_on_every_view(tab: Tab, url: str, agent: PageAgent, name: str) -> None:
    hostile(agent, name)
    page = tab.page
    page.goto(url)
    page.wait_for_selector("#verdicts-table tbody tr")
    for view, waited in (
        ("picture", "#picture svg"),
        ("policies", "#policies-table tbody tr"),
        ("health-details", "#problems li"),
        ("verdicts", "#verdicts-table tbody tr"),
    ):
        page.click(f"nav a[href='#{view}']")
        page.wait_for_selector(waited)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.click("#verdicts-table tbody tr")
    page.wait_for_selector("#detail ol")
    assert page.evaluate("window.broken") is None
    assert page.locator("main script, main img, aside script, aside img").count() == 0
    shown = page.evaluate("document.body.innerText")
    assert not [found for found in shown if not found.isprintable() and found not in "\n\t"]
    if name == SCRIPT:
        assert "<script>window.broken=1</script>" in shown
    assert len(shown) < 60_000
    assert tab.console == []


@pytest.mark.parametrize(
    "written",
    [
        b"\n",
        b"null\n",
        b"[]\n",
        b"1\n",
        b"{}\n",
        b'{"connection":null}\n',
        b"{\n",
        b"\xff\xfe\n",
        b'{"lost_records":"many"}\n',
        b'{"connection":{},"src":{},"dest":{},"disposition":"deny","timestamp":""}\n',
        b'{"unknown_pods":[{"a":1}]}\n',
    ],
)
def test_lines_that_are_no_records_do_not_end_the_stream(tab: Tab, url: str, agent: PageAgent, written: bytes) -> None:
    tab.page.goto(url)
    tab.waits_for("#stream-state", "live")
    agent.write([written])
    agent.write([line("after")])
    tab.waits_for("#verdicts-table", "after/after")
    assert tab.console == []


@pytest.mark.parametrize("answer", [[], 1, "x", {"policies": 1}, {"policies": [{}]}, {"counters": 2}, {}])
def test_answers_of_another_form_leave_a_page_that_works(tab: Tab, url: str, agent: PageAgent, answer: Any) -> None:
    for path in ("/v1/status", "/v1/explain", "/v1/dump/policies", "/v1/dump/counters"):
        agent.answers[path] = answer
    agent.write([line("web")])
    tab.page.goto(url)
    tab.page.wait_for_selector("#verdicts-table tbody tr")
    tab.page.click("nav a[href='#policies']")
    tab.waits_for("#policies-words", "format")
    tab.page.click("nav a[href='#verdicts']")
    tab.page.click("#verdicts-table tbody tr")
    tab.waits_for("#detail", "format")
    assert tab.console == []
