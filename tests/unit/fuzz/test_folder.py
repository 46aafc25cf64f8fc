"""Failing cases on disk: what is written can be read back, and replayed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nfagent.errors import UsageError
from nfagent.manifests.folder_scan import read_folder
from nfagent.manifests.index import ManifestIndex
from nfagent.policy.evaluator import Flow
from tests.fuzz.case import Case, Finding, ManifestChange, Question, step_of
from tests.fuzz.folder import read_case, write_case
from tests.fuzz.generator import draw_case, generator

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "web"}}
FLOW = Flow("10.64.0.1", "10.64.1.1", "tcp", 80)
FINDING = Finding(1, Question(FLOW, "established"), {"evaluate": "denied", "rules": "allowed"}, "forward of node a")
CASE = Case(
    (step_of([ManifestChange("pod.yaml", POD)], "commit"), step_of([ManifestChange("pod.yaml", None)], "clear"))
)


def test_steps_are_numbered_folders_of_manifests_and_lists_of_deleted_files(tmp_path: Path) -> None:
    write_case(tmp_path / "7", CASE, FINDING, seed=7, number=3)
    written = {str(path.relative_to(tmp_path / "7")) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"01/pod.yaml", "02/DELETED", "expected.json"}
    assert yaml.safe_load((tmp_path / "7/01/pod.yaml").read_text()) == POD
    assert (tmp_path / "7/02/DELETED").read_text() == "pod.yaml\n"


def test_expected_json_has_the_finding_and_the_replay_command(tmp_path: Path) -> None:
    command = write_case(tmp_path / "7", CASE, FINDING, seed=7, number=3)
    _, recorded = read_case(tmp_path / "7")
    assert command == recorded.replay == f"make fuzz REPLAY={tmp_path / '7'}"
    assert (recorded.seed, recorded.number, recorded.finding) == (7, 3, FINDING)


@pytest.mark.parametrize("steady", [True, False], ids=["fit for packets", "any"])
def test_any_case_is_read_back_unchanged(tmp_path: Path, *, steady: bool) -> None:
    for number in range(5):
        case = draw_case(generator(0, number), steady=steady)
        write_case(tmp_path / "case", case, FINDING, seed=1, number=number)
        assert read_case(tmp_path / "case")[0] == case


def test_a_step_is_a_folder_that_the_agent_can_read(tmp_path: Path) -> None:
    write_case(tmp_path / "case", draw_case(generator(0, 1), steady=True), FINDING, seed=1, number=1)
    known = ManifestIndex()
    assert len(read_folder(tmp_path / "case" / "01", known)) == len(list((tmp_path / "case" / "01").iterdir()))


def test_the_number_determines_the_case() -> None:
    assert draw_case(generator(0, 1), steady=False) == draw_case(generator(0, 1), steady=False)
    assert draw_case(generator(0, 1), steady=False) != draw_case(generator(0, 2), steady=False)


BROKEN = {
    "not there": None,
    "not JSON": "{",
    "of another shape": '{"seed": 1}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_folder_that_is_no_case_is_an_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "expected.json").write_text(text)
    with pytest.raises(UsageError, match=r"can't be replayed: .*; give a folder that `make fuzz` has written"):
        read_case(tmp_path)


def test_an_invalid_manifest_is_an_error(tmp_path: Path) -> None:
    write_case(tmp_path / "7", CASE, FINDING, seed=7, number=3)
    (tmp_path / "7/01/pod.yaml").write_text("a: [")
    with pytest.raises(UsageError, match="can't be replayed"):
        read_case(tmp_path / "7")
