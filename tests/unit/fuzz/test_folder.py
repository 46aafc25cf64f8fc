"""A failing case on the disk: what is written is read back, by people and by the replay."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nfagent.errors import UsageError
from nfagent.manifests.folder_scan import read_folder
from nfagent.manifests.index import ManifestIndex
from nfagent.policy.evaluator import Flow
from tests.fuzz.case import Case, Change, Finding, Question, step_of
from tests.fuzz.folder import read_case, write_case
from tests.fuzz.generator import draw_case, generator

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "web"}}
FLOW = Flow("10.64.0.1", "10.64.1.1", "tcp", 80)
FINDING = Finding(1, Question(FLOW, "established"), {"evaluate": "denied", "rules": "allowed"}, "forward of node a")
CASE = Case((step_of([Change("pod.yaml", POD)], "commit"), step_of([Change("pod.yaml", None)], "absolve")))


def test_steps_are_numbered_folders_of_manifests_and_lists_of_what_goes(tmp_path: Path) -> None:
    write_case(tmp_path / "7", CASE, FINDING, seed=7, number=3)
    written = {str(path.relative_to(tmp_path / "7")) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"01/pod.yaml", "02/DELETED", "expected.json"}
    assert yaml.safe_load((tmp_path / "7/01/pod.yaml").read_text()) == POD
    assert (tmp_path / "7/02/DELETED").read_text() == "pod.yaml\n"


def test_expected_json_says_what_was_asked_and_how_to_ask_again(tmp_path: Path) -> None:
    command = write_case(tmp_path / "7", CASE, FINDING, seed=7, number=3)
    _, recorded = read_case(tmp_path / "7")
    assert command == recorded.replay == f"make fuzz REPLAY={tmp_path / '7'}"
    assert (recorded.seed, recorded.number, recorded.finding) == (7, 3, FINDING)


@pytest.mark.parametrize("steady", [True, False], ids=["fit for packets", "restless"])
def test_any_case_is_read_back_as_it_was(tmp_path: Path, *, steady: bool) -> None:
    for number in range(5):
        case = draw_case(generator(0, number), steady=steady)
        write_case(tmp_path / "case", case, FINDING, seed=1, number=number)
        assert read_case(tmp_path / "case")[0] == case


def test_a_step_is_a_folder_that_the_agent_reads_without_a_complaint_of_its_own(tmp_path: Path) -> None:
    write_case(tmp_path / "case", draw_case(generator(0, 1), steady=True), FINDING, seed=1, number=1)
    known = ManifestIndex()
    assert len(read_folder(tmp_path / "case" / "01", known)) == len(list((tmp_path / "case" / "01").iterdir()))


def test_a_number_makes_the_same_case_again_and_another_another() -> None:
    assert draw_case(generator(0, 1), steady=False) == draw_case(generator(0, 1), steady=False)
    assert draw_case(generator(0, 1), steady=False) != draw_case(generator(0, 2), steady=False)


BROKEN = {
    "not there": None,
    "not JSON": "{",
    "of another shape": '{"seed": 1}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_folder_that_is_no_case_is_refused_in_words(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "expected.json").write_text(text)
    with pytest.raises(UsageError, match=r"can't be replayed: .*; give a folder that `make fuzz` has written"):
        read_case(tmp_path)


def test_a_manifest_that_somebody_broke_is_refused_in_words(tmp_path: Path) -> None:
    write_case(tmp_path / "7", CASE, FINDING, seed=7, number=3)
    (tmp_path / "7/01/pod.yaml").write_text("a: [")
    with pytest.raises(UsageError, match="can't be replayed"):
        read_case(tmp_path / "7")
