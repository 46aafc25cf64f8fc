"""What `nfagent dump` shows: shapes, scopes, and the words for what differs."""

from __future__ import annotations

from typing import NoReturn

import msgspec
import pytest

from nfagent.desired.state import DesiredState
from nfagent.errors import UsageError, ValidationIssue
from nfagent.introspection.chunks import encoded
from nfagent.introspection.diff_report import diff_view
from nfagent.introspection.view_filter import ViewFilter, scoping
from nfagent.introspection.views import (
    View,
    annotation,
    counters_view,
    policies_view,
    ruleset_parts,
    ruleset_view,
    scoped,
    state_view,
)
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import Pod
from nfagent.nftables.matches import ServerPort, UnknownExpr
from nfagent.nftables.objects import ABSENT, Accept, Chain, Drop, Goto, Hook, NamedSet, Rule, Ruleset, VerdictMap
from nfagent.nftables.parse import CounterValue
from tests.support.two_node_cluster import TwoNodeCluster, labelled, namespace, pod, policy, tier_policy

ALL = ViewFilter()
PROBLEM = ValidationIssue(
    place="f.yaml:3", object="Pod shop/x", field="spec.nodeName", value="5", reason="is not a string"
)
DOCUMENTS = (
    namespace("shop"),
    pod("shop/web", "a", 10, app="web"),
    pod("shop/db", "a", 20, app="db"),
    pod("ops/mon", "a", 30, app="mon"),
    pod("shop/far", "b", 40, app="db"),
    policy(
        "shop/db",
        labelled(app="db"),
        types=["Ingress"],
        ingress=[{"from": [{"podSelector": labelled(app="web")}], "ports": [{"port": 5432}]}],
    ),
    policy("shop/closed", labelled(app="web")),
    policy("ops/broken", types=["Egress"], egress=[{"to": [{}]}]),
)
GUARD = tier_policy(
    "AdminNetworkPolicy",
    "guard",
    {"pods": {"namespaceSelector": {}, "podSelector": labelled(app="db")}},
    priority=7,
    ingress=[
        {
            "name": "no mon",
            "action": "Deny",
            "from": [{"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}}],
        },
        {"action": "Alow", "from": [{"namespaces": {}}]},  # codespell:ignore
    ],
)
FLOOR = tier_policy(
    "BaselineAdminNetworkPolicy", "default", {"namespaces": {}}, egress=[{"action": "Deny", "to": [{"nodes": {}}]}]
)


@pytest.fixture
def view() -> DesiredState:
    return TwoNodeCluster(*DOCUMENTS).views["a"]


def as_json(found: View) -> View:
    """Show a view as programs read it."""
    decoded: View = msgspec.json.decode(msgspec.json.encode(found))
    return decoded


def named(found: View, key: str) -> list[str]:
    return [f"{item['namespace']}/{item['name']}" for item in found[key]]


def test_the_state_says_who_is_where_and_isolated_by_what(view: DesiredState) -> None:
    found = as_json(state_view(view, ALL, (PROBLEM,)))
    assert (found["node"], found["known"]) == ("a", True)
    assert found["counts"] == {
        "namespaces": 1,
        "nodes": 2,
        "pods": 4,
        "local_pods": 3,
        "identities": 3,
        "policies": 3,
    }
    assert [node["name"] for node in found["nodes"]] == ["a", "b"]
    assert found["nodes"][0] == {
        "name": "a",
        "addresses": ["192.168.0.1", "fd00::1"],
        "pod_cidrs": ["10.64.0.0/24", "2001:db8:0:a::/64"],
    }
    assert named(found, "pods") == ["ops/mon", "shop/db", "shop/far", "shop/web"]
    assert found["pods"][1] == {
        "namespace": "shop",
        "name": "db",
        "node": "a",
        "local": True,
        "addresses": ["10.64.0.20", "2001:db8:0:a::20"],
        "labels": {"app": "db"},
        "phase": "Running",
        "host_network": False,
        "isolated": {"egress": [], "ingress": ["shop/db"]},
        "tiers": {"egress": [], "ingress": []},
    }
    assert found["masquerade"]["configured"] is False
    assert found["logging"] == {"allow": False, "deny": False}
    assert found["problems"] == [msgspec.to_builtins(PROBLEM)]


EGRESS = (
    {
        "kind": "EgressNATPolicy",
        "metadata": {"name": "default"},
        "spec": {"action": "NoSNAT", "destinations": [{"cidr": "10.0.0.0/8"}]},
    },
    {
        "kind": "EgressNATPolicy",
        "metadata": {"name": "payments"},
        "spec": {
            "action": "SNAT",
            "sources": [{"podSelector": labelled(app="web"), "namespaceSelector": {}}],
            "destinations": [],
            "gatewayRef": {"name": "gw", "namespace": "ops"},
        },
    },
    {
        "kind": "NetworkGatewayGroup",
        "metadata": {"name": "gw", "namespace": "ops"},
        "spec": {"floatingIPs": ["192.0.2.10"]},
    },
    {"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12"]}},
)


@pytest.fixture
def leaving() -> DesiredState:
    desired = TwoNodeCluster(*DOCUMENTS, *EGRESS).views["a"]
    desired.drain_changes()
    return desired


def test_the_state_says_where_the_masquerade_list_comes_from_and_the_services_ranges(leaving: DesiredState) -> None:
    assert as_json(state_view(leaving, ALL, ()))["masquerade"] == {
        "enabled": True,
        "families": [4, 6],
        "exempt": ["10.0.0.0/8", "169.254.0.0/16", "fe80::/10"],
        "configured": True,
        "base": "EgressNATPolicy default",
        "added": [],
        "service_ranges": [{"name": "kubernetes", "cidrs": ["10.96.0.0/12"]}],
    }


def test_policies_of_egress_say_whom_they_are_about_and_what_is_not_enforced(leaving: DesiredState) -> None:
    found = as_json(policies_view(leaving, ALL, ()))
    default, payments = found["egress"]
    assert default == {
        "name": "default",
        "action": "NoSNAT",
        "sources": ["all pods"],
        "destinations": ["10.0.0.0/8"],
        "gateway": "",
        "unenforced": "",
    }
    assert (payments["sources"], payments["gateway"]) == (["pods app=web in all namespaces"], "ops/gw")
    assert payments["unenforced"] == ""
    (group,) = found["gateways"]
    assert (group["addresses"], group["nodes"], group["unheld"]) == (["192.0.2.10"], "all nodes", "")
    assert group["holders"] == {"192.0.2.10": leaving.gateways.addresses["192.0.2.10"].holder}


def test_the_state_names_floating_addresses_that_are_not_used() -> None:
    taken = {**EGRESS[2], "spec": {"floatingIPs": ["192.168.0.1"]}}
    desired = TwoNodeCluster(*DOCUMENTS, EGRESS[1], taken).views["a"]
    desired.drain_changes()
    (problem,) = as_json(state_view(desired, ALL, ()))["problems"]
    assert (problem["object"], problem["value"]) == ("NetworkGatewayGroup ops/gw", "192.168.0.1")


@pytest.mark.parametrize(
    ("scope", "policies", "gateways"),
    [
        pytest.param(ViewFilter(pod="shop/web"), ["default", "payments"], 0, id="those whose sources take a Pod"),
        pytest.param(ViewFilter(pod="shop/db"), ["default"], 0, id="and no others"),
        pytest.param(ViewFilter(namespace="ops"), [], 1, id="a namespace has gateways alone"),
        pytest.param(ViewFilter(namespace="shop"), [], 0, id="or nothing"),
    ],
)
def test_egress_of_a_scope(leaving: DesiredState, scope: ViewFilter, policies: list[str], gateways: int) -> None:
    found = policies_view(leaving, scope, ())
    assert ([item["name"] for item in found["egress"]], len(found["gateways"])) == (policies, gateways)


def test_a_node_that_no_manifest_names_is_said_to_be_unknown() -> None:
    assert state_view(DesiredState("z"), ALL, ())["known"] is False


@pytest.mark.parametrize(
    ("scope", "pods"),
    [
        pytest.param(ViewFilter(namespace="ops"), ["ops/mon"], id="a namespace"),
        pytest.param(ViewFilter(namespace="none"), [], id="a namespace without Pods"),
        pytest.param(ViewFilter(pod="shop/far"), ["shop/far"], id="a Pod"),
        pytest.param(ViewFilter(namespace="ops", pod="shop/far"), ["shop/far"], id="a Pod, whatever the namespace"),
    ],
)
def test_the_state_of_a_scope(view: DesiredState, scope: ViewFilter, pods: list[str]) -> None:
    assert named(state_view(view, scope, ()), "pods") == pods


def test_policies_say_whom_they_isolate_here_and_what_they_allow(view: DesiredState) -> None:
    found = as_json(policies_view(view, ALL, (PROBLEM,)))
    assert named(found, "policies") == ["ops/broken", "shop/closed", "shop/db"]
    assert found["policies"][2] == {
        "kind": "NetworkPolicy",
        "namespace": "shop",
        "name": "db",
        "tier": "network",
        "priority": None,
        "selects": "app=db",
        "isolates": ["ingress"],
        "local_pods": ["shop/db"],
        "rules": {
            "ingress": [
                {
                    "action": "allow",
                    "name": "",
                    "about": "pods app=web in namespace shop on 5432/tcp",
                    "problem": None,
                }
            ]
        },
        "problem": None,
        "audit": False,
    }
    assert found["problems"] == [msgspec.to_builtins(PROBLEM)]


@pytest.fixture
def tiers() -> DesiredState:
    return TwoNodeCluster(*DOCUMENTS, GUARD, FLOOR).views["a"]


def test_policies_of_the_tiers_are_shown_in_the_order_in_which_they_are_asked(tiers: DesiredState) -> None:
    found = as_json(policies_view(tiers, ALL, ()))["policies"]
    assert [item["name"] for item in found] == ["guard", "broken", "closed", "db", "default"]
    assert [(item["tier"], item["priority"]) for item in found[::4]] == [("admin", 7), ("baseline", 1001)]
    assert (found[0]["selects"], found[0]["isolates"]) == ("pods app=db in all namespaces", [])
    assert (found[0]["local_pods"], found[4]["local_pods"]) == (["shop/db"], ["ops/mon", "shop/db", "shop/web"])


def test_rules_of_the_tiers_say_what_they_do_and_what_is_wrong_with_them(tiers: DesiredState) -> None:
    guard, *_, floor = as_json(policies_view(tiers, ALL, ()))["policies"]
    about = "all pods in namespaces kubernetes.io/metadata.name=ops"
    assert guard["rules"].keys() == {"ingress"}
    assert guard["rules"]["ingress"][0] == {"action": "deny", "name": "no mon", "about": about, "problem": None}
    unknown = guard["rules"]["ingress"][1]
    assert (unknown["action"], unknown["about"], unknown["problem"]["field"]) == (
        "deny",
        "anywhere",
        "spec.ingress[1].action",
    )
    assert floor["rules"] == {"egress": [{"action": "deny", "name": "", "about": "all nodes", "problem": None}]}


def test_the_state_says_which_policies_of_the_tiers_have_a_say(tiers: DesiredState) -> None:
    pods = {item["name"]: item for item in as_json(state_view(tiers, ALL, ()))["pods"]}
    assert pods["db"]["tiers"] == {
        "egress": ["BaselineAdminNetworkPolicy default"],
        "ingress": ["AdminNetworkPolicy guard"],
    }
    assert pods["db"]["isolated"] == {"egress": [], "ingress": ["shop/db"]}
    assert pods["web"]["tiers"] == {"egress": ["BaselineAdminNetworkPolicy default"], "ingress": []}


@pytest.mark.parametrize(
    ("scope", "policies"),
    [
        pytest.param(ViewFilter(namespace="shop"), ["closed", "db"], id="a namespace has no policies of the tiers"),
        pytest.param(
            ViewFilter(pod="shop/db"), ["guard", "db", "default"], id="those that have a Pod as their subject"
        ),
        pytest.param(ViewFilter(pod="shop/web"), ["closed", "default"], id="and no others"),
    ],
)
def test_the_policies_of_a_scope_with_tiers(tiers: DesiredState, scope: ViewFilter, policies: list[str]) -> None:
    assert [item["name"] for item in policies_view(tiers, scope, ())["policies"]] == policies


def test_a_policy_that_fails_closed_says_why(view: DesiredState) -> None:
    broken = policies_view(view, ALL, ())["policies"][0]
    assert (broken["isolates"], broken["local_pods"], broken["rules"]) == (["egress"], ["ops/mon"], {"egress": []})
    assert broken["problem"]["field"] == "spec.egress[0].to[0]"


@pytest.mark.parametrize(
    ("scope", "policies"),
    [
        pytest.param(ViewFilter(namespace="shop"), ["shop/closed", "shop/db"], id="a namespace's"),
        pytest.param(ViewFilter(pod="shop/db"), ["shop/db"], id="those that select a Pod"),
        pytest.param(ViewFilter(pod="shop/far"), ["shop/db"], id="those that select another node's Pod"),
        pytest.param(ViewFilter(pod="ops/mon"), ["ops/broken"], id="those that fail closed"),
    ],
)
def test_the_policies_of_a_scope(view: DesiredState, scope: ViewFilter, policies: list[str]) -> None:
    assert named(policies_view(view, scope, ()), "policies") == policies


def test_a_ruleset_is_shown_for_people_for_nft_and_for_programs(view: DesiredState) -> None:
    found = as_json(ruleset_view(view.ruleset(), annotation(view)))
    assert "10.64.0.20 : goto ingress/shop/db,  # shop/db" in found["text"] or (
        "10.64.0.20 : goto ingress/shop/db  # shop/db" in found["text"]
    )
    assert "# shop/db" not in found["nft"]
    assert found["objects"]["maps"]["ingress4"]["elements"]["10.64.0.20"] == "ingress/shop/db"


def test_elements_are_in_an_order_that_stays() -> None:
    addresses = [f"10.0.0.{number}" for number in range(100)]
    ruleset = Ruleset({"peers4/x": NamedSet("address", 4, frozenset(addresses))})
    assert ruleset_view(ruleset, None)["objects"]["sets"]["peers4/x"]["elements"] == sorted(addresses)


def test_without_a_table_the_text_says_so() -> None:
    assert ruleset_view(ABSENT, None)["text"] == "# there is no table inet nfagent\n"


def test_annotations_are_pods_by_address(view: DesiredState) -> None:
    words = annotation(view)
    assert (words("10.64.1.40"), words("203.0.113.7")) == ("shop/far", "")


LOGGING_SETS = [
    "families of which allowed connections are logged",
    "families of which denied packets are logged",
]


def test_without_a_scope_the_ruleset_is_whole(view: DesiredState) -> None:
    ruleset = view.ruleset()
    assert scoped(view, ruleset, ALL) is ruleset


def test_a_pods_part_of_the_ruleset_is_its_elements_chains_and_what_they_name(view: DesiredState) -> None:
    ruleset = view.ruleset()
    part = scoped(view, ruleset, ViewFilter(pod="shop/db"))
    assert {name: item.elements for name, item in part.maps.items()} == {
        "ingress4": {"10.64.0.20": "ingress/shop/db"},
        "ingress6": {"2001:db8:0:a::20": "ingress/shop/db"},
    }
    own = {"ingress/shop/db", "stray/ingress/shop/db"}
    ends = {"count/allow/ingress", "count/deny/ingress"}
    assert set(part.chains) == {*own, *ends, "allow/ingress/shop/db", "deny/ingress/shop/db"}
    assert part.counters == {"deny/ingress/shop/db", "allow/ingress/shop/db"}
    assert sorted(item.comment for item in part.sets.values() if item.kind != "counted") == [
        *LOGGING_SETS,
        *["pods app=web in namespace shop"] * 2,
    ]
    assert all(part.chains[name] == ruleset.chains[name] for name in part.chains)


def many_rules(view: DesiredState, count: int) -> Ruleset:
    """Return the ruleset with so many more rules in a Pod's chain."""
    ruleset = view.ruleset()
    chain = ruleset.chains["ingress/shop/db"]
    more = tuple(Rule((ServerPort(port, port),), verdict=Goto("allow/ingress/shop/db")) for port in range(1, count + 1))
    grown = msgspec.structs.replace(chain, rules=(*more, *chain.rules))
    return msgspec.structs.replace(ruleset, chains={**ruleset.chains, "ingress/shop/db": grown})


def test_a_pods_part_of_a_ruleset_is_found_some_rules_at_a_time(view: DesiredState) -> None:
    ruleset = many_rules(view, 10_000)
    steps = list(scoping(view, ruleset, ViewFilter(pod="shop/db")))
    assert len(steps) > 10_000 / 256
    assert (
        scoped(view, ruleset, ViewFilter(pod="shop/db")).chains["ingress/shop/db"] == ruleset.chains["ingress/shop/db"]
    )


def test_a_chains_rules_are_shown_as_objects_one_by_one(view: DesiredState) -> None:
    ruleset = many_rules(view, 1_000)
    made = list(encoded(ruleset_parts(ruleset, None, ViewFilter(form="objects"))))
    assert max(map(len, made)) < 2_000
    shown = msgspec.json.decode(b"".join(made))["objects"]["chains"]
    assert shown == msgspec.json.decode(msgspec.json.encode(ruleset.chains))


def test_a_namespaces_part_of_the_ruleset_is_that_of_its_pods(view: DesiredState) -> None:
    part = scoped(view, view.ruleset(), ViewFilter(namespace="shop"))
    assert set(part.chains) == {
        *("ingress/shop/db", "stray/ingress/shop/db", "allow/ingress/shop/db", "deny/ingress/shop/db"),
        *("ingress/shop/closed", "deny/ingress/shop/closed", "count/allow/ingress", "count/deny/ingress"),
    }


def test_a_pods_part_of_the_ruleset_has_its_sections_and_what_these_lead_to(tiers: DesiredState) -> None:
    part = scoped(tiers, tiers.ruleset(), ViewFilter(pod="shop/db"))
    assert set(part.chains) == {
        *("ingress/admin_anp.guard/shop/db", "admin/ingress/anp.guard", "deny/ingress/anp.guard"),
        *("stray/ingress/admin_anp.guard/shop/db", "stray/admin/ingress/anp.guard"),
        *("stray/egress/baseline_banp.default", "stray/baseline/egress/banp.default"),
        *("allow/ingress/shop/db", "deny/ingress/shop/db"),
        *("egress/baseline_banp.default", "baseline/egress/banp.default", "deny/egress/banp.default"),
        *("count/allow/ingress", "count/deny/ingress", "count/deny/egress"),
    }
    outcomes = {name for name in part.chains if name.startswith(("allow/", "deny/"))}
    assert part.counters == outcomes
    assert {item.comment for item in part.sets.values() if item.kind != "counted"} == {
        "pods app=web in namespace shop",
        "all pods in namespaces kubernetes.io/metadata.name=ops",
        "all nodes",
        *LOGGING_SETS,
    }


@pytest.mark.parametrize(
    "scope", [ViewFilter(pod="shop/far"), ViewFilter(namespace="none")], ids=["another node", "no Pod"]
)
def test_who_is_not_of_this_node_has_no_part(view: DesiredState, scope: ViewFilter) -> None:
    part = scoped(view, view.ruleset(), scope)
    assert (part.maps, part.chains, part.sets, part.counters) == ({}, {}, {}, frozenset())


def test_a_pod_that_is_not_there_is_an_error_in_every_view() -> None:
    empty = DesiredState("a")
    scope = ViewFilter(pod="shop/none")
    for ask in (
        lambda: state_view(empty, scope, ()),
        lambda: policies_view(empty, scope, ()),
        lambda: scoped(empty, empty.ruleset(), scope),
        lambda: counters_view(empty, {}, scope),
    ):
        with pytest.raises(UsageError, match="there is no Pod shop/none"):
            ask()


def test_of_two_pods_with_one_address_both_have_the_elements() -> None:
    both = TwoNodeCluster(
        pod("shop/aa", "a", 10), pod("shop/bb", "a", 10), policy("shop/all", types=["Ingress"])
    ).views["a"]
    ruleset = both.ruleset()
    for path in ("shop/aa", "shop/bb"):
        assert set(scoped(both, ruleset, ViewFilter(pod=path)).maps) == {"ingress4", "ingress6"}


RULE = Rule((), verdict=Drop(), comment="ours")
HELD = Ruleset(
    {
        "peers4/x": NamedSet("address", 4, frozenset({"10.0.0.1", "10.0.0.2"})),
        "blocks4/x": NamedSet("range", 4, frozenset({parse_cidr("10.0.0.0/8")})),
        "ports4/x": NamedSet("port", 4, frozenset({("10.0.0.1", "tcp", 80)})),
    },
    {"ingress4": VerdictMap(4, {"10.0.0.1": "ingress/shop/db"})},
    {"ingress/shop/db": Chain((RULE,)), "forward-ingress": Chain((RULE,), Hook("filter", "forward", -1))},
    frozenset({"deny/ingress/shop/db"}),
)


def changed(**fields: object) -> Ruleset:
    return msgspec.structs.replace(HELD, **fields)


@pytest.mark.parametrize(
    ("kernel", "differences"),
    [
        pytest.param(ABSENT, ["the table is missing"], id="no table"),
        pytest.param(
            changed(foreign=frozenset({("flowtable", "ft")})), ["flowtable ft: not nfagent's"], id="an object of others"
        ),
        pytest.param(changed(counters=frozenset()), ["counter deny/ingress/shop/db: missing"], id="a counter missing"),
        pytest.param(changed(counters=HELD.counters | {"mine"}), ["counter mine: not wanted"], id="a counter too many"),
        pytest.param(changed(sets={**HELD.sets, "mine": NamedSet("address", 4)}), ["set mine: not wanted"], id="a set"),
        pytest.param(
            changed(sets={**HELD.sets, "peers4/x": NamedSet("address", 4, frozenset({"10.0.0.2", "10.0.0.3"}))}),
            ["set peers4/x: lacks  10.0.0.1", "set peers4/x: has    10.0.0.3"],
            id="addresses",
        ),
        pytest.param(
            changed(sets={**HELD.sets, "blocks4/x": NamedSet("range", 4)}),
            ["set blocks4/x: lacks  10.0.0.0/8"],
            id="a range",
        ),
        pytest.param(
            changed(sets={**HELD.sets, "ports4/x": NamedSet("port", 4)}),
            ["set ports4/x: lacks  10.0.0.1 . tcp . 80"],
            id="a port",
        ),
        pytest.param(
            changed(sets={**HELD.sets, "ports4/x": msgspec.structs.replace(HELD.sets["ports4/x"], comment="mine")}),
            ["set ports4/x: has the same elements with another type or comment"],
            id="a comment",
        ),
        pytest.param(changed(maps={}), ["map ingress4: missing"], id="a map"),
        pytest.param(
            changed(maps={"ingress4": VerdictMap(4, {"10.0.0.1": "forward-ingress"})}),
            [
                "map ingress4: lacks  10.0.0.1 : goto ingress/shop/db",
                "map ingress4: has    10.0.0.1 : goto forward-ingress",
            ],
            id="where an address goes",
        ),
        pytest.param(
            changed(
                chains={**HELD.chains, "ingress/shop/db": Chain((Rule((UnknownExpr("xt"),), verdict=Accept()), RULE))}
            ),
            ["chain ingress/shop/db: has    # not nfagent's: xt accept"],
            id="a rule of others",
        ),
        pytest.param(
            changed(chains={**HELD.chains, "ingress/shop/db": Chain()}),
            ['chain ingress/shop/db: lacks  drop comment "ours"'],
            id="a rule missing",
        ),
        pytest.param(
            changed(chains={**HELD.chains, "ingress/shop/db": Chain((RULE, RULE))}),
            ["chain ingress/shop/db: has the same rules in another order"],
            id="a rule twice",
        ),
        pytest.param(
            changed(chains={**HELD.chains, "forward-ingress": Chain((RULE,))}),
            ["chain forward-ingress: has the same rules at another hook"],
            id="a chain without its hook",
        ),
    ],
)
def test_every_difference_has_its_words_and_the_commands_that_remove_it(
    kernel: Ruleset, differences: list[str]
) -> None:
    found = as_json(diff_view(kernel, HELD))
    assert (found["equal"], found["differences"]) == (False, differences)
    assert found["commands"]
    assert all(command.split()[0] in {"add", "delete", "flush"} for command in found["commands"])


def test_where_nothing_differs_nothing_is_said() -> None:
    found = diff_view(HELD, HELD)
    assert (found["equal"], found["differences"], found["commands"]) == (True, [], [])


COUNTED = {
    "deny/ingress/shop/db": CounterValue(3, 180),
    "allow/ingress/shop/db": CounterValue(5, 300),
    "deny/ingress/shop/closed": CounterValue(0, 0),
    "deny/egress/ops/broken": CounterValue(1, 60),
    "deny/egress/gone/gone": CounterValue(9, 9),
}


def row(
    verdict: str, policy: str, packets: int, size: int, *, direction: str = "ingress", kind: str = "NetworkPolicy"
) -> View:
    space, _, name = policy.rpartition("/")
    whose = {"kind": kind, "namespace": space, "policies": [name]}
    return {"verdict": verdict, "direction": direction, **whose, "packets": packets, "bytes": size}


ROWS = {
    "allow db": row("allow", "shop/db", 5, 300),
    "deny broken": row("deny", "ops/broken", 1, 60, direction="egress"),
    "deny closed": row("deny", "shop/closed", 0, 0),
    "deny db": row("deny", "shop/db", 3, 180),
}


@pytest.mark.parametrize(
    ("scope", "rows"),
    [
        pytest.param(ALL, ["allow db", "deny broken", "deny closed", "deny db"], id="all, in order"),
        pytest.param(ViewFilter(namespace="shop"), ["allow db", "deny closed", "deny db"], id="a namespace's"),
        pytest.param(ViewFilter(pod="shop/db"), ["allow db", "deny db"], id="those of a Pod's rules"),
        pytest.param(ViewFilter(pod="shop/far"), [], id="none of another node's Pod"),
    ],
)
def test_counters(view: DesiredState, scope: ViewFilter, rows: list[str]) -> None:
    assert as_json(counters_view(view, COUNTED, scope))["counters"] == [ROWS[name] for name in rows]


def test_drops_that_belong_to_no_policy_are_counted_for_the_node(view: DesiredState) -> None:
    values = {**COUNTED, "drop/not-holder": CounterValue(3, 180), "drop/no-gateway": CounterValue(0, 0)}
    expected = [{"name": "drop/not-holder", "packets": 3, "bytes": 180}]
    assert as_json(counters_view(view, values, ALL))["drops"] == expected
    assert as_json(counters_view(view, values, ViewFilter(pod="shop/db")))["drops"] == []


def test_for_a_node_s_counters_other_nodes_pods_are_not_gone_through(view: DesiredState) -> None:
    class Pods(dict[tuple[str, str], Pod]):
        def values(self) -> NoReturn:
            raise AssertionError

    view.cluster.pods = Pods(view.cluster.pods)
    assert as_json(counters_view(view, COUNTED, ALL))["counters"]


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        pytest.param(ALL, "no policy isolates a Pod of this node that has an address", id="all"),
        pytest.param(
            ViewFilter(namespace="shop"),
            "no policy isolates a Pod of namespace shop on this node that has an address",
            id="a namespace's",
        ),
        pytest.param(
            ViewFilter(namespace="ops"), "no policy isolates a Pod of namespace ops on this node", id="another's"
        ),
        pytest.param(ViewFilter(pod="shop/new"), "Pod shop/new has no address yet", id="the Pod's"),
    ],
)
def test_of_a_pod_without_an_address_it_is_not_said_that_no_policy_isolates_it(scope: ViewFilter, words: str) -> None:
    waiting = {**pod("shop/new", "a", 10), "status": {"phase": "Pending"}}
    desired = TwoNodeCluster(waiting, pod("ops/mon", "a", 30), policy("shop/all")).views["a"]
    assert as_json(counters_view(desired, {}, scope))["nothing"] == f"no counters: {words}"


def test_counters_of_the_tiers_are_shown_by_kind(tiers: DesiredState) -> None:
    counted = {**COUNTED, "deny/ingress/anp.guard": CounterValue(2, 90), "deny/egress/banp.default": CounterValue(4, 8)}
    found = as_json(counters_view(tiers, counted, ViewFilter(pod="shop/db")))
    assert found["counters"] == [
        ROWS["allow db"],
        row("deny", "default", 4, 8, direction="egress", kind="BaselineAdminNetworkPolicy"),
        row("deny", "guard", 2, 90, kind="AdminNetworkPolicy"),
        ROWS["deny db"],
    ]


def test_the_counter_of_a_policy_is_shown_once_for_all_policy_sets() -> None:
    shared = TwoNodeCluster(
        pod("shop/web", "a", 10, app="web"),
        pod("shop/db", "a", 20, app="db"),
        policy("shop/all", types=["Ingress"], ingress=[{}]),
        policy("shop/db", labelled(app="db"), types=["Ingress"]),
    ).views["a"]
    values = {name: CounterValue(1, 60) for name in shared.ruleset().counters}
    rows = counters_view(shared, values, ALL)["counters"]
    assert [(found["verdict"], found["policies"]) for found in rows] == [
        ("allow", ["all"]),
        ("deny", ["all"]),
        ("deny", ["all", "db"]),
    ]
