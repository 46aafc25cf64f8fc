"""Large manifest files: parsed in a child process, to the same objects, within limits that issues name."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nfagent.errors import ValidationIssue
from nfagent.manifests import parser_process
from nfagent.manifests.file_content import FileContent, read_documents
from nfagent.manifests.folder_scan import read_folder
from nfagent.manifests.index import ManifestIndex
from nfagent.manifests.parser_process import LARGE, LARGEST_OBJECT, end_children
from nfagent.model.objects import ObjectRef
from nfagent.system.regular_file import LARGEST_FILE

DEADLINE = 60.0
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "web"}}
NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n"
PADDING = f"# {'x' * 998}\n" * (LARGE // 1000 + 1)
"""Padding that makes any YAML file a large one."""


def children() -> list[str]:
    """Return the names of child processes that have not ended."""
    found: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended since they were listed
            found += (task / "children").read_text().split()
    return found


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    before = set(children())
    yield
    assert set(children()) <= before


def pod(number: int, **rest: object) -> dict[str, object]:
    return {**POD, "metadata": {"namespace": "shop", "name": f"p-{number}", "labels": {"app": "web"}}, **rest}


def as_json(count: int) -> str:
    return "".join(f"{json.dumps(pod(number))}\n" for number in range(count))


def as_yaml(count: int) -> str:
    return "".join(f"---\n{json.dumps(pod(number))}\n" for number in range(count))


def as_list(count: int) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "PodList", "items": [pod(number) for number in range(count)]})


@pytest.mark.parametrize(
    ("name", "written"),
    [
        pytest.param("f.json", as_json, id="documents of JSON"),
        pytest.param("f.yaml", as_yaml, id="documents of YAML"),
        pytest.param("f.json", as_list, id="a list"),
        pytest.param("f.yaml", lambda count: NODE + "---\nhello\n" + as_yaml(count), id="an invalid document"),
        pytest.param("f.yaml", lambda count: as_yaml(count) + "---\na: [", id="a truncated file"),
        pytest.param("f.json", lambda count: as_json(count) + '{"a": 1,,}', id="a file of JSON with two commas"),
        pytest.param("f.yaml", lambda count: as_yaml(count) + "---\na: \ud800", id="a lone surrogate"),
    ],
)
def test_a_large_file_is_decoded_like_a_small_one(
    name: str, written: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = written(6000)
    assert len(text) > LARGE
    apart = read_documents(name, text)
    monkeypatch.setattr(parser_process, "LARGE", len(text) + 1)
    here = read_documents(name, text)
    assert apart == here
    assert isinstance(here, ValidationIssue) or len(here.items) >= 6000


def test_a_file_above_the_size_limit_is_not_read_and_keeps_its_objects(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(NODE)
    folder = ManifestIndex()
    read_folder(tmp_path, folder)
    os.truncate(file, LARGEST_FILE + 1)
    assert read_folder(tmp_path, folder) == []
    (problem,) = folder.problems
    assert str(problem).startswith("f.yaml: is larger than 256 MiB, and is not read; give its objects in several files")
    assert "what it held before" in str(problem)
    assert folder.holder(ObjectRef("Node", "", "a")) == "f.yaml"


def test_a_text_above_the_size_limit_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfagent.manifests.document_parser.LARGEST_FILE", len(NODE) - 1)
    assert str(read_documents("f.yaml", NODE)).startswith("f.yaml: is larger than 256 MiB, and is not read")


def test_an_object_above_the_size_limit_is_rejected_alone() -> None:
    large = {**pod(1), "metadata": {"namespace": "shop", "name": "web", "annotations": {"x": "y" * LARGEST_OBJECT}}}
    secret = {**large, "kind": "Secret"}
    content = read_documents("f.json", f"{json.dumps(pod(0))}\n{json.dumps(large)}\n{json.dumps(secret)}")
    assert isinstance(content, FileContent)
    assert [str(ref) for ref in content.items] == ["Pod shop/p-0"]
    assert [str(problem) for problem in content.problems] == [
        "f.json:2: Pod shop/web: is larger than 4 MiB as JSON (4 MiB); an API server takes 1.5 MiB"
    ]
    assert content.rejected == frozenset({ObjectRef("Pod", "shop", "web")})
    assert content.ignored == frozenset({"v1 Secret"})


def test_a_word_of_two_hundred_thousand_sexagesimal_places_is_text() -> None:
    text = f"{NODE}spec: {{podCIDR: 1{':30' * 200_000}}}\n"
    content = read_documents("f.yaml", text)
    assert isinstance(content, FileContent)
    assert "is not a CIDR" in str(content.problems[0])


def test_aliases_that_expand_to_billions_of_values_are_rejected_in_a_large_file_too() -> None:
    text = f"{NODE}{PADDING}---\nx0: &x0 [a, b]\n"
    text += "".join(f"x{number}: &x{number} [{', '.join([f'*x{number - 1}'] * 9)}]\n" for number in range(1, 30))
    assert "its aliases stand for too many values" in str(read_documents("f.yaml", text))


@pytest.mark.parametrize(
    ("limit", "most", "reason"),
    [
        pytest.param("_MAX_MEMORY", 96 * 1024**2, "_MEMORY_EXCEEDED", id="memory"),
        pytest.param("_MAX_SECONDS", 1, "_TIME_EXCEEDED", id="time"),
    ],
)
def test_a_file_that_exceeds_the_limits_of_the_child_is_rejected(
    limit: str, most: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "needs more than it may have"
    program = (
        f"import nfagent.manifests.parser_process as p; p.{limit} = {most}; p.{reason} = {said!r}; p.main(sys.argv[1])"
    )
    monkeypatch.setattr(parser_process, "_PROGRAM", f"import sys; sys.path.insert(0, sys.argv[2]); {program}")
    monkeypatch.setattr(parser_process, reason, said)
    text = f"{NODE}x: [{'[a, b, c], ' * 1_000_000}]\n"
    assert str(read_documents("f.yaml", text)) == f"f.yaml: {said}"


def test_without_a_child_process_a_file_is_parsed_in_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    content = read_documents("f.yaml", NODE + PADDING)
    assert isinstance(content, FileContent)
    assert [str(ref) for ref in content.items] == ["Node a"]


def test_a_stop_does_not_wait_for_a_large_file() -> None:
    text = f"{NODE}x: [{'[a, b, c], ' * 1_500_000}]\n"

    async def body() -> object:
        reading = asyncio.create_task(asyncio.to_thread(read_documents, "f.yaml", text))
        async with asyncio.timeout(DEADLINE):
            while not reading.done():  # a child that has not started yet isn't ended
                end_children()
                await asyncio.sleep(0.001)
            return await reading

    assert "the process that parses it was killed" in str(asyncio.run(body()))
