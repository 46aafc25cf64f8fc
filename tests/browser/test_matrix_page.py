"""The page of `nfagent matrix -o html`, as a file in a browser: it opens, loads nothing, has the reason at a click."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nfagent.cli.matrix_page import matrix_page
from nfagent.simulate.matrix_answer import MatrixRequest
from tests.browser.conftest import Tab
from tests.browser.test_hostile_pages import NAMES, SCRIPT
from tests.unit.cli.test_matrix import named

DEMO = Path(__file__).parents[2] / "examples" / "demo"
CELLS = "#grid tbody td"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of the demo's cluster."""
    command = [sys.executable, "-m", "nfagent", "matrix", "--manifests", str(DEMO), "--node", "node-a", "-o", "html"]
    made = subprocess.run(command, capture_output=True, check=True, timeout=120)
    found = tmp_path_factory.mktemp("page") / "matrix.html"
    found.write_bytes(made.stdout)
    return found


def test_it_opens_from_a_file_and_asks_for_nothing(tab: Tab, demo: Path) -> None:
    tab.page.goto(demo.as_uri())
    tab.page.wait_for_selector(CELLS)
    assert tab.requests == [demo.as_uri()]
    assert tab.console == []
    assert "shop app=db" in tab.text("#grid")


def test_a_click_on_a_cell_shows_its_reason(tab: Tab, demo: Path) -> None:
    tab.page.goto(demo.as_uri())
    tab.page.click(f"{CELLS}.d")
    assert "denied" in tab.text("#detail")
    assert "NetworkPolicy shop/db isolates it" in tab.text("#detail")
    assert tab.console == []


def test_arrow_keys_and_enter_show_a_reason_without_a_mouse(tab: Tab, demo: Path) -> None:
    tab.page.goto(demo.as_uri())
    tab.page.wait_for_selector(CELLS)
    tab.page.focus(f"{CELLS}[tabindex='0']")
    for key in ("ArrowRight", "Enter"):
        tab.page.keyboard.press(key)
    assert tab.page.is_visible("#detail")
    assert tab.page.get_attribute("#grid [aria-selected]", "tabindex") == "0"


def test_a_filter_leaves_the_rows_that_match(tab: Tab, demo: Path) -> None:
    tab.page.goto(demo.as_uri())
    before = tab.page.locator("#grid tbody tr").count()
    tab.page.fill("#clients", "app=db")
    tab.waits_for_count("#grid tbody tr", 1)
    assert before > 1


@pytest.mark.parametrize("width", [390, 1280])
def test_no_width_scrolls_sideways(tab: Tab, demo: Path, width: int) -> None:
    tab.page.set_viewport_size({"width": width, "height": 800})
    tab.page.goto(demo.as_uri())
    tab.page.click(f"{CELLS}.d")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_text(tab: Tab, tmp_path: Path, name: str) -> None:
    page = tmp_path / "hostile.html"
    page.write_text(matrix_page(named(name), MatrixRequest()), encoding="utf-8")
    tab.page.goto(page.as_uri())
    tab.page.click(CELLS)
    assert tab.page.evaluate("window.broken") is None
    assert tab.page.locator("img").count() == 0
    shown = tab.page.evaluate("document.body.innerText")
    assert not [found for found in shown if not found.isprintable() and found not in "\n\t"]
    if name == SCRIPT:
        assert "<script>window.broken=1</script>" in shown
    assert tab.console == []
    assert tab.requests == [page.as_uri()]
