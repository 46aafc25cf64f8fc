"""The ip-masq-agent configuration as the reference reads it (masquerade.md)."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.cluster.address import parse_cidr
from nfagent.egress.ip_masq import DEFAULT_CIDRS, LINK_LOCAL, RESERVED_CIDRS, IpMasqConfig, decode_ip_masq
from nfagent.errors import ObjectError

Document = dict[str, Any]
TEN = parse_cidr("10.0.0.0/8")


def config_map(text: str | None, namespace: str = "kube-system", name: str = "ip-masq-agent") -> Document:
    return {"kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}, "data": {"config": text}}


@pytest.mark.parametrize(
    ("text", "config"),
    [
        pytest.param("nonMasqueradeCIDRs: [10.0.0.0/8]", IpMasqConfig((TEN,)), id="a list replaces the default list"),
        pytest.param('{"nonMasqueradeCIDRs": ["10.0.0.0/8"]}', IpMasqConfig((TEN,)), id="JSON is read too"),
        pytest.param("resyncInterval: 1m30s", IpMasqConfig(None), id="an omitted list keeps its default"),
        pytest.param("nonMasqueradeCIDRs: []", IpMasqConfig(()), id="an empty list translates everything"),
        pytest.param("nonMasqueradeCIDRs:", IpMasqConfig(()), id="a null list translates everything"),
        pytest.param("", IpMasqConfig(None), id="an empty text is all defaults"),
        pytest.param(None, IpMasqConfig(None), id="a missing key is all defaults"),
        pytest.param("masqLinkLocal: true", IpMasqConfig(None, (True, False)), id="link-local of IPv4 is translated"),
        pytest.param(
            "masqLinkLocalIPv6: true", IpMasqConfig(None, (False, True)), id="link-local of IPv6 is translated"
        ),
        pytest.param("resyncInterval: 0s", IpMasqConfig(None), id="an interval of nothing does no harm"),
        pytest.param("masqueradeEverything: yes", IpMasqConfig(None), id="an unknown key is left alone"),
    ],
)
def test_reads(text: str | None, config: IpMasqConfig) -> None:
    assert decode_ip_masq(config_map(text)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: [", "data.config: is neither YAML nor JSON at its line 1", id="broken YAML"),
        pytest.param("a: 2001-99-99", "data.config: has a value that can't be read: month", id="a date that is none"),
        pytest.param("- a", "data.config: is not a mapping", id="a list"),
        pytest.param(
            "nonMasqueradeCIDRs: [10.1.0.0/8]",
            "data.config.nonMasqueradeCIDRs[0] '10.1.0.0/8': has host bits set; write 10.0.0.0/8",
            id="[25] host bits set",
        ),
        pytest.param("nonMasqueradeCIDRs: [x]", "nonMasqueradeCIDRs[0] 'x': is not a CIDR", id="no CIDR"),
        pytest.param(
            "cidrLimit: 1\nnonMasqueradeCIDRs: [10.0.0.0/8, 11.0.0.0/8]",
            "has 2 CIDRs, more than cidrLimit 1",
            id="too many",
        ),
        pytest.param("cidrLimit: many", "cidrLimit 'many': is not a whole number", id="a limit in words"),
        pytest.param("masqLinkLocal: 1", "masqLinkLocal '1': is not a boolean", id="a switch of 1"),
        pytest.param(
            "resyncInterval: 60", "resyncInterval '60': is not a string", id="an interval without unit, unquoted"
        ),
        pytest.param("resyncInterval: soon", "resyncInterval 'soon': is not a duration", id="an interval in words"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(ObjectError) as caught:
        decode_ip_masq(config_map(text))
    assert str(caught.value).startswith("ConfigMap kube-system/ip-masq-agent: data.config")
    assert message in str(caught.value)


def test_64_cidrs_are_allowed_and_65_are_not() -> None:
    listed = [f"10.0.{number}.0/24" for number in range(65)]
    assert decode_ip_masq(config_map(f"nonMasqueradeCIDRs: [{', '.join(listed[:64])}]")) is not None
    with pytest.raises(ObjectError, match="more than cidrLimit 64"):
        decode_ip_masq(config_map(f"nonMasqueradeCIDRs: [{', '.join(listed)}]"))


@pytest.mark.parametrize(("namespace", "name"), [("kube-system", "other"), ("shop", "ip-masq-agent")])
def test_another_config_map_is_not_read(namespace: str, name: str) -> None:
    assert decode_ip_masq(config_map("a: [", namespace, name)) is None


def test_the_list_follows_from_the_default_and_the_flag() -> None:
    assert IpMasqConfig().listed(all_reserved_ranges=False) == DEFAULT_CIDRS
    assert IpMasqConfig().listed(all_reserved_ranges=True) == DEFAULT_CIDRS + RESERVED_CIDRS
    assert IpMasqConfig((TEN,)).listed(all_reserved_ranges=True) == (TEN,)


def test_link_local_is_kept_by_its_switches() -> None:
    assert IpMasqConfig().link_local_kept == LINK_LOCAL
    assert IpMasqConfig((), (True, True)).link_local_kept == ()
    assert IpMasqConfig((), (True, False)).link_local_kept == (LINK_LOCAL[1],)


@pytest.mark.parametrize("config", ["!!bool x", "!!int ''", "!!timestamp x", "2001-99-99", "0x_"])
def test_yaml_that_its_library_stumbles_over_is_an_error_that_names_the_field(config: str) -> None:
    document = {"metadata": {"namespace": "kube-system", "name": "ip-masq-agent"}, "data": {"config": config}}
    with pytest.raises(ObjectError) as raised:
        decode_ip_masq(document)
    assert raised.value.problem.field == "data.config"
