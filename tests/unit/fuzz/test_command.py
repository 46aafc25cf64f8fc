"""The fuzzer without packets: it finds a fault of the compiled rules, shrinks its case, and replays it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from click.testing import CliRunner, Result

from nfagent.desired import policy_sets, recheck
from nfagent.desired.set_members import SetMembership
from nfagent.model.admin_policy import Policy
from nfagent.nftables.policy_chains import RenderedChain, render_policy_set
from nfagent.policy.chain_plan import ChainPlan
from nfagent.policy.compiler import PolicySetKey
from nfagent.policy.evaluator import Flow, FlowVerdict, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState
from tests.fuzz import oracles
from tests.fuzz.__main__ import main
from tests.fuzz.case import Case, Finding, step_of
from tests.fuzz.folder import write_case


def without_the_last_rule(patch: pytest.MonkeyPatch) -> None:
    """Compile every policy set without the last rule of its NetworkPolicies."""

    def cut(key: PolicySetKey, plan: ChainPlan, *rest: Any, **options: Any) -> RenderedChain:  # noqa: ANN401 - passed on
        return render_policy_set(key, msgspec.structs.replace(plan, rules=plan.rules[:-1]), *rest, **options)

    patch.setattr(policy_sets, "render_policy_set", cut)


def without_recheck(patch: pytest.MonkeyPatch) -> None:
    """Put no address under re-check."""
    patch.setattr(recheck, "revocable", lambda *_arguments: set[str]())


def failing(patch: pytest.MonkeyPatch) -> None:
    """Raise an exception where a policy set is rendered."""

    def fail(*_arguments: object, **_options: object) -> RenderedChain:
        raise LookupError("no such set")

    patch.setattr(policy_sets, "render_policy_set", fail)


def run(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--no-packets", "--build", str(tmp_path), *arguments])


class Fault(NamedTuple):
    """A fault, the packets that show it, the verdicts of evaluator and rules, and the largest number of documents."""

    make: Callable[[pytest.MonkeyPatch], None]
    kind: str
    verdicts: tuple[str, str]
    documents: int


FAULTS = {
    "a policy set without its last rule": Fault(without_the_last_rule, "first", ("allowed", "denied"), 6),
    "no re-check of established connections": Fault(without_recheck, "established", ("denied", "allowed"), 6),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found_shrunk_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    fault.make(monkeypatch)
    found = run(tmp_path, "--seed", "5", "-o", "json")
    found_case = json.loads(found.output)["found"]
    assert found.exit_code == 1
    assert found_case["finding"]["question"]["kind"] == fault.kind
    assert found_case["finding"]["verdicts"] == dict(zip(("evaluate", "rules"), fault.verdicts, strict=True))
    assert found_case["repeated"]
    assert 0 < found_case["documents"][1] <= fault.documents < found_case["documents"][0]

    folder = str(tmp_path / "5")
    assert (found_case["folder"], found_case["replay"]) == (folder, f"make fuzz REPLAY={folder}")
    again = run(tmp_path, "--replay", folder, "-o", "json")
    now = json.loads(again.output)["now"]
    assert (again.exit_code, now) == (1, found_case["finding"])

    monkeypatch.undo()
    fixed = run(tmp_path, "--replay", folder)
    assert fixed.exit_code == 0
    assert "It fails no longer." in fixed.output


def test_rules_that_a_fresh_start_would_not_give_are_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SetMembership, "release", lambda *_arguments, **_options: None)
    found = run(tmp_path, "--seed", "5", "-o", "json")
    found_case = json.loads(found.output)["found"]
    assert found.exit_code == 1
    assert found_case["finding"]["verdicts"] == {"rules": "not those of a fresh start"}
    assert 0 < found_case["documents"][1] < found_case["documents"][0]


def test_an_oracle_that_raises_an_exception_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch)
    found = run(tmp_path, "--seed", "5")
    assert found.exit_code == 1
    assert "NOT AS EXPECTED: no flow: rules: LookupError (no such set)" in found.output
    assert f"replay: make fuzz REPLAY={tmp_path / '5'}" in found.output
    assert run(tmp_path, "--replay", str(tmp_path / "5")).exit_code == 1


def test_an_oracle_that_fails_on_one_flow_is_a_finding_with_that_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate_or_fail(
        cluster: ClusterState, policies: Iterable[Policy], flow: Flow, policy_options: PolicyOptions
    ) -> FlowVerdict:
        if flow.port == 99:
            raise LookupError("no such port")
        return evaluate(cluster, policies, flow, policy_options)

    monkeypatch.setattr(oracles, "evaluate", evaluate_or_fail)
    found_case = json.loads(run(tmp_path, "--seed", "5", "-o", "json").output)["found"]
    assert found_case["finding"]["verdicts"] == {"rules": "LookupError"}
    assert found_case["finding"]["question"]["flow"]["port"] == 99


def test_where_all_oracles_agree_the_exit_code_is_0(tmp_path: Path) -> None:
    done = run(tmp_path, "--seconds", "0", "--seed", "17")
    assert done.exit_code == 0
    heading, table, *_ = done.output.split("\n   ORACLES ")
    assert heading == "fuzz: seed 17, 0 s, without packets"
    rows = [line.split() for line in table.splitlines()[1:3]]
    assert [(row[:2], row[-1]) for row in rows] == [(["evaluate,", "rules"], "1")] * 2
    assert all(int(row[-2].replace(",", "")) > 0 for row in rows)
    assert "All as expected. 1 case," in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_seed_repeats_the_same_questions(tmp_path: Path) -> None:
    first, second = (run(tmp_path, "--seconds", "0", "--seed", "32", "-o", "json").output for _ in range(2))
    assert json.loads(first)["counts"] == json.loads(second)["counts"]


def test_a_replay_of_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, "--replay", str(tmp_path / "none"))
    assert done.exit_code == 2
    assert "can't be replayed" in done.output


def test_a_finding_of_packets_is_not_replayed_without_them(tmp_path: Path) -> None:
    case = Case((step_of([], "commit"),))
    write_case(tmp_path, case, Finding(0, None, {"packets": "KernelError"}), seed=1, number=0)
    done = run(tmp_path, "--replay", str(tmp_path))
    assert done.exit_code == 2
    assert "replay it as root, with packets" in done.output


def test_packets_without_root_are_an_error_that_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    done = CliRunner().invoke(main, ["--build", str(tmp_path)])
    assert done.exit_code == 2
    assert "PACKETS=no" in done.output
