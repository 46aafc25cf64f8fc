"""YAML parsing: the same values as kubectl, at a cost proportional to the size of the text.

`kubectl_yaml.jsonl` has texts, and what sigs.k8s.io/yaml v1.6.0 (of Kubernetes 1.34) makes of each:
`yaml.YAMLToJSON([]byte(text))` in Go, "" for an error.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.decode.yaml_values import YamlError, yaml_documents

TABLE = [
    json.loads(line) for line in Path(__file__).with_name("kubectl_yaml.jsonl").read_text(encoding="utf-8").splitlines()
]


def read(text: str) -> Any:  # noqa: ANN401 - any YAML value
    found = list(yaml_documents(text))
    return found[0][1] if found else None


def as_json(text: str) -> Any:  # noqa: ANN401 - as above
    """Write a value as JSON does that has no whole numbers beyond 64 bits."""
    return json.loads(text, parse_int=lambda digits: int(digits) if abs(int(digits)) < 2**63 else float(digits))


@pytest.mark.parametrize(("text", "wanted"), TABLE, ids=[repr(text) for text, _ in TABLE])
def test_a_text_is_read_as_kubectl_reads_it(text: str, wanted: str) -> None:
    if not wanted:
        with pytest.raises(YamlError):
            read(text)
        return
    value = as_json(json.dumps(read(text)))
    assert value == as_json(wanted)
    assert json.dumps(value, sort_keys=True).count('"') == wanted.count('"'), "what is text there is text here"
    assert ("true" in wanted or "false" in wanted) == ("true" in json.dumps(value) or "false" in json.dumps(value))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        pytest.param("a: 1\na: 2", "'a' is there twice in one mapping; keep one", id="a key twice"),
        pytest.param("1: a\n'1': b", "'1' is there twice in one mapping; keep one", id="a key twice in JSON"),
        pytest.param("x: &x {a: 2}\nz: {<<: *x, a: 1, a: 2}", "'a' is there twice", id="a key twice after a merge"),
        pytest.param(".inf: a", "'.inf' is not a JSON number", id="a key without end"),
        pytest.param("12345678.5: a", "'12345678.5' can't be a key; put it in quotes", id="a key with a power of ten"),
    ],
)
def test_yaml_that_kubectl_accepts_and_that_is_surely_a_mistake_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(YamlError, match=wrong.replace(".", r"\.")):
        read(text)


@pytest.mark.parametrize(
    ("text", "most", "line", "wrong"),
    [
        pytest.param("- 1\n- 2\n- 3", 3, 3, "holds more than 3 values", id="more values than are wanted"),
        pytest.param("- &a [1, 2]\n- *a", 5, 2, "its aliases stand for too many values", id="more by an alias"),
        pytest.param("\n" + "[" * 101 + "]" * 101, 0, 2, "is nested deeper than 100 levels", id="lists"),
        pytest.param("{a: " * 101 + "}" * 101, 0, 1, "is nested deeper than 100 levels", id="mappings"),
        pytest.param("a: [\n", 0, 2, "while parsing a flow node", id="a list without end"),
    ],
)
def test_a_bound_is_said_with_its_line(text: str, most: int, line: int, wrong: str) -> None:
    with pytest.raises(YamlError, match=wrong) as caught:
        list(yaml_documents(text, most))
    assert caught.value.line == line


def test_a_hundred_levels_are_read() -> None:
    value = read("[" * 100 + "]" * 100)
    for _ in range(99):
        (value,) = value
    assert value == []


def calls(text: str) -> int:
    """Count the calls of Python's and of C's functions that reading takes."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        list(yaml_documents(text))
    finally:
        sys.setprofile(before)
    return count


POD = "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: p-{}, labels: {{<<: {{a: x}}, b: 1:30:30}}}}\n"
SHAPES = {
    "documents": lambda size: "---\n".join(POD.format(number) for number in range(size)),
    "a list": lambda size: "".join(f"- {{a: {number}}}\n" for number in range(size)),
    "keys": lambda size: "".join(f"k{number}: 017\n" for number in range(size)),
    "aliases": lambda size: "a: &a {b: c}\nd: [" + "*a, " * size + "]\n",
    "merges": lambda size: "x: &x {a: 1}\n" + "".join(f"m{number}: {{<<: [*x, *x], a: 2}}\n" for number in range(size)),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ten_times_the_text_takes_ten_times_the_steps(shape: Any) -> None:  # noqa: ANN401 - a function of a size
    small, large = calls(shape(50)), calls(shape(500))
    assert large < 12 * small


@pytest.mark.parametrize(
    "word", ["1:30" + ":30" * 20_000, "0" * 60_000, "1_" * 30_000, "9" * 60_000, "0x" + "f" * 60_000]
)
def test_a_long_word_that_looks_like_a_number_takes_few_steps(word: str) -> None:
    assert calls(f"a: {word}") < 100


@given(st.text() | st.text("[]{}:&*!-,'\"#| \n\t01x.<~a%@", max_size=60))
def test_any_text_gives_values_or_a_yaml_error(text: str) -> None:
    with suppress(YamlError):
        json.dumps(list(yaml_documents(text)), allow_nan=False)
