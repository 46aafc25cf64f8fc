"""The live page in a browser: stream, filter, explanation, picture, policies, health; also by keyboard alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from nfagent.verdicts.records import Record, encode, timestamp
from tests.browser.conftest import Tab
from tests.support.page_agent import COUNTER, EXPLANATION, POLICY, STATUS, PageAgent
from tests.unit.verdicts.test_record_filter import record

ROWS = "#verdicts-table tbody tr"
START_NS = 1_767_323_045_000_000_000


SIDES = {"egress": {"allowed": False}, "ingress": {"allowed": False}}


def denied(number: int = 0, source: str = "guest/visitor", destination: str = "shop/db", **fields: Any) -> Record:
    found = record(source, destination, ports=(40_000 + number, 5432), policy="db", **fields)
    return msgspec.structs.replace(found, timestamp=timestamp(START_NS + number * 1_000_000))


def allowed(number: int = 0, source: str = "shop/web", destination: str = "shop/db") -> Record:
    found = denied(number, source, destination)
    return msgspec.structs.replace(found, disposition="allow", policies=found.isolating_policies, isolating_policies=())


def lines(records: Iterable[Record]) -> list[bytes]:
    return [encode(one) for one in records]


def asked_filters(agent: PageAgent) -> list[Any]:
    """Return the filters of the streams that were asked for."""
    asked = (urlsplit(found) for found in agent.asked)
    return [json.loads(parse_qs(one.query)["filter"][0]) for one in asked if one.path == "/v1/records"]


@pytest.fixture
def opened(tab: Tab, url: str, agent: PageAgent) -> Tab:
    """Return a tab with the page, and two records in it."""
    agent.write(lines([allowed(1), denied(2)]))
    tab.page.goto(url)
    tab.waits_for_count(ROWS, 2)
    return tab


def test_records_that_the_agent_keeps_and_new_ones_are_listed_the_newest_first(opened: Tab, agent: PageAgent) -> None:
    agent.write(lines([denied(3, "guest/late")]))
    opened.waits_for("#verdicts-table", "guest/late")
    rows = [" ".join(text.split()) for text in opened.page.locator(ROWS).all_inner_texts()]
    assert [row.split(" ", 2)[2] for row in rows] == [
        "denied guest/late → shop/db:5432/tcp data/db 1",
        "denied guest/visitor → shop/db:5432/tcp data/db 1",
        "allowed shop/web → shop/db:5432/tcp data/db 1",
    ]
    opened.waits_for("#stream-state", "live")
    opened.waits_for("#stream-count", "3 records")


def test_a_page_asks_for_nothing_but_its_own_host_and_breaks_none_of_its_rules(opened: Tab, url: str) -> None:
    for view in ("picture", "policies", "health-details"):
        opened.page.click(f"nav a[href='#{view}']")
        opened.page.wait_for_selector(f"#{view}-view h2")
    opened.page.wait_for_selector("#status dt", state="attached")
    host = urlsplit(url).netloc
    assert {urlsplit(asked).netloc for asked in opened.requests} == {host}
    assert len(opened.requests) > 10
    assert opened.console == []


def test_the_token_is_not_in_the_address_of_the_page_and_not_readable_by_its_scripts(opened: Tab, url: str) -> None:
    token = urlsplit(url).query.removeprefix("token=")
    assert token not in opened.page.url
    assert opened.page.evaluate("document.cookie") == ""
    assert opened.context.cookies()[0]["value"] == token


def test_a_filter_is_applied_by_the_agent_and_removed_by_its_button(opened: Tab, agent: PageAgent) -> None:
    opened.page.select_option("#filter-field", "from")
    opened.page.fill("#filter-term", "shop")
    opened.page.click("text=Add")
    opened.waits_for_count(ROWS, 1)
    assert "shop/web" in opened.text(ROWS)
    opened.page.select_option("#filter-field", "to_port")
    opened.page.select_option("#filter-not", "not")
    opened.page.fill("#filter-term", "5432")
    opened.page.click("text=Add")
    opened.waits_for("#verdicts-empty", "No record matches the filter")
    assert asked_filters(agent)[-1] == {
        "all": [{"field": "from", "terms": ["shop"]}],
        "none": [{"field": "to_port", "terms": ["5432"]}],
    }
    for _ in range(2):
        opened.page.click("#filter-terms button")
    opened.waits_for_count(ROWS, 2)
    assert asked_filters(agent)[-1] == {"all": [], "none": []}


def test_the_same_field_twice_is_either_and_a_time_is_that_of_records(opened: Tab, agent: PageAgent) -> None:
    for field, term in (("from", "shop/web"), ("from", "guest"), ("since", "2026-01-02T03:04:05Z")):
        opened.page.select_option("#filter-field", field)
        opened.page.fill("#filter-term", term)
        opened.page.keyboard.press("Enter")
    opened.waits_for_count("#filter-terms li", 3)
    opened.waits_for_count(ROWS, 2)
    assert asked_filters(agent)[-1] == {
        "all": [{"field": "from", "terms": ["shop/web", "guest"]}],
        "none": [],
        "since": "2026-01-02T03:04:05.000000000Z",
    }


def test_a_term_that_the_agent_refuses_is_shown_with_its_words(opened: Tab) -> None:
    opened.page.fill("#filter-term", "Not A Pod/x")
    opened.page.keyboard.press("Enter")
    opened.page.wait_for_selector("#filter-problem")
    assert "Not A Pod/x" in opened.text("#filter-problem")
    opened.page.click("#filter-terms button")
    opened.page.wait_for_selector(ROWS)
    assert opened.page.is_hidden("#filter-problem")


def test_a_click_on_a_record_shows_the_agents_explanation(opened: Tab, agent: PageAgent) -> None:
    opened.page.click("text=guest/visitor")
    opened.page.wait_for_selector("#detail ol")
    assert [asked for asked in agent.asked if asked.startswith("/v1/explain")] == [
        "/v1/explain?source=10.0.0.1&destination=packet%3A10.0.0.2%3A5432%2Ftcp"
    ]
    said = opened.text("#detail")
    assert all(line in said for line in EXPLANATION["lines"])
    assert "have changed since" not in said
    opened.page.click("#detail >> text=Close")
    assert opened.page.is_hidden("#detail")


def test_a_record_that_contradicts_the_policies_of_now_says_so(opened: Tab, agent: PageAgent) -> None:
    agent.answers["/v1/explain"] = EXPLANATION | {"judged": [{"judgement": SIDES}]}  # codespell:ignore judgement
    opened.page.click(f"{ROWS}:has-text('shop/web')")
    opened.waits_for("#detail", "Pods or policies have changed since")


def test_an_explanation_that_the_agent_refuses_is_shown_with_its_words(opened: Tab, agent: PageAgent) -> None:
    agent.answers["/v1/explain"] = (400, "explain has no verdict yet: Pods aren't read")
    opened.page.click("text=guest/visitor")
    opened.waits_for("#detail", "explain has no verdict yet: Pods aren't read")


def test_a_line_of_the_picture_shows_its_connections_and_their_explanation(opened: Tab, agent: PageAgent) -> None:
    agent.write(lines([denied(3, "guest/visitor", "data/db")]))
    opened.page.click("nav a[href='#picture']")
    opened.page.select_option("#level", "namespace")
    opened.waits_for_count("#picture .edge.deny", 2)
    opened.page.locator("#picture .edge.deny .reach").first.dispatch_event("click")
    opened.page.wait_for_selector("#detail ol")
    assert "guest/visitor" in opened.text("#detail h2")


def test_the_table_beside_the_picture_has_the_same_lines_the_denied_first(opened: Tab) -> None:
    opened.page.click("nav a[href='#picture']")
    opened.waits_for_count("#picture .edge", 2)
    rows = [text.split() for text in opened.page.locator("#edges-table tbody tr").all_inner_texts()]
    assert [row[:3] for row in rows] == [["guest/visitor", "shop/db", "denied"], ["shop/web", "shop/db", "allowed"]]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("peers", [5, 200])
def test_the_picture_is_readable_at_few_and_at_many_peers(
    tab: Tab, url: str, agent: PageAgent, peers: int, width: int
) -> None:
    tab.page.set_viewport_size({"width": width, "height": 800})
    agent.write(lines(denied(number, f"team-{number}/client-{number}") for number in range(peers)))
    tab.page.goto(f"{url}#picture")
    drawn = 6 if peers == 5 else 25  # 24 of a side at most, and the one destination
    tab.waits_for("#stream-count", f"{peers} records")
    tab.waits_for_count("#picture .end", drawn)
    tab.waits_for_count("#picture .edge", 5 if peers == 5 else 24)
    texts = tab.page.locator("#picture .end text").all_text_contents()
    assert (f"{peers - 23} others" in texts) == (peers == 200)
    boxes = [box.bounding_box() for box in tab.page.locator("#picture .end text").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    tops = sorted(box["y"] for box in boxes[: drawn - 1])
    assert all(below - above >= 12 for above, below in pairwise(tops))


def test_a_name_in_the_picture_becomes_a_filter(opened: Tab, agent: PageAgent) -> None:
    opened.page.click("nav a[href='#picture']")
    opened.page.click("#picture .end text:text-is('guest/visitor')")
    opened.waits_for_count("#picture .edge", 1)
    assert asked_filters(agent)[-1]["all"] == [{"field": "from", "terms": ["pod:guest/visitor"]}]


def test_policies_are_shown_with_their_counters_and_problems(opened: Tab, agent: PageAgent) -> None:
    wrong = {"field": "spec.ingress[0].ports[0].port", "value": "x", "reason": "no port", "place": "", "object": ""}
    agent.answers["/v1/dump/policies"] = {"policies": [POLICY, {**POLICY, "name": "api", "problem": wrong}]}
    allow = {**COUNTER, "verdict": "allow", "packets": 1200}
    agent.answers["/v1/dump/counters"] = {"counters": [COUNTER, allow], "unknown": [], "notes": []}
    opened.page.click("nav a[href='#policies']")
    opened.waits_for("#policies-table", "1,200")  # the counters have an answer of their own
    rows = [" ".join(text.split()) for text in opened.page.locator("#policies-table tbody tr").all_inner_texts()]
    assert rows == [
        "shop/api spec.ingress[0].ports[0].port no port 1: shop/db ingress \N{EN DASH} \N{EN DASH}",
        "shop/db 1: shop/db ingress 1,200 31",
    ]
    opened.page.fill("#policies-search", "API")
    opened.waits_for_count("#policies-table tbody tr", 1)


def test_health_says_what_is_wrong_and_what_drifted(tab: Tab, url: str, agent: PageAgent) -> None:
    agent.answers["/v1/status"] = STATUS | {
        "health": "degraded",
        "problems": ["1 policy fails closed: `nfagent dump policies` says why"],
        "drift_repairs": 3,
        "drift_by": "nft",
    }
    tab.page.goto(f"{url}#health-details")
    tab.waits_for("#health", "degraded: 1 problem")
    tab.page.click("nav a[href='#health-details']")
    assert "1 policy fails closed" in tab.text("#problems")
    assert "3 repairs, the last after nft" in tab.text("#status")
    assert "30 shop/web → shop/db:5432/tcp by shop/db" in tab.text("#status")


def test_nothing_is_asked_for_policies_before_they_are_looked_at(opened: Tab, agent: PageAgent) -> None:
    opened.page.wait_for_selector("#status dt", state="attached")
    assert not any(asked.startswith("/v1/dump") for asked in agent.asked)


def test_a_stream_that_ends_is_said_and_goes_on_with_the_next_agent(opened: Tab, agent: PageAgent) -> None:
    agent.stop()
    opened.waits_for("#stream-state", "Trying again in")
    opened.page.evaluate("window.dispatchEvent(new Event('focus'))")
    agent.listen()
    agent.write(lines([denied(2), denied(9, "guest/next")]))
    opened.waits_for("#verdicts-table", "guest/next")
    opened.waits_for("#stream-state", "live")
    assert opened.page.locator(ROWS).count() == 3  # those from before stay, and none is twice


def test_without_an_agent_the_page_says_so_and_goes_on_once_there_is_one(tab: Tab, url: str, agent: PageAgent) -> None:
    agent.stop()
    tab.page.goto(url)
    tab.waits_for("#banner", "no agent answers at")
    tab.waits_for("#health", "health: no agent")
    agent.listen()
    agent.write(lines([denied(1)]))
    tab.page.wait_for_selector(ROWS)


def test_an_agent_that_has_not_read_everything_is_named(tab: Tab, url: str, agent: PageAgent) -> None:
    agent.answers["/v1/status"] = STATUS | {"source": STATUS["source"] | {"synced": False}, "health": "degraded"}
    tab.page.goto(url)
    tab.waits_for("#banner", "The agent has not read everything yet")


@pytest.mark.parametrize(
    "answer", [pytest.param(None, id="missing"), pytest.param({"health": 1}, id="of another form")]
)
def test_an_agent_of_another_version_is_named(tab: Tab, url: str, agent: PageAgent, answer: Any) -> None:
    agent.answers["/v1/status"] = answer
    tab.page.goto(url)
    tab.waits_for("#banner", "version")


def test_an_empty_log_says_that_nothing_is_logged_yet(tab: Tab, url: str) -> None:
    tab.page.goto(url)
    tab.waits_for("#verdicts-empty", "Nothing is logged yet")


def test_a_page_whose_server_stopped_says_so(opened: Tab, agent: PageAgent) -> None:
    opened.page.route("**/v1/**", lambda route: route.abort())
    agent.stop()
    opened.waits_for("#stream-state", "Nothing answers here any more")


def test_records_stay_within_the_pages_bounds(opened: Tab, agent: PageAgent) -> None:
    for first in range(0, 6000, 1000):
        agent.write(lines(allowed(number) for number in range(first + 10, first + 1010)))
    opened.waits_for("#stream-count", "4,000 records")
    opened.page.click("nav a[href='#verdicts']")
    assert opened.page.locator(ROWS).count() == 200
    assert "The latest 200 are listed" in opened.text("#verdicts-more")


def test_the_list_stands_still_while_it_is_paused_and_tells_how_many_are_new(opened: Tab, agent: PageAgent) -> None:
    opened.page.click("#hold")
    agent.write(lines([denied(5, "guest/late")]))
    opened.waits_for("#hold", "Go on: 1 new")
    assert "guest/late" not in opened.text("#verdicts-table")
    opened.page.click("#hold")
    assert "guest/late" in opened.text("#verdicts-table")
    assert opened.text("#hold") == "Pause"


def test_the_page_works_by_keyboard_alone(opened: Tab) -> None:
    keyboard = opened.page.keyboard

    def tab_to(wanted: str) -> None:
        for _ in range(40):
            keyboard.press("Tab")
            if wanted in opened.focus:
                return
        raise AssertionError(f"{wanted} isn't reached by Tab")

    keyboard.press("Tab")
    assert opened.focus == "Skip to the content"
    tab_to("guest/visitor")
    keyboard.press("ArrowDown")
    assert "shop/web" in opened.focus
    keyboard.press("ArrowUp")
    keyboard.press("Enter")
    opened.page.wait_for_selector("#detail ol")
    assert "guest/visitor → shop/db:5432/tcp" in opened.focus  # the heading of the explanation
    keyboard.press("Escape")
    assert opened.page.is_hidden("#detail")
    assert "guest/visitor" in opened.focus  # where one came from
    tab_to("Who talks to whom")
    keyboard.press("Enter")
    opened.page.wait_for_selector("#edges-table tbody tr")
    tab_to("guest/visitor")
    keyboard.press("Enter")
    opened.page.wait_for_selector("#detail ol")
    keyboard.press("Escape")
    opened.page.click("nav a[href='#verdicts']")
    opened.page.focus("#filter-term")
    keyboard.type("guest")
    keyboard.press("Enter")
    opened.waits_for_count(ROWS, 1)


def test_screen_readers_find_landmarks_names_and_tables(opened: Tab) -> None:
    page = opened.page
    for role in ("banner", "navigation", "main"):
        assert page.get_by_role(role).count() == 1
    assert page.get_by_role("region", name="Verdicts").count() == 1
    assert page.get_by_role("table", name="Verdicts").get_by_role("row").count() == 3
    for name in ("Filter by", "which", "value"):
        assert page.get_by_label(name, exact=False).first.is_visible()
    assert page.get_attribute("#news", "aria-live") == "polite"
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, select, a')].filter((one) => one.checkVisibility() && "
        "!(one.innerText || one.labels?.length || one.ariaLabel)).map((one) => one.outerHTML)"
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_width_scrolls_sideways_and_text_is_readable_in_light_and_dark(
    chromium: Any, url: str, agent: PageAgent, width: int, scheme: str
) -> None:
    tab = Tab(chromium, viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce")
    agent.write(lines([allowed(1), denied(2)]))
    tab.page.goto(url)
    tab.page.wait_for_selector(ROWS)
    for view in ("verdicts", "picture", "policies", "health-details"):
        tab.page.click(f"nav a[href='#{view}']")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    tab.page.click("nav a[href='#verdicts']")
    tab.page.click("text=guest/visitor")
    tab.page.wait_for_selector("#detail ol")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    low = tab.page.evaluate(CONTRASTS)
    assert low == []
    assert (
        tab.page.evaluate("getComputedStyle(document.querySelector('tr.new') || document.body).animationName") == "none"
    )
    tab.context.close()


CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [.2126, .7152, .0722][at], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = rgb(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!own || !node.checkVisibility() || node.closest('svg, :disabled, option')) continue;
    const [one, two] = [light(rgb(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    if ((one + .05) / (two + .05) < 4.5) low.push(node.outerHTML.slice(0, 100));
  }
  return low;
}"""
