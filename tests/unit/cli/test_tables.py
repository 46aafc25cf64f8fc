"""Tables are aligned, and coloured on a terminal only."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.cli import tables, wrapping
from nfagent.model.plurals import counted

CELL = st.text("ab/.:-", max_size=12)


class Screen:
    """Stands for stdout on a terminal."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Screen())
    monkeypatch.delenv("NO_COLOR", raising=False)


@given(st.lists(st.tuples(CELL, CELL, CELL), max_size=8))
def test_every_column_begins_where_its_heading_does(rows: list[tuple[str, str, str]]) -> None:
    header, *lines = tables.table(("one", "two", "three"), rows)
    begin = header.index("TWO"), header.index("THREE")
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        padded = line.ljust(begin[1])
        assert padded[: begin[0] - 2].rstrip() == (row[0] or "-")
        assert padded[begin[0] : begin[1] - 2].rstrip() == (row[1] or "-")
        assert padded[begin[1] :] == (row[2] or "-")


def test_numbers_are_right_aligned() -> None:
    shown = tables.table(("name", "packets"), [("a", "5"), ("b", "1234567")], right={1})
    assert shown == ["NAME  PACKETS", "a           5", "b     1234567"]


def test_colour_does_not_count_in_column_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    coloured = tables.table(("verdict", "who"), [(tables.paint("deny"), "a"), (tables.paint("allow"), "b")])
    assert [tables.plain(line) for line in coloured] == ["VERDICT  WHO", "deny     a", "allow    b"]
    assert [tables.shown(line) for line in coloured[1:]] == [
        "\x1b[31mdeny\x1b[0m     a",
        "\x1b[32mallow\x1b[0m    b",
    ]


def test_only_marked_colours_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    row = tables.table(("verdict", "who"), [(tables.paint("deny"), "\x1b[32mallow\x1b[0m")])[1]
    assert tables.shown(row) == "\x1b[31mdeny\x1b[0m     \\x1b[32mallow\\x1b[0m"


def test_no_color_switches_colour_off_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    assert tables.coloured()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not tables.coloured()
    assert tables.paint("deny") == "deny"


def test_nothing_is_coloured_in_a_pipe() -> None:
    assert tables.paint("deny") == "deny"
    assert tables.strong("words") == "words"


@pytest.mark.parametrize(
    ("count", "word", "words"),
    [(0, "rule", "no rules"), (1, "policy", "1 policy"), (2, "policy", "2 policies"), (3, "day", "3 days")],
)
def test_things_are_counted_in_words(count: int, word: str, words: str) -> None:
    assert counted(count, word) == words


POLICIES = [
    ["shop/web", tables.paint("allow"), "data/allow-from-shop, data/allow-from-monitoring", "12"],
    ["shop/" + "web-" * 12 + "7d9f", "deny", "data/wall", "3400"],
]
HEADER = ("pod", "verdict", "policies", "packets")


@pytest.mark.parametrize("columns", [100, 60, 40, 20])
def test_no_line_of_a_table_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = tables.table(HEADER, POLICIES, right={3})
    assert max(map(len, lines)) <= columns
    squeezed = "".join("".join(lines).split())
    assert all(word in squeezed for word in ("3400", "allow")), "nothing is cut off"


def test_a_long_cell_is_broken_into_lines_of_its_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert tables.table(HEADER, POLICIES, right={3}) == [
        "POD                   VERDICT  POLICIES              PACKETS",
        "shop/web              allow    data/allow-from-           12",
        "                               shop, data/allow-",
        "                               from-monitoring",
        "shop/web-web-web-     deny     data/wall                3400",
        "web-web-web-web-web-",
        "web-web-web-web-7d9f",
    ]


WHY = "ingress at shop/db: rule 1 of 1 in NetworkPolicy shop/db allows it (before: none of its 2 rules matches)"
FLOWS = [["shop/web-1 -> shop/db-2", "80/tcp", "denied", WHY], ["a -> b", "53/udp", "denied", "no policy"]]


def test_where_a_narrow_column_takes_many_lines_each_row_becomes_lines_of_names_and_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    assert tables.table(("flow", "traffic", "before", "why"), FLOWS) == [
        "FLOW  shop/web-1 -> shop/db-2",
        "TRAFFIC  80/tcp",
        "BEFORE  denied",
        "WHY",
        "  ingress at shop/db: rule 1 of 1 in",
        "  NetworkPolicy shop/db allows it (before:",
        "  none of its 2 rules matches)",
        "",
        "FLOW  a -> b",
        "TRAFFIC  53/udp",
        "BEFORE  denied",
        "WHY  no policy",
    ]
    monkeypatch.setenv("COLUMNS", "80")
    assert tables.table(("flow", "traffic", "before", "why"), FLOWS)[0].split() == ["FLOW", "TRAFFIC", "BEFORE", "WHY"]


def test_a_cell_that_is_long_at_any_width_leaves_the_others_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    header, *_ = tables.table(("check", "found"), [["settings", "word " * 80], ["privileges", "ok"]])
    assert header.split() == ["CHECK", "FOUND"]


def test_where_columns_do_not_fit_each_row_becomes_lines_of_names_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    assert tables.table(HEADER, [POLICIES[0], ["a/b", "", "", "1"]], right={3}) == [
        "POD  shop/web",
        "VERDICT  allow",
        "POLICIES",
        "  data/allow-from-shop,",
        "  data/allow-from-",
        "  monitoring",
        "PACKETS  12",
        "",
        "POD  a/b",
        "VERDICT  -",
        "POLICIES  -",
        "PACKETS  1",
    ]


def test_a_long_fact_goes_on_below_its_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert tables.facts([("node", "node-a"), ("cluster", "1 namespace, 2 nodes, 5000 Pods (60 here)")]) == [
        "node     node-a",
        "cluster  1 namespace, 2 nodes, 5000 Pods",
        "         (60 here)",
    ]


def test_a_colour_goes_on_in_the_next_line_of_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    lines = tables.broken(f"of {tables.marked('shop/webs', 'red')} here", 8)
    assert [tables.shown(line) for line in lines] == ["of \x1b[31mshop/\x1b[0m", "\x1b[31mwebs\x1b[0m", "here"]


@given(st.text("ab /,-", max_size=60), st.integers(1, 30))
def test_breaking_a_text_loses_nothing_but_spaces(text: str, width: int) -> None:
    lines = tables.broken(text, width)
    assert all(len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


RULE = "  network   NetworkPolicy shop/db isolates ingress; rule 1 of 1 allows from pods app=api"


@pytest.mark.parametrize(
    ("sentence", "lines"),
    [
        (
            RULE,
            [
                "  network   NetworkPolicy shop/db",
                "            isolates ingress; rule 1 of",
                "            1 allows from pods app=api",
            ],
        ),
        (
            "  ingress 1. deny from all pods in namespaces team=none  'guests'",
            ["  ingress 1. deny from all pods in", "      namespaces team=none  'guests'"],
        ),
        (
            "shop/web (10.244.1.10) -> shop/db (10.244.2.11):80/tcp: DENIED",
            ["shop/web (10.244.1.10) -> shop/db", "    (10.244.2.11):80/tcp: DENIED"],
        ),
        (
            "a-name-that-is-longer-than-a-third  and what of it",
            ["a-name-that-is-longer-than-a-third  and", "    what of it"],
        ),
        ("short", ["short"]),
    ],
    ids=["below the words behind a label", "a rule", "a sentence", "behind a long label", "one that fits"],
)
def test_a_sentence_goes_on_in_indented_lines(sentence: str, lines: list[str]) -> None:
    assert tables.fitted(sentence, 40) == lines
    assert tables.fitted(sentence, None) == [sentence]


@given(st.text("ab /,-:.'", max_size=120), st.integers(1, 60))
def test_fitting_a_sentence_loses_nothing_but_spaces(text: str, width: int) -> None:
    lines = tables.fitted(text, width)
    assert all(len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def arguments(command: str) -> list[str]:
    """Return the words of a command as a shell reads them."""
    shown = ["bash", "-c", f"printf '%s\\0' {command}"]
    done = subprocess.run(shown, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return done.stdout.split("\0")[:-1]


def test_a_command_in_several_lines_is_the_same_to_a_shell() -> None:
    command = "sysctl -w 'net.ipv6.conf.all.a b'=1 net.ipv6.conf.all.forwarding=1 \"x  y\" it"
    lines = wrapping.command_lines(command, 40)
    assert max(map(len, lines)) <= 40
    assert len(lines) > 1
    assert arguments("\n".join(lines)) == arguments(command)


@pytest.mark.parametrize("width", [1, 20, 60, 200])
def test_a_word_of_a_command_is_never_broken(width: int) -> None:
    command = "nfagent check --cluster --kubeconfig /etc/nfagent/kubeconfig"
    assert arguments("\n".join(wrapping.command_lines(command, width))) == command.split()


def test_an_address_and_a_path_are_broken_only_where_they_must_be() -> None:
    assert tables.broken("at most 262,144 of /var/lib/x", 17) == ["at most 262,144", "of /var/lib/x"]
    assert tables.broken("no /etc/nfagent/nfagent.toml", 10) == ["no /etc/", "nfagent/", "nfagent.", "toml"]


def test_without_a_terminal_a_row_is_one_line() -> None:
    assert len(tables.table(HEADER, POLICIES, right={3})) == 1 + len(POLICIES)
