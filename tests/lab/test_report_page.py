"""The page and the files of a report."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from nfagent.errors import HostError
from nfagent.lab.latency.samples import LabSamples, Rate, Series, Try, read_samples
from nfagent.lab.report import drawing as report_drawing
from nfagent.lab.report.folder import write_comparison, write_report
from tests.support.latency_samples import even_tries, latency_samples, whole_run

pytestmark = pytest.mark.usefixtures("_matplotlib_cache")

RUN = whole_run(scenarios=("policy-created", "ip-block-10000"), sizes=(0, 1000))
HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e"
_VOID = {"meta", "br"}
_LOADING = {"src", "srcset", "data", "action", "poster", "background", "ping", "formaction"}


class Page(HTMLParser):
    """Everything of a page that the tests ask about.

    identifiers: of elements; loads: addresses in attributes that load something
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.identifiers: list[str] = []
        self.targets: list[str] = []
        self.loads: list[str] = []
        self.images_without_words = 0
        self.text = ""
        self._open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _VOID:
            self._open.append(tag)
        self._note(tag, {name: value or "" for name, value in attrs})

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._note(tag, {name: value or "" for name, value in attrs})

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def _note(self, tag: str, attributes: dict[str, str]) -> None:
        self.identifiers += [attributes["id"]] if "id" in attributes else []
        self.loads += [attributes[name] for name in _LOADING if name in attributes]
        self.targets += [value for name, value in attributes.items() if name in {"href", "xlink:href"}]
        self.targets += [f"#{name}" for value in attributes.values() for name in re.findall(r"url\(#([^)]+)\)", value)]
        if tag == "svg" and not (attributes.get("role") == "img" and attributes.get("aria-label")):
            self.images_without_words += 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, _matplotlib_cache: None) -> Path:
    written = tmp_path_factory.mktemp("report")
    write_report(RUN, written)
    return written


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text("utf-8"))


def test_the_page_loads_nothing(folder: Path, page: Page) -> None:
    text = (folder / "report.html").read_text("utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert page.loads == []
    assert {"script", "link", "iframe", "object", "embed", "img", "base"}.isdisjoint(page.tags)
    assert all(target.startswith("#") for target in page.targets)


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.unbalanced == []
    assert len(page.identifiers) == len(set(page.identifiers))
    assert {target.removeprefix("#") for target in page.targets} <= set(page.identifiers)


def test_plots_and_tables_are_accessible(page: Page) -> None:
    assert page.tags.count("svg") == 2 + 2 * (1 + 2 + 2)
    assert page.images_without_words == 0
    assert page.tags.count("caption") == page.tags.count("table")


def test_the_verdict_stands_before_everything_else(page: Page) -> None:
    verdict = page.text.index(
        "Netfilter is within 2x of eBPF (p50 and p99, at every size measured) in 1 of 7 scenarios"
    )
    gaps = page.text.index("Not measured: policy-deleted, pod-added-to-peer-set, ")
    assert gaps < verdict < page.text.index("Ratios")
    assert "costliest stage: commit" in page.text[verdict : page.text.index("Ratios")]


@pytest.mark.parametrize(
    "words",
    [
        "Invented CPU",
        "6.1.0-invented",
        "Debian GNU/Linux 12 (bookworm)",
        "nfagent lab latency -o samples.json",
        "TCP throughput [Gbit/s]",
        "200 of each series, after 20 to warm up",
    ],
)
def test_the_page_says_how_it_was_measured(page: Page, words: str) -> None:
    assert words in page.text


def test_without_an_api_server_nothing_is_said_of_it(page: Page) -> None:
    assert "API write p50" not in page.text


def test_every_plot_is_a_file_too(folder: Path) -> None:
    files = sorted(path.name for path in folder.glob("*.png"))
    assert len(files) == 12
    assert "cdf-policy-created-0-policies-15000-pods.png" in files
    assert "growth-ip-block-10000-15000-pods.png" in files
    for name in files:
        with Image.open(folder / name) as image:
            image.load()
            assert image.format == "PNG"
            assert min(image.size) > 300
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 10, f"{name} is blank"


def test_the_folder_has_the_raw_samples_and_nothing_else(folder: Path) -> None:
    assert read_samples(folder / "samples.json") == RUN
    assert {path.suffix for path in folder.iterdir()} == {".html", ".json", ".png"}


def test_the_same_samples_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    write_report(RUN, tmp_path)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def _hostile() -> LabSamples:
    run = latency_samples(
        [Series("policy-created", 0, 10, path, even_tries(1000)) for path in ("nftables", "ebpf")],
        rates=[Rate("nftables", HOSTILE, 0, 0, [1.0])],
        incomplete=HOSTILE,
    )
    return msgspec.structs.replace(
        run,
        lab=HOSTILE,
        command=[HOSTILE],
        machine=msgspec.structs.replace(run.machine, cpu=HOSTILE, kernel=HOSTILE, os=HOSTILE, virtualization=HOSTILE),
        versions={HOSTILE: HOSTILE},
        settings=msgspec.structs.replace(run.settings, attachment=HOSTILE),
    )


def test_text_of_the_samples_is_text_in_the_page(tmp_path: Path) -> None:
    write_report(_hostile(), tmp_path / "run")
    runs = ((HOSTILE, RUN), ("b.json", _hostile()))
    write_comparison(runs, tmp_path / "comparison")
    for name in ("run", "comparison"):
        text = (tmp_path / name / "report.html").read_text("utf-8")
        page = Page(text)
        assert "script" not in page.tags
        assert page.unbalanced == []
        assert page.text.count("<script>alert(1)</script>") >= 8
        assert "\x1b" not in text
        assert "\u202e" not in text


LATE = Try(None, {})


@pytest.mark.parametrize(
    "series",
    [
        [],
        [Series("policy-created", 0, 10, "nftables", [])],
        [Series("policy-created", 0, 10, "nftables", [LATE] * 200), Series("policy-created", 0, 10, "ebpf", [LATE])],
        [Series("policy-created", size, 10, "nftables", [LATE] * 200) for size in (0, 10)],
        [Series("policy-created", 0, 10, "ebpf", even_tries(0, spread_us=0, commit=0))],
        [Series("policy-created", size, size, "ebpf", even_tries(10, 3)) for size in (1, 2)],
        [Series("policy-created", 0, 10, path, even_tries(1e9, 200)) for path in ("nftables", "ebpf")],
    ],
    ids=[
        "no series",
        "a series without tries",
        "only tries that timed out",
        "two sizes where all timed out",
        "no time at all",
        "one path, and as many policies as Pods",
        "a quarter of an hour",
    ],
)
def test_samples_of_any_kind_make_a_page(tmp_path: Path, series: list[Series]) -> None:
    write_report(latency_samples(series), tmp_path)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert page.unbalanced == []
    assert "Netfilter is within 2x of eBPF in all" not in page.text
    assert "infms" not in page.text
    assert "nan" not in page.text.split()


def test_the_part_of_the_api_server_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    tries = [Try(5000.0, {}, 3000.0 + number) for number in range(20)]
    write_report(latency_samples([Series("policy-created", 0, 10, "nftables", tries)]), tmp_path)
    text = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert "API write p50" in text
    assert "3.01" in text


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(HostError, match=r"taken.*: cannot be written: .*--folder DIR"):
        write_report(RUN, tmp_path / "taken" / "report")


def test_without_matplotlib_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(HostError, match=r"plots need matplotlib.*-m pip install 'nfagent\[report\]'"):
        report_drawing.require_matplotlib()
    with pytest.raises(HostError):
        write_report(RUN, tmp_path / "report")
    assert not (tmp_path / "report").exists()
