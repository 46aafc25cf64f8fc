"""What `dump` writes of masquerade's objects, for people."""

from __future__ import annotations

import msgspec
import pytest

from nfagent.cli import dump_agent_text, dump_text
from nfagent.desired.state import DesiredState
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.introspection.agent_status import AgentStateView, AgentStatus
from nfagent.introspection.view_filter import ViewFilter
from nfagent.introspection.views import PoliciesView, policies_view, state_view
from nfagent.metrics.families import PARTS
from nfagent.model.egress_nat import EgressNATPolicy, EgressSource
from tests.support.two_node_cluster import Document, TwoNodeCluster

GATEWAYS: Document = {
    "kind": "NetworkGatewayGroup",
    "metadata": {"name": "gw", "namespace": "ops"},
    "spec": {"floatingIPs": ["192.0.2.10", "2001:db8::10"]},
}
SERVICES: Document = {"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12"]}}
BUSIEST: Document = {"protocol": 132, "translated": "192.0.2.1", "destination": "198.51.100.1", "port": 443}


def egress(name: str, *cidrs: str, **spec: object) -> Document:
    listed = [{"cidr": cidr} for cidr in cidrs]
    return {
        "kind": "EgressNATPolicy",
        "metadata": {"name": name},
        "spec": {"action": "NoSNAT", "destinations": listed, **spec},
    }


def state_lines(desired: DesiredState) -> list[str]:
    """Return the text of `dump state`, whose view takes the same path as the answer of an agent."""
    return dump_text.state(msgspec.convert(state_view(desired, ViewFilter(), ()), AgentStateView))


def policies_lines(desired: DesiredState) -> list[str]:
    return dump_text.policies(msgspec.convert(policies_view(desired, ViewFilter(), ()), PoliciesView))


def facts_of(agent: dict[str, object]) -> list[tuple[str, str]]:
    return dump_agent_text.agent_facts(msgspec.convert(agent, AgentStatus))


def test_the_state_names_every_object_that_the_masquerade_list_comes_from() -> None:
    scene = TwoNodeCluster(SERVICES, egress("default"), egress("more", "9.0.0.0/8"), egress("snat", action="SNAT"))
    for view in scene.views.values():
        view.put(EgressNATPolicy(name="some", action="SNAT", sources=(EgressSource(),)))
    lines = state_lines(scene.views["a"])
    assert (
        "masquerade  on, not towards 9.0.0.0/8, 169.254.0.0/16, fe80::/10 "
        "(EgressNATPolicy default, EgressNATPolicy more, EgressNATPolicy snat)" in lines
    )
    assert "services    10.96.0.0/12 (kubernetes)" in lines


def test_without_objects_it_is_the_default_list() -> None:
    lines = state_lines(TwoNodeCluster().views["a"])
    assert any(line.startswith("masquerade  on, not towards") and line.endswith("(default list)") for line in lines)
    assert not any(line.startswith("services") for line in lines)


@pytest.mark.parametrize(
    ("settings", "begin"),
    [
        pytest.param(MasqueradeSettings(ipv6=False), "masquerade  on for IPv4 alone, not towards ", id="one family"),
        pytest.param(MasqueradeSettings(enabled=False), "masquerade  off", id="none"),
    ],
)
def test_the_state_says_which_families_are_translated(settings: MasqueradeSettings, begin: str) -> None:
    lines = state_lines(TwoNodeCluster(masquerade=settings).views["a"])
    assert [line.startswith(begin) for line in lines if line.startswith("masquerade")] == [True]


def test_policies_of_egress_and_gateways_are_tables_and_say_what_is_not_enforced() -> None:
    reference = {"name": "gw", "namespace": "ops"}
    missing = {"name": "none", "namespace": "ops"}
    group = {**GATEWAYS, "spec": {"floatingIPs": ["192.0.2.10", "192.168.0.1"]}}
    scene = TwoNodeCluster(
        egress("default", "10.0.0.0/8"),
        egress("lost", "198.51.100.0/24", action="SNAT", gatewayRef=missing),
        egress("pay", "203.0.113.0/24", action="SNAT", gatewayRef=reference),
        group,
    )
    scene.views["a"].drain_changes()
    holder = scene.views["a"].gateways.addresses["192.0.2.10"].holder
    assert policies_lines(scene.views["a"]) == [
        "no policies: every connection is allowed",
        "",
        "EGRESS POLICY  ACTION            FOR       DESTINATIONS",
        "default        NoSNAT            all pods  10.0.0.0/8",
        "lost           SNAT by ops/none  all pods  198.51.100.0/24",
        "pay            SNAT by ops/gw    all pods  203.0.113.0/24",
        "  warn, lost: NetworkGatewayGroup ops/none doesn't exist: packets that would have it are dropped",
        "",
        "GATEWAY GROUP  ADDRESS      HELD BY  OF NODES",
        f"ops/gw         192.0.2.10   {holder}        all nodes",
        "ops/gw         192.168.0.1  -        all nodes",
        "  warn, ops/gw: 192.168.0.1 is not used: Node a has it; write an address that nothing else has",
    ]


def test_policies_of_egress_that_disagree_are_named_to_each_other() -> None:
    scene = TwoNodeCluster(egress("keep", "10.0.0.0/8"), egress("hide", "10.0.0.0/8", action="SNAT"))
    scene.views["a"].drain_changes()
    warnings = [line for line in policies_lines(scene.views["a"]) if "warn" in line]
    assert [line.split(":")[0] for line in warnings] == ["  warn, hide", "  warn, keep"]
    assert "EgressNATPolicy keep has the same destination with action NoSNAT" in warnings[0]


def kind(phase: str = "watching", trouble: str = "") -> dict[str, object]:
    return {"phase": phase, "synced": phase != "initial", "version": "5", "objects": 1, "trouble": trouble}


LOG = {"problem": "", "path": "x", "received": 0, "lost": 0, "unattributed": {}, "undecodable": 0, "lost_lines": 0}
FOLLOWING: dict[str, tuple[dict[str, object], str]] = {
    "all is well": (
        {"Pod": kind(), "Node": kind(), "NetworkLogging": kind("missing")},
        "ok, https://api:6443, by kubeconfig x; watching 2 kinds; 1 kind not served",
    ),
    "a kind isn't read yet": (
        {"Pod": kind(), "NetworkPolicy": kind("initial")},
        "warn, https://api:6443, by kubeconfig x; reading NetworkPolicy",
    ),
    "what is in the way of several kinds is said once": (
        {"Pod": kind(trouble="refused"), "Node": kind(trouble="refused"), "ServiceCIDR": kind()},
        "warn, watch of Pod, Node interrupted: refused",
    ),
}


@pytest.mark.parametrize(("resources", "expected"), FOLLOWING.values(), ids=FOLLOWING)
def test_the_state_says_how_it_stands_with_the_api_server(resources: dict[str, object], expected: str) -> None:
    agent: dict[str, object] = {
        "apiserver": {"server": "https://api:6443, by kubeconfig x", "synced": True, "resources": resources},
        "reconcile": {"in_sync": True, "failures": 0, "transactions": 1, "drifts": 0, "last_error": ""},
        "drift": {"listening": True, "others": 0},
        "bridges": [],
        "revoke": {"last_error": "", "suspects": 0, "judged": 0, "revoked": 0},
        "verdict_log": LOG,
    }
    assert ("API server", expected) in facts_of(agent)


def test_the_state_says_how_many_packets_have_no_record_and_why() -> None:
    limited = {
        "waiting_keys": 2,
        "repeated": {"allow": 9},
        "dropped_packets": {"rate limit": 30, "too many denied connections at once": 4},
    }
    agent: dict[str, object] = {
        "reconcile": {"in_sync": True, "failures": 0, "transactions": 1, "drifts": 0, "last_error": ""},
        "drift": {"listening": True, "others": 0},
        "bridges": [],
        "revoke": {"last_error": "", "suspects": 0, "judged": 0, "revoked": 0},
        "verdict_log": {**LOG, **limited},
    }
    text = dict(facts_of(agent))["verdict log"]
    assert "34 packets without a record (30 rate limit, 4 too many denied connections at once)" in text
    assert "2 denied connections being aggregated" in text
    assert "9 packets of connections with a record already" in text


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ({}, "ok; x; 7 packets read, none lost"),
        ({"lost": 3, "overruns": 1}, "warn; x; 7 packets read, 3 lost (the queue was full 1 time)"),
        ({"overruns": 2}, "warn; x; 7 packets read, none lost (the queue was full 2 times)"),
    ],
    ids=["none", "packets", "an overrun whose packets no number tells yet"],
)
def test_the_state_warns_of_packets_that_were_lost_before_they_were_read(lost: dict[str, int], said: str) -> None:
    agent: dict[str, object] = {
        "reconcile": {"in_sync": True, "failures": 0, "transactions": 1, "drifts": 0, "last_error": ""},
        "drift": {"listening": True, "others": 0},
        "bridges": [],
        "revoke": {"last_error": "", "suspects": 0, "judged": 0, "revoked": 0},
        "verdict_log": {**LOG, "received": 7, **lost},
    }
    assert dict(facts_of(agent))["verdict log"].startswith(said)


def test_the_state_says_how_many_lines_of_the_verdict_log_are_lost_and_why() -> None:
    lost = {"lost_lines": 7, "lost_by": {"No space left on device": 3, "queue full": 4}}
    agent: dict[str, object] = {
        "reconcile": {"in_sync": True, "failures": 0, "transactions": 1, "drifts": 0, "last_error": ""},
        "drift": {"listening": True, "others": 0},
        "bridges": [],
        "revoke": {"last_error": "", "suspects": 0, "judged": 0, "revoked": 0},
        "verdict_log": {**LOG, **lost},
    }
    facts = dict(facts_of(agent))
    assert "7 lines could not be written (3 No space left on device, 4 queue full)" in facts["verdict log"]
    assert "agent's log" not in facts
    facts = dict(facts_of({**agent, "own_log": {"lost_lines": 2}}))
    assert facts["agent's log"] == "warn, 2 lines lost: stderr was not read, or its disk is full"


def test_the_state_says_why_packet_counters_cannot_be_read() -> None:
    agent: dict[str, object] = {
        "reconcile": {"in_sync": True, "failures": 0, "transactions": 1, "drifts": 0, "last_error": ""},
        "drift": {"listening": True, "others": 0},
        "revoke": {"last_error": "", "suspects": 0, "judged": 0, "revoked": 0},
        "verdict_log": LOG,
    }
    assert "packet counters" not in dict(facts_of(agent))
    facts = dict(facts_of({**agent, "problems": {"packet_counters": "no answer within 5 s"}}))
    assert facts["packet counters"] == "warn, no answer within 5 s"


def test_the_state_has_a_line_for_each_part_with_a_problem_that_has_no_other_line() -> None:
    agent: dict[str, object] = {
        "reconcile": {"in_sync": True, "failures": 0, "transactions": 1, "drifts": 0, "last_error": ""},
        "drift": {"listening": True, "others": 0},
        "revoke": {"last_error": "", "suspects": 0, "judged": 0, "revoked": 0},
        "verdict_log": LOG,
    }
    elsewhere = {
        *("ruleset", "notifications", "connections", "interfaces", "bridge_frames", "other_backend", "gateways"),
        *("foreign_nat", "nat_ports", "verdict_log", "last_good_objects", "saved_ruleset"),
    }
    before = facts_of(agent)
    for part in PARTS:
        after = [line for line in facts_of({**agent, "problems": {part: "no room"}}) if line not in before]
        assert [text for _, text in after] == ([] if part in elsewhere else ["warn, no room"]), part


@pytest.mark.parametrize(
    ("waiting", "said"),
    [
        pytest.param(14_592, "warn, 1 address stays under re-check: full; revoked and not ended yet: 14592", id="many"),
        pytest.param(0, "warn, 1 address stays under re-check: full", id="none"),
    ],
)
def test_the_state_says_how_many_revoked_connections_wait_for_room(waiting: int, said: str) -> None:
    revoke = {"last_error": "full", "suspects": 1, "judged": 9, "revoked": 9, "waiting": waiting}
    agent: dict[str, object] = {
        "reconcile": {"in_sync": True, "failures": 0, "transactions": 1, "drifts": 0, "last_error": ""},
        "drift": {"listening": True, "others": 0},
        "bridges": [],
        "revoke": revoke,
        "verdict_log": LOG,
    }
    assert said in dict(facts_of(agent)).values()


def test_the_state_says_which_program_keeps_changing_the_table_and_that_conntrack_is_full() -> None:
    contest = {
        "program": "nft (process 4711)",
        "unit": "a.service",
        "repairs": 40,
        "seconds": 20.0,
        "exposed_seconds": 5.0,
        "spacing": 0.1,
    }
    agent: dict[str, object] = {
        "reconcile": {"in_sync": False, "failures": 0, "transactions": 41, "drifts": 40, "last_error": ""},
        "drift": {"listening": True, "others": 0, "contest": contest, "next_repair_in": 0.05},
        "bridges": [],
        "revoke": {"last_error": "", "suspects": 0, "judged": 0, "revoked": 0},
        "conntrack": {"entries": 100, "limit": 100},
        "verdict_log": LOG,
    }
    found = dict(facts_of(agent))
    assert found["kernel"].startswith(
        "FAIL, nft (process 4711) of a.service keeps changing nfagent's rules: 40 repairs in 20 s, "
        "open for 25% of the time; the next one may follow in 0.05 s; warn, not in sync yet"
    )
    assert found["conntrack"] == (
        "FAIL, 100 of at most 100 connections: the table is full, and packets of new connections are dropped; "
        "sysctl -w net.netfilter.nf_conntrack_max=N"
    )


def test_the_state_says_where_pods_sources_are_not_held_against_their_interface() -> None:
    links = {"problem": "not known", "shared": [{"link": "br0", "why": "its port eth0 may lead to other hosts"}]}
    agent: dict[str, object] = {
        "reconcile": {"in_sync": True, "failures": 0, "transactions": 1, "drifts": 0, "last_error": ""},
        "drift": {"listening": True, "others": 0},
        "bridges": [],
        "links": links,
        "revoke": {"last_error": "", "suspects": 0, "judged": 0, "revoked": 0},
        "verdict_log": LOG,
    }
    found = [words for name, words in facts_of(agent) if name == "interface"]
    able = "can send with any source, and reach the node from link-local ones whatever their policies"
    assert found == ["warn, not known", f"warn, Pods behind br0 {able}: its port eth0 may lead to other hosts"]


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (
            "1 of 3 entries can't be read, the others hold",
            "warn, at the start 1 of 3 entries can't be read, the others",
        ),
        ("", "ok; 2 objects kept in /state"),
    ],
)
def test_what_was_lost_of_the_last_good_objects_is_said_after_they_are_written_anew(lost: str, said: str) -> None:
    kept = {"path": "/state", "objects": 2, "pending": 0, "damaged": 1, "problem": "", "lost": lost}
    assert dump_agent_text._last_good_text(kept).startswith(said)  # noqa: SLF001 - the rest of the view is the agent's


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ({"available": 64512}, "ok, none of 64,512 in use"),
        (
            {"available": 10, "insert_failed": 4, "busiest": BUSIEST | {"used": 10}},
            (
                "warn, 10 of 10 in use (100 %) from 192.0.2.1 to 198.51.100.1 SCTP port 443, the busiest destination; "
                "4 connections not entered into conntrack since its start"
            ),
        ),
        (
            {"available": 10, "busiest": BUSIEST | {"used": 1, "protocol": 33}},
            "ok, 1 of 10 in use (10 %) from 192.0.2.1 to 198.51.100.1 protocol 33 port 443, the busiest destination",
        ),
        ({"available": 10, "problem": "no reply"}, "warn, unknown: no reply"),
    ],
    ids=["no connection", "no port is free", "few connections", "conntrack can't be read"],
)
def test_the_state_says_how_full_the_ports_are(ports: dict[str, object], said: str) -> None:
    agent: dict[str, object] = {
        "reconcile": {"in_sync": True},
        "drift": {"listening": True, "others": 0},
        "revoke": {},
        "nat_ports": ports,
        "verdict_log": {"path": "log"},
    }
    assert dict(facts_of(agent))["NAT ports"] == said


def test_rules_of_other_programs_that_translate_otherwise_are_shown_with_what_to_do() -> None:
    nat = {"conflicts": [{"message": "table ip theirs, chain post: rule `masquerade` translates", "fix": "delete it"}]}
    lines = dump_agent_text._nat_lines({**nat, "problems": ["iptables-legacy, table nat can't be read"]})  # noqa: SLF001 - as above
    assert [(name, text.partition(", ")[2]) for name, text in lines] == [
        ("others' NAT", "table ip theirs, chain post: rule `masquerade` translates; delete it"),
        ("others' NAT", "rules of other programs: iptables-legacy, table nat can't be read"),
    ]


def test_the_state_says_which_gateways_the_node_holds_and_uses() -> None:
    dropped = "packets for gateway 192.0.2.11 are dropped: node n2 has no address of IPv4"
    route = {"number": 1, "family": 4, "address": "192.0.2.11", "holder": "n2", "via": []}
    agent: dict[str, object] = {
        "reconcile": {"in_sync": True, "failures": 0, "transactions": 1, "drifts": 0, "last_error": ""},
        "drift": {"listening": True, "others": 0},
        "gateways": {"held": ["192.0.2.10"], "routes": [route], "problems": [dropped]},
        "revoke": {"last_error": "", "suspects": 0, "judged": 0, "revoked": 0},
        "verdict_log": LOG,
    }
    assert [words for name, words in facts_of(agent) if name == "gateways"] == [
        f"warn, {dropped}",
        "ok, holds 192.0.2.10; 192.0.2.11 by node n2",
    ]
