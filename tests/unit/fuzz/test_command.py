"""The fuzzer at work, without packets: it finds a fault in what is compiled, shrinks it, and replays it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from nfagent.desired import policy_sets, recheck
from nfagent.desired.set_members import SetMembership
from nfagent.model.admin_policy import Policy
from nfagent.nftables.policy_chains import RenderedChain, class_chain
from nfagent.policy.compiler import CompiledRule, PolicySetKey
from nfagent.policy.evaluator import Flow, FlowVerdict, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState
from tests.fuzz import oracles
from tests.fuzz.__main__ import main
from tests.fuzz.case import Case, Finding, step_of
from tests.fuzz.folder import write_case


def without_the_last_rule(patch: pytest.MonkeyPatch) -> None:
    """Compile every class without the last rule of its NetworkPolicies."""

    def cut(key: PolicySetKey, rules: Iterable[CompiledRule], *rest: Any, **options: Any) -> RenderedChain:  # noqa: ANN401 - passed on
        return class_chain(key, tuple(rules)[:-1], *rest, **options)

    patch.setattr(policy_sets, "class_chain", cut)


def without_suspects(patch: pytest.MonkeyPatch) -> None:
    """Have nobody's living connections judged again."""
    patch.setattr(recheck, "revocable", lambda *_everything: set[str]())


def failing(patch: pytest.MonkeyPatch) -> None:
    """End with an error where a class is written."""

    def fail(*_everything: object, **_options: object) -> RenderedChain:
        raise LookupError("no such class")

    patch.setattr(policy_sets, "class_chain", fail)


def run(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--no-packets", "--build", str(tmp_path), *arguments])


class Fault(NamedTuple):
    """A fault, which packets show it, what evaluate and the rules say then, and how many documents suffice for it."""

    make: Callable[[pytest.MonkeyPatch], None]
    kind: str
    verdicts: tuple[str, str]
    documents: int


FAULTS = {
    "a class without its last rule": Fault(without_the_last_rule, "first", ("allowed", "denied"), 6),
    "living connections that aren't judged again": Fault(without_suspects, "established", ("denied", "allowed"), 6),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found_shrunk_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    fault.make(monkeypatch)
    found = run(tmp_path, "--seed", "5", "-o", "json")
    told = json.loads(found.output)["found"]
    assert found.exit_code == 1
    assert told["finding"]["question"]["kind"] == fault.kind
    assert told["finding"]["verdicts"] == dict(zip(("evaluate", "rules"), fault.verdicts, strict=True))
    assert told["repeated"]
    assert 0 < told["documents"][1] <= fault.documents < told["documents"][0]

    folder = str(tmp_path / "5")
    assert (told["folder"], told["replay"]) == (folder, f"make fuzz REPLAY={folder}")
    again = run(tmp_path, "--replay", folder, "-o", "json")
    now = json.loads(again.output)["now"]
    assert (again.exit_code, now) == (1, told["finding"])

    monkeypatch.undo()
    mended = run(tmp_path, "--replay", folder)
    assert mended.exit_code == 0
    assert "It fails no longer." in mended.output


def test_rules_that_a_fresh_start_would_not_give_are_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SetMembership, "release", lambda *_everything, **_options: None)
    found = run(tmp_path, "--seed", "5", "-o", "json")
    told = json.loads(found.output)["found"]
    assert found.exit_code == 1
    assert told["finding"]["verdicts"] == {"rules": "not those of a fresh start"}
    assert 0 < told["documents"][1] < told["documents"][0]


def test_a_judge_that_ends_with_an_error_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch)
    found = run(tmp_path, "--seed", "5")
    assert found.exit_code == 1
    assert "NOT AS EXPECTED: no flow: rules: LookupError (no such class)" in found.output
    assert f"once more: make fuzz REPLAY={tmp_path / '5'}" in found.output
    assert run(tmp_path, "--replay", str(tmp_path / "5")).exit_code == 1


def test_a_judge_that_fails_on_one_flow_is_a_finding_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate_or_fail(
        cluster: ClusterState, policies: Iterable[Policy], flow: Flow, choices: PolicyOptions
    ) -> FlowVerdict:
        if flow.port == 99:
            raise LookupError("no such port")
        return evaluate(cluster, policies, flow, choices)

    monkeypatch.setattr(oracles, "evaluate", evaluate_or_fail)
    told = json.loads(run(tmp_path, "--seed", "5", "-o", "json").output)["found"]
    assert told["finding"]["verdicts"] == {"rules": "LookupError"}
    assert told["finding"]["question"]["flow"]["port"] == 99


def test_where_all_judges_agree_the_answer_is_yes_and_a_table(tmp_path: Path) -> None:
    done = run(tmp_path, "--seconds", "0", "--seed", "17")
    assert done.exit_code == 0
    heading, table, *_ = done.output.split("\n   JUDGES ")
    assert heading == "fuzz: seed 17, 0 s, without packets"
    rows = [line.split() for line in table.splitlines()[1:3]]
    assert [(row[:2], row[-1]) for row in rows] == [(["evaluate,", "rules"], "1")] * 2
    assert all(int(row[-2].replace(",", "")) > 0 for row in rows)
    assert "All as expected. 1 case," in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_seed_asks_the_same_again(tmp_path: Path) -> None:
    first, second = (run(tmp_path, "--seconds", "0", "--seed", "32", "-o", "json").output for _ in range(2))
    assert json.loads(first)["tally"] == json.loads(second)["tally"]


def test_a_replay_of_nothing_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--replay", str(tmp_path / "none"))
    assert done.exit_code == 2
    assert "can't be replayed" in done.output


def test_what_packets_have_shown_is_not_replayed_without_them(tmp_path: Path) -> None:
    case = Case((step_of([], "commit"),))
    write_case(tmp_path, case, Finding(0, None, {"packets": "KernelError"}), seed=1, number=0)
    done = run(tmp_path, "--replay", str(tmp_path))
    assert done.exit_code == 2
    assert "replay it as root, with packets" in done.output


def test_packets_without_root_are_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    done = CliRunner().invoke(main, ["--build", str(tmp_path)])
    assert done.exit_code == 2
    assert "PACKETS=no" in done.output
