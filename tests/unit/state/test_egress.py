"""The base of the destinations that are not masqueraded, and the policies beside it."""

from __future__ import annotations

import pytest

from nfagent.decode.ip_masq import decode_ip_masq_text
from nfagent.model.egress_nat import EgressNATPolicy, EgressSource, NetworkGatewayGroup
from nfagent.model.gvk import EgressObject
from nfagent.model.ip_masq import CONFIG_MAP, DEFAULT_CIDRS, LINK_LOCAL, RESERVED_CIDRS, IpMasqConfig
from nfagent.model.netaddr import Range, parse_cidr
from nfagent.model.objects import ObjectRef
from nfagent.state.egress import SETTINGS, EgressState

NINE, TEN, ELEVEN = map(parse_cidr, ("9.0.0.0/8", "10.0.0.0/8", "11.0.0.0/8"))
LISTED = IpMasqConfig((NINE,))
DEFAULT = EgressNATPolicy(name="default", action="NoSNAT", destinations=(TEN,))
MORE = EgressNATPolicy(name="more", action="NoSNAT", destinations=(ELEVEN,))
ALL_PODS = EgressNATPolicy(name="default", action="NoSNAT")
BY_SOURCE = EgressNATPolicy(name="default", action="NoSNAT", destinations=(TEN,), sources=(EgressSource(),))
BUILT_IN = EgressNATPolicy(name="default", action="NoSNAT", destinations=DEFAULT_CIDRS)
SNAT = EgressNATPolicy(name="default", action="SNAT", destinations=(TEN,))


def state(*objects: EgressObject) -> EgressState:
    made = EgressState()
    for item in objects:
        assert made.put(item)
    return made


@pytest.mark.parametrize(
    ("objects", "base", "listed"),
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
        pytest.param(
            (BUILT_IN, LISTED),
            str(CONFIG_MAP),
            (NINE, *LINK_LOCAL),
            id="that list in place of a `default` that only repeats the built-in list",
        ),
        pytest.param(
            (BUILT_IN, IpMasqConfig()),
            "EgressNATPolicy default",
            (*DEFAULT_CIDRS, *LINK_LOCAL),
            id="which is the base without one",
        ),
        pytest.param((MORE,), "", (*DEFAULT_CIDRS, *LINK_LOCAL), id="another policy is no part of it"),
        pytest.param((BY_SOURCE, LISTED), str(CONFIG_MAP), (NINE, *LINK_LOCAL), id="a `default` with sources is none"),
        pytest.param((SNAT, LISTED), str(CONFIG_MAP), (NINE, *LINK_LOCAL), id="and neither is one of action SNAT"),
    ],
)
def test_the_base_list(objects: tuple[EgressObject, ...], base: str, listed: tuple[Range, ...]) -> None:
    found = state(*objects)
    assert (str(found.base or ""), found.base_list(all_reserved_ranges=False)) == (base, listed)


def test_reserved_ranges_are_part_of_the_built_in_list_alone() -> None:
    assert state().base_list(all_reserved_ranges=True) == (*DEFAULT_CIDRS, *RESERVED_CIDRS, *LINK_LOCAL)
    assert state(DEFAULT).base_list(all_reserved_ranges=True) == (TEN, *LINK_LOCAL)


def test_every_policy_but_the_base_is_enforced_beside_it() -> None:
    gateway = ObjectRef("NetworkGatewayGroup", "kube-system", "gw")
    away = EgressNATPolicy(name="away", action="SNAT", destinations=(TEN,), gateway=gateway)
    assert state(MORE, DEFAULT, away).enforced == [away, MORE]
    assert state(MORE, BY_SOURCE).enforced == [BY_SOURCE, MORE]
    assert state(MORE, SNAT).enforced == [SNAT, MORE]


def test_objects_are_added_changed_and_removed() -> None:
    gateways = NetworkGatewayGroup("kube-system", "gw", ("192.0.2.10",))
    found = state(MORE, DEFAULT, gateways, LISTED)
    assert (list(found.policies), list(found.gateways), found.ip_masq) == (["default", "more"], [gateways.ref], LISTED)
    assert not found.put(DEFAULT)
    assert found.put(ALL_PODS)
    for item in (MORE, ALL_PODS, gateways, LISTED):
        assert [found.remove(item.ref), found.remove(item.ref)] == [True, False]
    assert (found.policies, found.gateways, found.ip_masq) == ({}, {}, None)


BAD_LIST = decode_ip_masq_text("file f", "nonMasqueradeCIDRs: [10.0.0.1/8]\nmasqLinkLocal: 3")
BAD_INVERSE = decode_ip_masq_text("file f", "masqueradeCIDRs: [10.0.0.1/8]")
TRANSLATED = IpMasqConfig((), (True, True))


def test_a_config_map_that_never_had_a_readable_list_keeps_that_of_the_file() -> None:
    made = EgressState()
    made.put_file("/f", TRANSLATED)
    made.put(BAD_LIST)
    assert made.base_list(all_reserved_ranges=False) == (LINK_LOCAL[1],)
    made.put(LISTED)
    made.put(BAD_LIST)
    assert made.base_list(all_reserved_ranges=False) == (NINE, *LINK_LOCAL)


def test_a_file_that_never_had_a_readable_list_keeps_that_of_the_settings() -> None:
    made = EgressState(TRANSLATED)
    made.put_file("/f", BAD_LIST)
    assert made.base_list(all_reserved_ranges=False) == (LINK_LOCAL[1],)


BAD_SWITCH = decode_ip_masq_text("file f", "nonMasqueradeCIDRs: [9.0.0.0/8]\nmasqLinkLocal: 3")
FILE = ObjectRef("file", "", "/f")
IN_FILE = IpMasqConfig((TEN,))


@pytest.mark.parametrize(
    ("config_map", "file", "origins"),
    [
        pytest.param(LISTED, IN_FILE, {NINE: CONFIG_MAP}, id="both have the list: the ConfigMap"),
        pytest.param(BAD_LIST, IN_FILE, {TEN: FILE}, id="the ConfigMap's list can't be read: the file"),
        pytest.param(
            BAD_INVERSE, IN_FILE, {TEN: FILE}, id="its inverse list can't be read, its list is omitted: the file"
        ),
        pytest.param(BAD_SWITCH, IN_FILE, {NINE: CONFIG_MAP}, id="only a switch can't be read: the ConfigMap"),
        pytest.param(BAD_LIST, BAD_LIST, {TEN: SETTINGS}, id="neither list can be read: the settings"),
        pytest.param(BAD_LIST, None, {TEN: SETTINGS}, id="no file: the settings"),
        pytest.param(IpMasqConfig(), IN_FILE, {}, id="an omitted list of the ConfigMap: the built-in one"),
        pytest.param(
            decode_ip_masq_text("file f", "nonMasqueradeCIDRs: [9.0.0.0/8]\nmasqueradeCIDRs: [10.0.0.1/8]"),
            IpMasqConfig(translated=(TEN,)),
            {NINE: CONFIG_MAP, parse_cidr("11.0.0.0/8"): FILE},
            id="the list of the ConfigMap, the inverse one of the file",
        ),
    ],
)
def test_the_origin_of_a_list_is_where_it_could_be_read(
    config_map: IpMasqConfig, file: IpMasqConfig | None, origins: dict[Range, ObjectRef]
) -> None:
    made = EgressState(IpMasqConfig((TEN,)))
    made.put_file("/f", file)
    made.put(config_map)
    assert {entry: made.origin(entry) for entry in origins} == origins
    assert made.base == (list(origins.values())[-1] if origins else None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(IpMasqConfig(translated=(TEN,)), BAD_LIST, id="the inverse list"),
        pytest.param(LISTED, BAD_INVERSE, id="the list"),
    ],
)
def test_a_list_stays_where_its_inverse_in_place_of_it_is_unreadable(before: IpMasqConfig, after: IpMasqConfig) -> None:
    made = state(before)
    listed = made.base_list(all_reserved_ranges=False)
    made.put(after)
    assert made.base_list(all_reserved_ranges=False) == listed
