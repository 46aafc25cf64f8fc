"""The precedence of what decides on a translation, and the ranges that follow from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.decode.ip_masq import decode_ip_masq_text
from nfagent.egress.masquerade import MasqueradeSettings, exempt_ranges
from nfagent.egress.precedence import gateway_ranges, kept_ranges, longest_prefix, translated_ranges
from nfagent.egress.translation import Translation, translation
from nfagent.model.egress_nat import EgressAction, EgressNATPolicy, EgressSource
from nfagent.model.gvk import EgressObject
from nfagent.model.ip_masq import CONFIG_MAP, IpMasqConfig
from nfagent.model.netaddr import Range, disjoint, parse_cidr, text
from nfagent.model.objects import Namespace, Node, ObjectRef, Pod
from nfagent.model.selectors import Requirement, Selector
from nfagent.state.cluster import ClusterState
from nfagent.state.egress import EgressState

TEAM = Selector((Requirement("team", "In", ("payments",)),))
WEB = Selector((Requirement("app", "In", ("web",)),))
BY_BOTH = EgressSource(WEB, TEAM)
NODE = Node("n1", addresses=("192.0.2.1",), pod_cidrs=tuple(map(parse_cidr, ("240.0.0.0/24", "2001:db8:1::/64"))))
POD = Pod(namespace="shop", name="web", labels=(("app", "web"),), node="n1", addresses=("240.0.0.5",), phase="Running")
OTHER = Pod(namespace="shop", name="db", labels=(("app", "db"),), node="n1", addresses=("240.0.0.6",), phase="Running")


def policy(name: str, action: EgressAction, *cidrs: str, sources: tuple[EgressSource, ...] = ()) -> EgressNATPolicy:
    return EgressNATPolicy(name=name, action=action, destinations=tuple(map(parse_cidr, cidrs)), sources=sources)


def ref(name: str) -> ObjectRef:
    return ObjectRef("EgressNATPolicy", "", name)


def cluster(team: str = "payments") -> ClusterState:
    found = ClusterState("n1")
    for item in (Namespace("shop", (("team", team),)), NODE, POD, OTHER):
        found.put(item)
    return found


def egress(*objects: EgressObject) -> EgressState:
    found = EgressState()
    for item in objects:
        found.put(item)
    return found


KEEP_ALL = policy("all", "NoSNAT", "0.0.0.0/0", "::/0")
HIDE_TEN = policy("hide", "SNAT", "10.0.0.0/8")
KEEP_PART = policy("part", "NoSNAT", "10.1.0.0/16")
BY_SOURCE = policy("sourced", "NoSNAT", "203.0.113.0/24", sources=(BY_BOTH,))
HIDE_BY_SOURCE = policy("sourced", "SNAT", "10.2.0.0/16", sources=(BY_BOTH,))
LISTED = IpMasqConfig((parse_cidr("203.0.113.0/24"), parse_cidr("203.0.0.0/16")))


@pytest.mark.parametrize(
    ("objects", "destination", "expected"),
    [
        pytest.param(
            (HIDE_TEN,),
            "240.0.0.200",
            Translation("cluster", None, parse_cidr("240.0.0.0/24")),
            id="a Pod range is the cluster's, whatever policies say",
        ),
        pytest.param(
            (policy("x", "SNAT", "192.0.2.0/24"),),
            "192.0.2.1",
            Translation("cluster", None, parse_cidr("192.0.2.1/32")),
            id="and a Node's address",
        ),
        pytest.param((), "203.0.113.7", Translation("node"), id="the default is masquerade"),
        pytest.param(
            (),
            "10.9.9.9",
            Translation("kept", None, parse_cidr("10.0.0.0/8")),
            id="the built-in list keeps private addresses",
        ),
        pytest.param(
            (LISTED,),
            "203.0.113.7",
            Translation("kept", CONFIG_MAP, parse_cidr("203.0.113.0/24")),
            id="the ip-masq-agent list replaces it, and its longest entry is named",
        ),
        pytest.param(
            (LISTED, policy("default", "NoSNAT", "9.0.0.0/8")), "203.0.113.7", Translation("node"), id="`default` that"
        ),
        pytest.param(
            (KEEP_ALL,),
            "203.0.113.7",
            Translation("kept", ref("all"), parse_cidr("0.0.0.0/0")),
            id="a policy without sources is for every Pod",
        ),
        pytest.param(
            (HIDE_TEN,),
            "10.9.9.9",
            Translation("node", ref("hide"), parse_cidr("10.0.0.0/8")),
            id="a policy comes before the list",
        ),
        pytest.param(
            (HIDE_TEN, policy("default", "NoSNAT", "10.9.9.0/24")),
            "10.9.9.9",
            Translation("node", ref("hide"), parse_cidr("10.0.0.0/8")),
            id="also before a longer prefix of `default`",
        ),
        pytest.param(
            (KEEP_ALL, HIDE_TEN, KEEP_PART),
            "10.1.2.3",
            Translation("kept", ref("part"), parse_cidr("10.1.0.0/16")),
            id="the longest prefix of three wins",
        ),
        pytest.param(
            (KEEP_ALL, HIDE_TEN, KEEP_PART),
            "10.2.2.3",
            Translation("node", ref("hide"), parse_cidr("10.0.0.0/8")),
            id="beside it the next one",
        ),
        pytest.param(
            (BY_SOURCE,),
            "203.0.113.7",
            Translation("kept", ref("sourced"), parse_cidr("203.0.113.0/24")),
            id="sources select by Pod and Namespace",
        ),
        pytest.param(
            (HIDE_TEN, policy("also", "SNAT", "10.0.0.0/8")),
            "10.1.1.1",
            Translation("node", ref("also"), parse_cidr("10.0.0.0/8")),
            id="a tie of equal actions is none: the first by name",
        ),
        pytest.param(
            (KEEP_ALL, HIDE_TEN, policy("keep", "NoSNAT", "10.0.0.0/8")),
            "10.1.1.1",
            Translation("node", None, parse_cidr("10.0.0.0/8"), (ref("hide"), ref("keep"))),
            id="a tie of different actions is masqueraded, not kept by a shorter prefix or the list",
        ),
        pytest.param(
            (HIDE_TEN, policy("keep", "NoSNAT", "10.0.0.0/8"), KEEP_PART),
            "10.1.1.1",
            Translation("kept", ref("part"), parse_cidr("10.1.0.0/16")),
            id="a longer prefix is no part of the tie",
        ),
    ],
)
def test_what_decides(objects: tuple[EgressObject, ...], destination: str, expected: Translation) -> None:
    assert translation(POD, destination, cluster(), egress(*objects), MasqueradeSettings()) == expected


@pytest.mark.parametrize(
    ("pod", "team"),
    [
        pytest.param(OTHER, "payments", id="another label"),
        pytest.param(POD, "sales", id="another Namespace label"),
        pytest.param(None, "payments", id="a Pod that isn't known"),
    ],
)
def test_policies_with_sources_do_not_apply_to(pod: Pod | None, team: str) -> None:
    found = translation(pod, "203.0.113.7", cluster(team), egress(BY_SOURCE), MasqueradeSettings())
    assert found == Translation("node")


def test_an_entry_of_the_file_is_the_file_s_where_the_config_map_s_list_cannot_be_read() -> None:
    state = egress()
    state.put_file("/etc/config/ip-masq-agent", LISTED)
    state.put(decode_ip_masq_text("ConfigMap", "nonMasqueradeCIDRs: [203.0.113.1/24]\nmasqLinkLocal: true"))
    found = translation(POD, "203.0.113.7", cluster(), state, MasqueradeSettings())
    origin = ObjectRef("file", "", "/etc/config/ip-masq-agent")
    assert found == Translation("kept", origin, parse_cidr("203.0.113.0/24"))


def test_a_family_without_masquerade_keeps_addresses() -> None:
    found = translation(POD, "2001:db8:9::1", cluster(), egress(), MasqueradeSettings(ipv6=False))
    assert found == Translation("kept")


# All prefixes of 16 addresses, so that random policies often nest and tie.
PREFIXES = [Range(4, first, first + size - 1) for size in (1, 2, 4, 8, 16) for first in range(0, 16, size)]
DESTINATIONS = st.lists(st.sampled_from(PREFIXES), max_size=5).map(tuple)
ACTIONS = st.sampled_from(["NoSNAT", "SNAT"])
POLICIES = st.lists(st.builds(EgressNATPolicy, name=st.just("x"), action=ACTIONS, destinations=DESTINATIONS))


@given(DESTINATIONS, POLICIES)
def test_kept_ranges_are_those_whose_longest_prefix_keeps(
    base: tuple[Range, ...], policies: list[EgressNATPolicy]
) -> None:
    def keeps(address: str) -> bool:
        found = longest_prefix(policies, address)
        if found is None:
            return any(item.contains(address) for item in base)
        return {policy.action for policy in found[1]} == {"NoSNAT"}

    kept = kept_ranges(base, policies)
    inside = [value for item in kept for value in range(item.first, item.last + 1)]
    assert inside == [value for value in range(16) if keeps(text(4, value))]
    assert disjoint(kept) == kept


@given(POLICIES)
def test_the_sets_of_the_ruleset_and_the_translation_agree(policies: list[EgressNATPolicy]) -> None:
    numbered = (
        EgressNATPolicy(name=f"p{at}", action=item.action, destinations=item.destinations)
        for at, item in enumerate(policies)
    )
    state, settings = egress(*numbered), MasqueradeSettings()
    kept = exempt_ranges(state, settings)
    for value in range(18):
        address = text(4, value)
        found = translation(POD, address, cluster(), state, settings)
        assert (found.kind == "kept") == any(item.contains(address) for item in kept)


GATEWAYS = [ObjectRef("NetworkGatewayGroup", "kube-system", name) for name in ("a", "b")]
OUTCOMES: list[tuple[EgressAction, ObjectRef | None]] = [
    ("NoSNAT", None),
    ("SNAT", None),
    *(("SNAT", gateway) for gateway in GATEWAYS),
]
WITH_GATEWAYS = st.lists(
    st.builds(
        lambda outcome, destinations: EgressNATPolicy(
            name="x", action=outcome[0], destinations=destinations, gateway=outcome[1]
        ),
        st.sampled_from(OUTCOMES),
        DESTINATIONS,
    )
)


@given(WITH_GATEWAYS)
def test_gateway_ranges_are_those_whose_longest_prefix_is_of_one_gateway_alone(policies: list[EgressNATPolicy]) -> None:
    def decided(value: int) -> set[tuple[EgressAction, ObjectRef | None]]:
        found = longest_prefix(policies, text(4, value))
        return set() if found is None else {policy.outcome for policy in found[1]}

    found = gateway_ranges(policies)
    for gateway in GATEWAYS:
        ranges = found.get(gateway, ())
        inside = [value for item in ranges for value in range(item.first, item.last + 1)]
        assert inside == [value for value in range(16) if decided(value) == {("SNAT", gateway)}]
        assert disjoint(ranges) == ranges
    assert list(found) == sorted(gateway for gateway, ranges in found.items() if ranges)
    translated = [value for item in translated_ranges(policies) for value in range(item.first, item.last + 1)]
    assert translated == [value for value in range(16) if decided(value) - {("NoSNAT", None)}]
