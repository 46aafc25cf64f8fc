"""What isn't known is never "none" or "allowed": every view says it, exits with 2, and says what to do next."""

from __future__ import annotations

import json

import pytest

from nfagent.desired.state import DesiredState
from nfagent.introspection.freshness import WHOLE, Freshness, freshness_of
from nfagent.nftables.objects import ABSENT
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, namespace, pod, policy, tier_policy
from tests.unit.cli.agents import FakeListings, introspection, running
from tests.unit.cli.called import Call, Said


def on_the_host(path: str) -> Document:
    found = pod(path, "a", 99)
    return {**found, "spec": {**found["spec"], "hostNetwork": True}}


DOCUMENTS = (
    namespace("quiet"),
    namespace("open"),
    pod("shop/web", "a", 10, app="web"),
    pod("shop/db", "a", 20, app="db"),
    pod("open/cat", "a", 40),
    pod("far/cat", "b", 50),
    pod("far/dog", "b", 60, app="dog"),
    on_the_host("open/host"),
    policy("shop/db", labelled(app="db"), types=["Ingress"]),
    policy("far/dog", labelled(app="dog"), types=["Ingress"]),
)
NOTHING = DesiredState("a")
UNREAD = Freshness(unread=("Namespace", "Pod", "NetworkPolicy", "Node"), trouble="https://192.0.2.1: refused")


def said(
    call: Call, *arguments: str, desired: DesiredState | None = None, freshness: Freshness = WHOLE, services: str = ""
) -> Said:
    with running(
        introspection(desired or TwoNodeCluster(*DOCUMENTS).views["a"], freshness=freshness, services=services)
    ):
        return call(*arguments)


COMMANDS = {
    "state": ("dump", "state"),
    "policies": ("dump", "policies"),
    "policies of a namespace": ("dump", "policies", "-n", "shop"),
    "policies of a Pod": ("dump", "policies", "--pod", "shop/db"),
    "ruleset": ("dump", "ruleset"),
    "a Pod's part of the kernel": ("dump", "kernel", "--pod", "shop/db"),
    "diff": ("dump", "diff"),
    "counters": ("dump", "counters"),
    "explain": ("explain", "shop/web", "shop/db:80/tcp"),
}


@pytest.mark.parametrize("form", ["text", "json", "yaml"])
@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_of_an_agent_that_has_read_nothing_yet(call: Call, arguments: tuple[str, ...], form: str) -> None:
    answer = said(call, *arguments, "-o", form, desired=NOTHING, freshness=UNREAD)
    assert answer.code == 2
    assert "hasn't read the whole cluster yet (not yet Namespace, Pod, NetworkPolicy and 1 more kind" in answer.err
    assert "ask again when the line API server of `nfagent dump state` says ok" in answer.err
    for claim in ("every connection is allowed", "no counters", "no Pods\n", "there is no ", "equal", "ALLOWED"):
        assert claim not in answer.out + answer.err


@pytest.mark.parametrize("view", ["state", "policies"])
def test_json_of_an_incomplete_view_is_marked(call: Call, view: str) -> None:
    answer = json.loads(said(call, "dump", view, "-o", "json", desired=NOTHING, freshness=UNREAD).out)
    assert (answer["complete"], len(answer["unknown"])) == (False, 1)
    assert "hasn't read the whole cluster" in answer["unknown"][0]


def test_the_kernel_view_needs_no_cluster_state(call: Call) -> None:
    answer = said(call, "dump", "kernel", desired=NOTHING, freshness=UNREAD)
    assert (answer.code, answer.out.splitlines()[0]) == (0, "table inet nfagent {")


VIEWS = ("state", "policies", "ruleset", "kernel", "counters")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (("-n", "nope"), "there is no namespace nope here: no Namespace of that name, and neither a Pod nor a policy"),
        (("-n", "shpo"), "did you mean shop?"),
        (("--pod", "nope/x"), "there is no Pod nope/x, nor any other in namespace nope"),
        (("--pod", "shop/dbx"), "there is no Pod shop/dbx; did you mean shop/db?"),
        (("-n", "far", "--pod", "shop/db"), "Pod shop/db isn't in namespace far; give either -n or --pod"),
    ],
    ids=["a namespace", "a mistyped namespace", "a Pod", "a mistyped Pod", "a Pod of another namespace"],
)
def test_a_filter_without_matches_is_unknown(call: Call, view: str, scope: tuple[str, ...], words: str) -> None:
    answer = said(call, "dump", view, *scope)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err


def test_the_diff_can_not_be_filtered(call: Call) -> None:
    answer = said(call, "dump", "diff", "-n", "shop")
    assert (answer.code, answer.out) == (2, "")
    assert "diff compares the whole table, not a part of it; omit -n and --pod" in answer.err


@pytest.mark.parametrize("view", ["ruleset", "kernel", "counters"])
@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (("--pod", "far/cat"), "Pod far/cat is on node b: rules and counters of a Pod are known on its own node only"),
        (("-n", "far"), "no Pod of namespace far is on this node, a: "),
    ],
    ids=["a Pod", "a namespace"],
)
def test_rulesets_of_other_nodes_are_unknown(call: Call, view: str, scope: tuple[str, ...], words: str) -> None:
    answer = said(call, "dump", view, *scope)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err


def test_what_is_enforced_for_another_nodes_pod_is_not_known_here(call: Call) -> None:
    answer = said(call, "dump", "policies", "--pod", "far/cat")
    assert (answer.code, answer.out) == (2, "no policy that is known here selects Pod far/cat\n")
    assert "Pod far/cat is on node b: what is enforced for it isn't known here; ask there" in answer.err


def test_policies_of_another_nodes_pod_are_known(call: Call) -> None:
    answer = said(call, "dump", "policies", "--pod", "far/dog")
    assert (answer.code, "far/dog" in answer.out) == (0, True)
    assert "Pod far/dog is on node b" in answer.err
    state = json.loads(said(call, "dump", "state", "-A", "-o", "json").out)
    assert {item["name"]: item["isolated"]["ingress"] for item in state["pods"] if item["namespace"] == "far"} == {
        "cat": [],
        "dog": ["far/dog"],
    }


KNOWN = {
    "policies of a namespace that has none": (
        ("policies", "-n", "open"),
        "no NetworkPolicy in namespace open: none isolates its Pods; 1 of the tiers may: `nfagent dump policies`",
    ),
    "policies of a Pod that none judges": (
        ("policies", "--pod", "shop/web"),
        "no policy selects Pod shop/web: its policies allow every connection",
    ),
    "policies of a Pod with its node's network": (
        ("policies", "--pod", "open/host"),
        "Pod open/host uses its node's network and addresses: no policy applies to it",
    ),
    "Pods of a namespace that has none": (("state", "-n", "quiet"), "no Pods of namespace quiet"),
    "counters of a namespace without Pods": (
        ("counters", "-n", "quiet"),
        "no counters: no policy isolates a Pod of namespace quiet on this node",
    ),
    "counters of a Pod with its node's network": (
        ("counters", "--pod", "open/host"),
        "no counters: Pod open/host uses its node's network and addresses: no policy applies to it",
    ),
    "counters of a Pod that none judges": (
        ("counters", "--pod", "open/cat"),
        "no counters: no policy isolates Pod open/cat",
    ),
}


@pytest.mark.parametrize(("arguments", "words"), KNOWN.values(), ids=KNOWN)
def test_a_known_absence_is_stated_precisely(call: Call, arguments: tuple[str, ...], words: str) -> None:
    guard = tier_policy("AdminNetworkPolicy", "guard", {"namespaces": labelled(team="none")}, priority=1)
    answer = said(call, "dump", *arguments, desired=TwoNodeCluster(*DOCUMENTS, guard).views["a"])
    assert (answer.code, answer.err) == (0, "")
    assert words in answer.out.splitlines()


def test_a_pod_without_rules_is_reported(call: Call) -> None:
    answer = said(call, "dump", "ruleset", "--pod", "open/cat")
    assert answer.code == 0
    assert "note: no rules for Pod open/cat" in answer.err


def test_counters_that_the_kernel_lacks_are_not_none(call: Call) -> None:
    view = TwoNodeCluster(*DOCUMENTS).views["a"]
    with running(introspection(view, FakeListings(ABSENT))):
        answer = call("dump", "counters")
    assert (answer.code, answer.out) == (2, "no counters in the kernel\n")
    assert "the kernel doesn't have the counter deny/ingress/shop/db" in answer.err
    assert "`nfagent dump diff` shows what is missing" in answer.err


HOUR = 3600.0
RESOURCES = {
    "Pod": {"synced": True, "trouble": "https://192.0.2.1: connection refused", "heard_seconds_ago": HOUR},
    "Node": {"synced": True, "trouble": "", "heard_seconds_ago": 3.0},
}
STALE = freshness_of(RESOURCES, int(7 * HOUR * 1e9), "", whole=True)
SINCE = "Pod: watch interrupted, last update 60 min ago (1970-01-01T06:00:00Z); keeping the last known state: https://"


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_stale_views_show_since_when(call: Call, arguments: tuple[str, ...]) -> None:
    answer = said(call, *arguments, freshness=STALE)
    assert f"warning: {SINCE}" in answer.err
    assert answer.code == (1 if arguments[0] == "explain" else 0)


def test_a_missing_object_may_be_newer_than_a_stale_view(call: Call) -> None:
    answer = said(call, "explain", "shop/web", "shop/new:80/tcp", freshness=STALE)
    assert answer.code == 2
    assert "there is no Pod shop/new" in answer.err
    assert SINCE in answer.err


REFUSED = Freshness(refused="Device or resource busy")


def test_enforcement_is_unknown_while_the_kernel_refuses(call: Call) -> None:
    answer = said(call, "explain", "shop/web", "open/cat:80/tcp", freshness=REFUSED)
    assert answer.code == 2
    assert answer.out.splitlines()[0].endswith(": not known (allowed by what is known)")
    assert "the kernel doesn't hold these rules: Device or resource busy; what it holds instead: `nf" in answer.err
    found = json.loads(said(call, "explain", "shop/web", "open/cat:80/tcp", "-o", "json", freshness=REFUSED).out)
    assert (found["complete"], found["allowed"]) == (False, None)


@pytest.mark.parametrize("view", ["state", "policies", "counters", "ruleset"])
def test_uncommitted_rules_are_reported_with_the_desired_ruleset(call: Call, view: str) -> None:
    answer = said(call, "dump", view, freshness=REFUSED)
    assert answer.code == 0
    assert "warning: the kernel doesn't hold these rules: Device or resource busy" in answer.err


HELD = {
    "policies": (("policies",), "no policies, but the kernel holds other rules than these"),
    "policies of a Pod": (
        ("policies", "--pod", "shop/web"),
        "no policies for Pod shop/web, but the kernel holds other rules than these",
    ),
    "policies of a namespace": (
        ("policies", "-n", "shop"),
        "no policies for Pods of namespace shop, but the kernel holds other rules than these",
    ),
    "counters": (("counters",), "no counters of the current policies; the kernel has rules of other policies"),
    "counters of a Pod": (
        ("counters", "--pod", "shop/web"),
        "no counters of the current policies; the kernel has rules of other policies",
    ),
}


@pytest.mark.parametrize(("arguments", "words"), HELD.values(), ids=HELD)
def test_the_absence_of_policies_is_unknown_while_the_kernel_holds_other_rules(
    call: Call, arguments: tuple[str, ...], words: str
) -> None:
    desired = TwoNodeCluster(namespace("shop"), pod("shop/web", "a", 10)).views["a"]
    answer = said(call, "dump", *arguments, desired=desired, freshness=REFUSED)
    assert (answer.code, answer.out.splitlines()[0]) == (2, words)
    assert answer.err.count("the kernel doesn't hold these rules: Device or resource busy") == 1
    assert answer.err.startswith("not known: ")


def test_unreadable_services_leave_the_verdict_unknown(call: Call) -> None:
    answer = said(call, "explain", "shop/web", "192.0.2.9:80/tcp", services="403 Forbidden")
    assert answer.code == 2
    assert "Services can't be read (403 Forbidden): which addresses belong to Services" in answer.err
    assert "ALLOWED" not in answer.out


def test_a_partially_read_cluster_is_shown_as_such(call: Call) -> None:
    part = TwoNodeCluster(*DOCUMENTS).views["a"]
    answer = said(call, "dump", "state", desired=part, freshness=UNREAD)
    assert [line.split()[0] for line in answer.out.splitlines() if line.endswith("as far as it was read")] == [
        "cluster",
        "masquerade",
        "logging",
    ]


def test_the_state_lists_this_nodes_pods_and_with_A_those_of_all_nodes(call: Call) -> None:  # noqa: N802 - the option
    here = said(call, "dump", "state")
    assert "shop/web" in here.out
    assert "far/cat" not in here.out
    assert "2 Pods of other nodes not listed; -A lists them" in here.err
    everywhere = said(call, "dump", "state", "-A")
    assert "far/cat" in everywhere.out
    assert everywhere.err == ""


def test_a_namespace_without_a_pod_here_is_no_empty_one(call: Call) -> None:
    answer = said(call, "dump", "state", "-n", "far")
    assert "no Pods of namespace far on this node" in answer.out
    assert "2 Pods of other nodes not listed" in answer.err


def test_a_pod_that_is_named_is_shown_on_any_node(call: Call) -> None:
    assert "far/cat" in said(call, "dump", "state", "--pod", "far/cat").out


def test_while_the_node_is_unknown_all_pods_are_listed(call: Call) -> None:
    desired = DesiredState("nowhere")
    for item in TwoNodeCluster(*DOCUMENTS).views["a"].cluster.pods.values():
        desired.put(item)
    assert "far/cat" in said(call, "dump", "state", desired=desired).out
