"""The destinations that are not masqueraded, and the objects that they come from."""

from __future__ import annotations

import pytest

from nfagent.model.egress_nat import EgressNATPolicy, EgressSource, NetworkGatewayGroup
from nfagent.model.gvk import EgressObject
from nfagent.model.ip_masq import CONFIG_MAP, DEFAULT_CIDRS, LINK_LOCAL, RESERVED_CIDRS, IpMasqConfig
from nfagent.model.netaddr import Range, parse_cidr
from nfagent.state.egress import EgressState

NINE, TEN, ELEVEN = map(parse_cidr, ("9.0.0.0/8", "10.0.0.0/8", "11.0.0.0/8"))
LISTED = IpMasqConfig((NINE,))
DEFAULT = EgressNATPolicy(name="default", action="NoSNAT", destinations=(TEN,))
MORE = EgressNATPolicy(name="more", action="NoSNAT", destinations=(ELEVEN,))
ALL_PODS = EgressNATPolicy(name="default", action="NoSNAT")
BY_SOURCE = EgressNATPolicy(name="default", action="NoSNAT", destinations=(TEN,), sources=(EgressSource(),))
SNAT = EgressNATPolicy(name="default", action="SNAT", destinations=(TEN,))


def state(*objects: EgressObject) -> EgressState:
    made = EgressState()
    for item in objects:
        assert made.put(item)
    return made


@pytest.mark.parametrize(
    ("objects", "base", "exempt"),
    [
        pytest.param((), "", (*DEFAULT_CIDRS, *LINK_LOCAL), id="nothing: the built-in list"),
        pytest.param((LISTED,), str(CONFIG_MAP), (NINE, *LINK_LOCAL), id="the ip-masq-agent list"),
        pytest.param((IpMasqConfig(),), "", (*DEFAULT_CIDRS, *LINK_LOCAL), id="a ConfigMap without a list"),
        pytest.param(
            (DEFAULT, LISTED), "EgressNATPolicy default", (TEN, *LINK_LOCAL), id="`default` in place of that list"
        ),
        pytest.param(
            (ALL_PODS, LISTED),
            "EgressNATPolicy default",
            LINK_LOCAL,
            id="an empty `default` translates all but link-local",
        ),
        pytest.param(
            (ALL_PODS, IpMasqConfig((NINE,), (True, True))),
            "EgressNATPolicy default",
            (),
            id="and that too, by the ConfigMap's switches",
        ),
        pytest.param((MORE,), "", (*DEFAULT_CIDRS, ELEVEN, *LINK_LOCAL), id="another policy adds to the built-in list"),
        pytest.param((MORE, LISTED), str(CONFIG_MAP), (NINE, ELEVEN, *LINK_LOCAL), id="and to the ConfigMap's"),
        pytest.param(
            (MORE, LISTED, DEFAULT), "EgressNATPolicy default", (TEN, ELEVEN, *LINK_LOCAL), id="and to `default`"
        ),
        pytest.param(
            (BY_SOURCE, LISTED), str(CONFIG_MAP), (NINE, *LINK_LOCAL), id="a `default` with sources counts as absent"
        ),
        pytest.param((SNAT, LISTED), str(CONFIG_MAP), (NINE, *LINK_LOCAL), id="and so does one of action SNAT"),
    ],
)
def test_destinations_that_are_not_masqueraded(
    objects: tuple[EgressObject, ...], base: str, exempt: tuple[Range, ...]
) -> None:
    found = state(*objects)
    assert (str(found.base or ""), found.exempt(all_reserved_ranges=False)) == (base, exempt)


def test_reserved_ranges_are_part_of_the_built_in_list_alone() -> None:
    assert state().exempt(all_reserved_ranges=True) == (*DEFAULT_CIDRS, *RESERVED_CIDRS, *LINK_LOCAL)
    assert state(DEFAULT).exempt(all_reserved_ranges=True) == (TEN, *LINK_LOCAL)


def test_objects_are_added_changed_and_removed() -> None:
    gateways = NetworkGatewayGroup("kube-system", "gw", ("192.0.2.10",))
    found = state(MORE, DEFAULT, gateways, LISTED)
    assert (list(found.policies), list(found.gateways), found.ip_masq) == (["default", "more"], [gateways.ref], LISTED)
    assert not found.put(DEFAULT)
    assert found.put(ALL_PODS)
    for item in (MORE, ALL_PODS, gateways, LISTED):
        assert [found.remove(item.ref), found.remove(item.ref)] == [True, False]
    assert (found.policies, found.gateways, found.ip_masq) == ({}, {}, None)
