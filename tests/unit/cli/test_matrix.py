"""nfagent matrix: from manifests or an agent to a grid, lists, a page, and files for other programs."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from shutil import which

import pytest

from nfagent.cli.matrix_files import csv_lines, dot_lines
from nfagent.cli.matrix_page import matrix_page
from nfagent.cli.matrix_text import matrix_lines
from nfagent.config import load_settings
from nfagent.introspection.freshness import Freshness
from nfagent.manifests.snapshot import read_state
from nfagent.model.printable import printable
from nfagent.simulate.cell_outcomes import EndRange
from nfagent.simulate.class_verdicts import SideReason
from nfagent.simulate.matrix_answer import Matrix, MatrixEnd, MatrixPart, MatrixRequest
from tests.unit.cli.agents import introspection, running
from tests.unit.cli.called import Call, Said
from tests.unit.cli.test_hostile_names import HOSTILE

MORE = """
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: new, labels: {app: new}}
spec: {nodeName: node-a}
status: {phase: Pending}
---
apiVersion: v1
kind: Pod
metadata: {namespace: ops, name: agent, labels: {app: agent}}
spec: {nodeName: node-a, hostNetwork: true}
status: {phase: Running, podIPs: [{ip: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: ops, name: probe, labels: {app: probe}}
spec: {nodeName: node-a}
status: {phase: Running, podIPs: [{ip: 10.0.0.9}]}
"""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def folder(manifests: Path) -> Path:
    (manifests / "more.yaml").write_text(MORE)
    return manifests


def shown(call: Call, folder: Path, *options: str) -> Said:
    return call("matrix", "--manifests", folder, "--node", "node-a", *options)


def test_a_grid_has_a_letter_for_each_pair_and_says_why_not(call: Call, manifests: Path) -> None:
    said = shown(call, manifests)
    assert said.code == 0
    assert said.out.splitlines() == [
        "all namespaces, all traffic: 2 groups of 2 Pods",
        "",
        "FROM                TO",
        "                   1 2",
        "1 shop app=db (1)  . +",
        "2 shop app=web (1) ~ .",
        "",
        "+ allowed   ~ a part of the traffic   . no such connection",
        "",
        "ALLOWED IN PART",
        "2 -> 1: 5432/tcp",
        "",
        "WHY NOT",
        "2 -> 1: ingress: NetworkPolicy shop/db isolates it; rule 1 of 1 has other ports",
    ]


@pytest.mark.parametrize(
    ("port", "verdict"), [("5432", "allowed"), ("5432/udp", "denied"), ("5000-6000/tcp", "some"), ("icmp", "denied")]
)
def test_verdicts_are_about_the_ports_that_were_asked_for(call: Call, manifests: Path, port: str, verdict: str) -> None:
    found = json.loads(shown(call, manifests, "--port", port, "-o", "json").out)
    assert [(cell["client"], cell["server"]) for cell in found["cells"] if cell["verdict"] == verdict].count(
        (1, 0)
    ) == 1


def test_what_is_not_known_is_never_reported_as_allowed(call: Call, folder: Path) -> None:
    said = shown(call, folder, "-o", "json")
    assert said.code == 2
    assert "not known: 8 of 25 cells" in said.err
    found = json.loads(said.out)
    assert found["complete"] is False
    new = next(at for at, end in enumerate(found["groups"]) if end["names"] == ["shop/new"])
    assert found["groups"][new]["name"] == "shop app=new [no address yet]"
    verdicts = {cell["verdict"] for cell in found["cells"] if new in {cell["client"], cell["server"]}}
    assert verdicts == {"unknown", "none"}


def test_pods_of_the_host_network_are_told_apart(call: Call, folder: Path) -> None:
    found = json.loads(shown(call, folder, "-o", "json").out)
    names = [end["name"] for end in found["groups"]]
    assert "ops app=agent [host network]" in names
    agent, db = names.index("ops app=agent [host network]"), names.index("shop app=db")
    [cell] = [cell for cell in found["cells"] if (cell["client"], cell["server"]) == (agent, db)]
    assert cell["verdict"] == "allowed"
    [item] = found["said"][cell["ingress"]]
    assert found["reasons"][item["reason"]]["words"] == "a node always reaches its own Pods"


def test_a_namespace_has_its_pairs_alone(call: Call, folder: Path) -> None:
    found = json.loads(shown(call, folder, "-n", "ops", "-o", "json").out)
    inside = [at for at, end in enumerate(found["groups"]) if end["inside"]]
    assert {found["groups"][at]["namespaces"][0] for at in inside} == {"ops"}
    assert all({cell["client"], cell["server"]} & set(inside) for cell in found["cells"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-n", "shp"], "there is no namespace shp; did you mean shop?"),
        (["--port", "http"], "'http' is no port; write one like 5432, 53/udp, 8000-8080/tcp, udp, or icmp"),
        (["--port", "0"], "'0' is no port"),
        (["--port", "90-80"], "'90-80' is no port"),
        (["-o", "yaml"], "'yaml' is not one of"),
    ],
    ids=["an unknown namespace", "a name as port", "port 0", "a range backwards", "another form"],
)
def test_bad_input_is_named_with_what_to_write(call: Call, manifests: Path, options: list[str], words: str) -> None:
    said = shown(call, manifests, *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.err


@pytest.mark.parametrize("columns", ["40", "60", "100"])
@pytest.mark.parametrize("pods", [5, 60])
def test_lines_fit_the_terminal(
    call: Call, manifests: Path, monkeypatch: pytest.MonkeyPatch, columns: str, pods: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    objects = []
    for number in range(pods):
        labels = f"{{app: role-{number}}}"
        objects.append(
            f"apiVersion: v1\nkind: Pod\nmetadata: {{namespace: many, name: p{number}, labels: {labels}}}\n"
            f"spec: {{nodeName: node-a}}\nstatus: {{phase: Running, podIPs: [{{ip: 10.0.1.{number}}}]}}\n"
        )
        objects.append(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
            f"metadata: {{namespace: many, name: n{number}}}\nspec: {{podSelector: {{matchLabels: {labels}}}, "
            f"ingress: [{{ports: [{{port: {8000 + number}}}]}}]}}\n"
        )
    (manifests / "many.yaml").write_text("---\n".join(objects))
    said = shown(call, manifests)
    assert said.code == 0
    assert [line for line in said.out.splitlines() if len(line) > int(columns)] == []
    assert f"{pods + 2} groups of {pods + 2} Pods" in " ".join(said.out.split())


def test_csv_has_a_line_for_each_pair(call: Call, folder: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(shown(call, folder, "-o", "csv").out)))
    assert len(rows) == 5 * 5
    [part] = [row for row in rows if row["verdict"] == "some"]
    assert (part["client"], part["server"], part["allowed"]) == ("shop app=web", "shop app=db", "5432/tcp")
    assert "rule 1 of 1 in NetworkPolicy shop/db allows it" in part["ingress"]


@pytest.mark.parametrize(
    ("ports", "whole", "part"),
    [
        ((), "anything", "5432/tcp"),
        (("5432",), "5432/tcp", ""),
        (("80/udp", "5432", "9000"), "5432/tcp, 9000/tcp, 80/udp", "5432/tcp"),
        (("5431-5433",), "5431-5433/tcp", "5432/tcp"),
    ],
)
def test_what_is_allowed_names_the_ports_that_were_asked_for(
    call: Call, folder: Path, ports: tuple[str, ...], whole: str, part: str
) -> None:
    asked = [word for port in ports for word in ("--port", port)]
    rows = list(csv.DictReader(io.StringIO(shown(call, folder, "-o", "csv", *asked).out)))
    free = next(
        row for row in rows if row["client"] == row["server"] == "shop app=web" or row["server"] == "shop app=web"
    )
    assert (free["verdict"], free["allowed"]) == ("allowed", whole)
    assert [row["allowed"] for row in rows if row["verdict"] == "some"] == ([part] if part else [])


def named(name: str) -> Matrix:
    """Return a matrix of one group of two Pods with a name from outside, which stands in its reason too."""
    found = Matrix()
    end = MatrixEnd(name, 2, (name,), 1, (name,), 1, (name,))
    said = (EndRange("any", 0),)
    reasons = (SideReason(allowed=True, words=name),)
    found.add(
        MatrixPart("pairs", 1, 1, (end,), reasons, said=(said,), verdicts="a", egress=(0,), ingress=(0,), complete=True)
    )
    return found


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1"])
def test_csv_has_no_formulas(name: str) -> None:
    _, row = csv.reader(csv_lines(named(name), MatrixRequest()))
    assert [cell for cell in row if cell[:1] in set("=+-@\t")] == []


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_text_from_outside_stays_text_in_every_form(text: str) -> None:
    found, asked = named(text), MatrixRequest()
    for line in (*matrix_lines(found, asked), *csv_lines(found, asked), *dot_lines(found, asked)):
        assert line.isprintable()
    assert len(list(csv.reader(csv_lines(found, asked)))) == 2
    graph = "\n".join(dot_lines(found, asked))
    assert re.fullmatch(r'([^"]|"([^"\\]|\\.)*")*', graph), "every string ends where it should"
    page = Page(matrix_page(found, asked))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in Page(matrix_page(named("x"), asked)).tags]
    assert json.loads(page.block("script", 0))["ends"][0]["name"] == printable(text)


def test_the_graph_has_an_arrow_for_what_is_allowed(call: Call, manifests: Path) -> None:
    out = shown(call, manifests, "-o", "dot").out
    assert '  n0 [label="shop app=db\\n1 Pod"];' in out
    assert "  n0 -> n1;" in out
    assert '  n1 -> n0 [style=dashed, label="5432/tcp"];' in out
    if which("dot"):
        subprocess.run(["dot", "-Tsvg"], input=out, text=True, check=True, capture_output=True)


class Page(HTMLParser):
    """The tags of a page, and the text of its blocks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._blocks: list[tuple[str, str]] = []
        self.feed(text)

    def block(self, tag: str, place: int) -> str:
        """Return the text of one of the blocks of a tag."""
        return [text for name, text in self._blocks if name == tag][place]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._blocks.append((tag, ""))

    def handle_data(self, data: str) -> None:
        if self._blocks:
            tag, before = self._blocks[-1]
            self._blocks[-1] = (tag, before + data)

    def handle_endtag(self, tag: str) -> None:
        self._blocks.append((f"/{tag}", ""))


def test_the_page_loads_nothing_and_its_policy_allows_its_own_script_alone(call: Call, manifests: Path) -> None:
    page = Page(shown(call, manifests, "-o", "html").out)
    links = [attrs for _, attrs in page.tags if {"src", "href", "srcset", "action", "style"} & set(attrs)]
    assert links == []
    assert [name for _, attrs in page.tags for name in attrs if name.startswith("on")] == []
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    script = page.block("script", 1)
    digests = [b64encode(sha256(text.encode()).digest()).decode() for text in (page.block("style", 0), script)]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; base-uri 'none'; "
        "form-action 'none'"
    )
    assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacent|eval\(|document\.write", script)


def test_the_agent_and_its_folder_say_the_same(call: Call, folder: Path) -> None:
    settings = load_settings()
    desired, _ = read_state(folder, "node-a", settings.masquerade_settings(), settings.logging.group)
    for _ in desired.prepare():
        pass
    answers = introspection(desired)
    with running(answers, routes=answers.routes):
        asked = call("matrix", "-n", "shop", "--port", "5432", "--port", "53/udp", "--port", "icmp", "-o", "json")
        missing = call("matrix", "-n", "nowhere")
    read = shown(call, folder, "-n", "shop", "--port", "5432", "--port", "53/udp", "--port", "icmp", "-o", "json")
    assert json.loads(asked.out) == json.loads(read.out)
    assert json.loads(asked.out)["ports"] == ["5432/tcp", "53/udp", "ICMP and the like"]
    assert (missing.code, missing.out) == (2, "")
    assert "there is no namespace nowhere" in missing.err


def test_an_agent_that_has_not_read_everything_has_no_matrix(call: Call, folder: Path) -> None:
    settings = load_settings()
    desired, _ = read_state(folder, "node-a", settings.masquerade_settings(), settings.logging.group)
    answers = introspection(desired, freshness=Freshness(unread=("Pod",)))
    with running(answers, routes=answers.routes):
        said = call("matrix")
    assert (said.code, said.out) == (2, "")
    assert "matrix has no verdict yet: the agent hasn't read the whole cluster yet (not yet Pod)" in said.err


def test_an_older_agent_is_named(call: Call, folder: Path) -> None:
    settings = load_settings()
    desired, _ = read_state(folder, "node-a", settings.masquerade_settings(), settings.logging.group)
    with running(introspection(desired)):
        said = call("matrix")
    assert (said.code, said.out) == (2, "")
    assert "the running agent is older than this command; systemctl restart nfagent" in said.err


def test_without_agent_and_manifests_it_says_what_to_give(call: Call) -> None:
    said = call("matrix")
    assert (said.code, said.out) == (2, "")
    assert "there are no manifests to read instead; start the agent" in " ".join(said.err.split())
