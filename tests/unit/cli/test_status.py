"""nfagent status: its lines when all is well and when not, its exit codes, and agents that can't tell."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from nfagent.cli.status import span
from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue
from nfagent.introspection.agent_status import AgentStatus, VerdictLogStatus
from nfagent.introspection.freshness import WHOLE, Freshness, StaleResource
from nfagent.introspection.http_stream import view_route
from nfagent.introspection.status_answer import StatusReadings, log_loss, status_parts
from nfagent.introspection.status_view import DeniedCount, DeniedStatus, SourceStatus, StatusView
from nfagent.time_slices import TimeSlices
from tests.support.two_node_cluster import TwoNodeCluster, pod, policy
from tests.unit.cli.agents import STATUS, introspection, running
from tests.unit.cli.called import Call, Said

TOP = [
    DeniedCount(packets=30, source="shop/web", destination="data/db:5432/tcp", policies=["data/wall"]),
    DeniedCount(packets=12, policies=["shop/all", "ClusterNetworkPolicy floor"]),
    DeniedCount(packets=3, reason="spoofed"),
]
CLOSED = policy("shop/closed", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}])
PODS = (pod("shop/web", "a", 10), pod("shop/db", "a", 20), pod("far/cat", "b", 50))


def in_sync(**changes: Any) -> AgentStatus:  # noqa: ANN401 - fields of a status
    return msgspec.structs.replace(STATUS, reconcile=msgspec.structs.replace(STATUS.reconcile, in_sync=True), **changes)


def readings(**changes: Any) -> StatusReadings:  # noqa: ANN401 - fields of the readings
    whole = StatusReadings(
        version="1.2.3",
        now=100_000.0,
        started=100.0,
        in_sync_at=99_580.0,
        source=SourceStatus(kind="apiserver", name="https://192.0.2.1:6443", synced=True, age_seconds=2.0),
        freshness=WHOLE,
        agent=in_sync(),
        problems=(),
        denied=DeniedStatus(seconds=301.0, packets=45, by="log", top=TOP),
    )
    return msgspec.structs.replace(whole, **changes)


def said(call: Call, found: StatusReadings, *options: str, desired: DesiredState | None = None) -> Said:
    state = desired or TwoNodeCluster(*PODS, policy("shop/all")).views["a"]

    async def view() -> StatusView:
        return status_parts(state, found)

    with running(introspection(state), routes=[view_route("/v1/status", view, TimeSlices())]):
        return call("status", *options)


def test_when_all_is_well_ten_lines_say_so_and_who_was_denied(call: Call) -> None:
    answer = said(call, readings())
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        "agent     nfagent 1.2.3, node a, up 1 d 3 h",
        "source    API server https://192.0.2.1:6443, last heard 2 s ago",
        "in sync   ok, for 7 min",
        "Pods      2 here, 3 in the cluster",
        "policies  1, none fails closed",
        "denied    45 packets in the last 5 min",
        "          30 shop/web -> data/db:5432/tcp by data/wall",
        "          12 by shop/all, ClusterNetworkPolicy floor",
        "          3 without a policy: spoofed",
        "log loss  none since the start",
        "drift     no repairs",
        "health    ok",
    ]


IPTABLES = {
    "name": "iptables",
    "reason": "the kernel has no nf_tables",
    "variant": "legacy",
    "variant_reason": "kubelet uses it",
}


def test_where_the_rules_are_written_and_why_there_is_a_line(call: Call) -> None:
    answer = said(call, readings(agent=in_sync(backend=IPTABLES)))
    assert "backend   iptables (legacy: kubelet uses it), as the kernel has no nf_tables" in answer.out.splitlines()


STALE = Freshness(stale=(StaleResource(("Pod",), "2024-05-06T07:08:09Z", 720.0, "connection refused"),))
UNREAD = Freshness(unread=("Pod",), trouble="connection refused")
REFUSED = Freshness(refused="Operation not permitted")
HELD = msgspec.structs.replace(STATUS.reconcile, held="no Node of that name")


@pytest.mark.parametrize(
    ("found", "line"),
    [
        pytest.param(readings(freshness=STALE), "Pod: watch interrupted, last update 12 min ago", id="a stale source"),
        pytest.param(readings(freshness=UNREAD), "the agent hasn't read the whole cluster yet", id="an unread source"),
        pytest.param(readings(freshness=REFUSED), "these rules: Operation not permitted", id="a kernel that refuses"),
        pytest.param(readings(problems=["interfaces: gone"]), "interfaces: gone", id="a part with a problem"),
        pytest.param(
            readings(agent=msgspec.structs.replace(STATUS, reconcile=HELD)),
            "the kernel doesn't hold these rules: no Node of that name",
            id="rules that are held",
        ),
        pytest.param(
            readings(agent=in_sync(bridges=[{"bridge": "cni0", "unjudged": ["IPv4"]}])),
            "traffic on bridge cni0 is not filtered",
            id="a bridge that isn't filtered",
        ),
    ],
)
def test_degraded_is_exit_code_1_and_says_why(call: Call, found: StatusReadings, line: str) -> None:
    answer = said(call, found)
    assert answer.code == 1
    assert "health    FAIL, degraded" in answer.out
    assert line in answer.out.partition("health")[2]


def test_a_policy_that_fails_closed_is_named(call: Call) -> None:
    desired = TwoNodeCluster(*PODS, CLOSED).views["a"]
    answer = said(call, readings(), desired=desired)
    assert answer.code == 1
    assert "policies  1, 1 FAIL CLOSED: shop/closed" in answer.out
    assert "1 policy fails closed: `nfagent dump policies` says why" in answer.out
    value = json.loads(said(call, readings(), "-o", "json", desired=desired).out)
    assert (value["health"], value["failing_closed"], value["failing_closed_in_all"]) == (
        "degraded",
        ["shop/closed"],
        1,
    )


UNREADABLE = ValidationIssue(place="bad.yaml:2", reason="is not valid YAML")


def test_a_file_that_cannot_be_read_is_degraded_for_what_it_would_deny_is_not_known(call: Call) -> None:
    answer = said(call, readings(issues=[UNREADABLE]))
    assert answer.code == 1
    line = "1 problem of objects or files, which aren't used as written: `nfagent dump policies` lists all"
    assert answer.out.splitlines()[-2:] == ["health    FAIL, degraded", f"          {line}"]
    assert json.loads(said(call, readings(issues=[UNREADABLE]), "-o", "json").out)["problems"] == [line]


def test_a_policy_that_fails_closed_is_not_counted_twice(call: Call) -> None:
    issue = ValidationIssue(object="NetworkPolicy shop/closed", reason="is not a CIDR")
    desired = TwoNodeCluster(*PODS, CLOSED).views["a"]
    health = said(call, readings(issues=[issue, issue]), desired=desired).out.partition("health")[2].splitlines()
    assert health[1:] == ["          1 policy fails closed: `nfagent dump policies` says why"]


def test_where_denies_are_not_logged_it_says_that_the_names_are_of_counters(call: Call) -> None:
    denied = DeniedStatus(seconds=42.0, packets=12, by="counters", top=TOP[1:2])
    out = said(call, readings(denied=denied)).out
    assert "denied    12 packets in the last 42 s; by counters: denied connections aren't all logged" in out


def test_one_minute_is_the_last_minute(call: Call) -> None:
    denied = DeniedStatus(seconds=61.0, packets=3, by="log", top=[])
    assert "denied    3 packets in the last minute\n" in said(call, readings(denied=denied)).out


def test_a_start_has_nothing_counted_yet(call: Call) -> None:
    denied = DeniedStatus(seconds=0.0, packets=0, by="log", top=[])
    assert "denied    not counted yet" in said(call, readings(denied=denied)).out


def test_what_the_log_lacks_is_counted_by_its_cause(call: Call) -> None:
    log = VerdictLogStatus(
        path="log",
        lost=3,
        lost_lines=2,
        dropped_records={"rate limit": 4},
        dropped_packets={"rate limit": 40, "too many denied connections at once": 5},
    )
    loss = log_loss(log)
    assert (loss.unread, loss.unwritten, loss.dropped) == (3, 2, 9)
    out = said(call, readings(agent=in_sync(verdict_log=log))).out
    assert "log loss  warn, 3 packets not read in time, 2 records not written, 9 records beyond the rate limit" in out


def test_before_everything_was_read_no_number_is_shown_as_the_whole(call: Call) -> None:
    source = SourceStatus(kind="apiserver", name="", synced=False)
    lines = said(call, readings(freshness=UNREAD, source=source), desired=DesiredState("a")).out.splitlines()
    assert "source    warn, API server: not read whole yet" in lines
    assert "Pods      0 here, 0 in the cluster, as far as it was read" in lines
    assert "policies  none, as far as it was read" in lines


@pytest.mark.parametrize("columns", [40, 60])
def test_in_a_narrow_terminal_no_line_is_wider(call: Call, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert max(map(len, said(call, readings(freshness=STALE)).out.splitlines())) <= columns


def test_without_an_agent_it_says_what_to_look_at(call: Call) -> None:
    answer = call("status")
    assert (answer.code, answer.out) == (2, "")
    assert "no agent listens at" in answer.err
    assert "see: systemctl status nfagent" in answer.err


def test_an_agent_of_another_version_is_named_as_such(call: Call) -> None:
    with running(introspection(DesiredState("a"))):
        answer = call("status")
    assert (answer.code, answer.out) == (2, "")
    assert "the running agent is older than this command; systemctl restart nfagent" in answer.err

    async def other() -> dict[str, int]:
        return {"version": 7}

    with running(introspection(DesiredState("a")), routes=[view_route("/v1/status", other, TimeSlices())]):
        answer = call("status")
    assert answer.code == 2
    assert "the running agent's status has another format than this command reads" in answer.err


def test_names_of_the_cluster_cannot_control_the_terminal(call: Call) -> None:
    top = [DeniedCount(packets=1, source="\x1b[31m", destination="x\n", policies=["\u202e"])]
    out = said(call, readings(denied=DeniedStatus(seconds=9.0, packets=1, by="log", top=top))).out
    assert r"\x1b[31m -> x\n by \u202e" in out


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (61, "1 min"), (3_700, "1 h 1 min"), (90_061, "1 d 1 h")])
def test_spans_are_said_in_words(seconds: float, words: str) -> None:
    assert span(seconds) == words
