"""The ip-masq-agent configuration, decoded as ip-masq-agent does."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from nfagent.decode.ip_masq import decode_ip_masq
from nfagent.errors import ObjectError
from nfagent.model.ip_masq import DEFAULT_CIDRS, LINK_LOCAL, RESERVED_CIDRS, IpMasqConfig
from nfagent.model.netaddr import parse_cidr
from nfagent.state.egress import EgressState

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
        pytest.param("resyncInterval: +.5s", IpMasqConfig(None), id="an interval with a sign, without a digit"),
        pytest.param('resyncInterval: "1\\u03bcs"', IpMasqConfig(None), id="microseconds with the Greek letter"),
        pytest.param("nonMasqueradeCidrs: [10.0.0.0/8]", IpMasqConfig((TEN,)), id="the list in other letter case"),
        pytest.param(
            "masqlinklocal: true\nMASQLINKLOCALIPV6: true",
            IpMasqConfig(None, (True, True)),
            id="switches in other case",
        ),
        pytest.param("NONMASQUERADECIDRS: []", IpMasqConfig(()), id="an empty list in other letter case"),
        pytest.param("masqueradeCIDRs: [10.0.0.0/8]", IpMasqConfig(translated=(TEN,)), id="the inverse list"),
        pytest.param("masqueradeCIDRs: []", IpMasqConfig(translated=()), id="an empty inverse list"),
        pytest.param("MASQUERADECIDRS: []", IpMasqConfig(translated=()), id="the inverse list in other letter case"),
        pytest.param("nonMasqueradeCIDRs: [010.0.0.0/08]", IpMasqConfig((TEN,)), id="leading zeros are decimal"),
    ],
)
def test_reads(text: str | None, config: IpMasqConfig) -> None:
    assert decode_ip_masq(config_map(text)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: [", "data.config: is neither YAML nor JSON at its line 2: while parsing", id="broken YAML"),
        pytest.param("a: .nan", "at its line 1: '.nan' is not a JSON number", id="not a number"),
        pytest.param("a: 1\n---\nb: 1", "data.config: has a second document at its line 3", id="two documents"),
        pytest.param(
            f"nonMasqueradeCIDRs: [{'a' * 70_000}]",
            "data.config: has more than 64 KiB; give the list",
            id="a long text",
        ),
        pytest.param(
            f"nonMasqueradeCIDRs: [{'a,' * 3000}]", "at its line 1: holds more than 1100 values", id="many values"
        ),
        pytest.param(
            "a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c]",
            "at its line 4: its aliases stand for too many values",
            id="aliases of aliases",
        ),
        pytest.param("a: &a [*a]", "at its line 1: the value of anchor &a contains itself", id="a circle"),
        pytest.param("- a", "data.config: is not a mapping", id="a list"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(ObjectError) as caught:
        decode_ip_masq(config_map(text))
    assert str(caught.value).startswith("ConfigMap kube-system/ip-masq-agent: data.config")
    assert message in str(caught.value)


LISTED = "nonMasqueradeCIDRs: [203.0.113.0/24]\nmasqLinkLocal: true\n"
BEFORE = IpMasqConfig((TEN,), (False, True))


class Unread(NamedTuple):
    """A configuration with one key that can't be read: what is said, and what holds without and after BEFORE."""

    text: str
    message: str
    config: IpMasqConfig
    after: IpMasqConfig


READABLE = IpMasqConfig((parse_cidr("203.0.113.0/24"),), (True, False))
DEFAULT_LIST, OLD_LIST = IpMasqConfig(None, (True, False)), IpMasqConfig((TEN,), (True, False))
UNREAD = {
    "[25] host bits leave the old list, or the default one": Unread(
        "nonMasqueradeCIDRs: [10.1.0.0/8]\nmasqLinkLocal: true",
        "nonMasqueradeCIDRs[0] '10.1.0.0/8': has host bits set; write 10.0.0.0/8",
        DEFAULT_LIST,
        OLD_LIST,
    ),
    "what is no CIDR leaves the old list, not a part of the new one": Unread(
        "nonMasqueradeCIDRs: [203.0.113.0/24, x]\nmasqLinkLocal: true",
        "nonMasqueradeCIDRs[1] 'x': is not a CIDR",
        DEFAULT_LIST,
        OLD_LIST,
    ),
    "more CIDRs than the limit leave the old list": Unread(
        "cidrLimit: 1\nnonMasqueradeCIDRs: [10.0.0.0/8, 11.0.0.0/8]\nmasqLinkLocal: true",
        "nonMasqueradeCIDRs: has 2 CIDRs, more than cidrLimit 1",
        DEFAULT_LIST,
        OLD_LIST,
    ),
    "one CIDR may be too many": Unread(
        "cidrLimit: 0\nnonMasqueradeCIDRs: [10.0.0.0/8]\nmasqLinkLocal: true",
        "nonMasqueradeCIDRs: has 1 CIDR, more than cidrLimit 0",
        DEFAULT_LIST,
        OLD_LIST,
    ),
    "a list in other letter case is named as it is written": Unread(
        "nonmasqueradecidrs: [x]\nmasqLinkLocal: true",
        "nonmasqueradecidrs[0] 'x': is not a CIDR",
        DEFAULT_LIST,
        OLD_LIST,
    ),
    "a limit in words leaves the list": Unread(
        f"{LISTED}cidrLimit: many", "cidrLimit 'many': is not a whole number", READABLE, READABLE
    ),
    "an interval in words leaves the list": Unread(
        f"{LISTED}resyncInterval: soon", "resyncInterval 'soon': is not a duration", READABLE, READABLE
    ),
    "an interval without unit, unquoted, leaves the list": Unread(
        f"{LISTED}resyncInterval: 60", "resyncInterval '60': is not a string", READABLE, READABLE
    ),
    "a switch of 1 leaves the list and the other switch": Unread(
        f"{LISTED}masqLinkLocalIPv6: 1",
        "masqLinkLocalIPv6 '1': is not a boolean",
        READABLE,
        IpMasqConfig(READABLE.cidrs, (True, True)),
    ),
    "an unknown key is said, and the list holds": Unread(
        f"{LISTED}list: x", "list 'x': is not read; the keys are nonMasq", READABLE, READABLE
    ),
    "a list whose key is misspelt leaves the old list, or the default one": Unread(
        "nonMasqCIDRs: [203.0.113.0/24]\nmasqLinkLocal: true",
        "nonMasqCIDRs: is not read; the keys are nonMasq",
        DEFAULT_LIST,
        OLD_LIST,
    ),
    "a switch whose key is misspelt leaves the old one": Unread(
        "nonMasqueradeCIDRs: [203.0.113.0/24]\nmasqLinklocals: true",
        "masqLinklocals 'True': is not read; the keys are nonMasq",
        IpMasqConfig(READABLE.cidrs, (False, False)),
        IpMasqConfig(READABLE.cidrs, (False, True)),
    ),
    "an inverse list that can't be read leaves the list and the old inverse list": Unread(
        f"{LISTED}masqueradeCIDRs: [10.1.0.0/8]", "masqueradeCIDRs[0] '10.1.0.0/8': has host bits", READABLE, READABLE
    ),
    "a null inverse list isn't one that masquerades nothing": Unread(
        f"{LISTED}masqueradeCIDRs:", "masqueradeCIDRs: is null; write []", READABLE, READABLE
    ),
    "a key that is a number is said, and the list holds": Unread(
        f"{LISTED}1: x", "data.config.1 'x': is not read; the keys are nonMasq", READABLE, READABLE
    ),
    "of a key in two spellings ours holds": Unread(
        f"nonmasqueradecidrs: []\n{LISTED}",
        "nonmasqueradecidrs: is nonMasqueradeCIDRs in other letter case, which is used; delete one of the two",
        READABLE,
        READABLE,
    ),
}


@pytest.mark.parametrize("case", UNREAD.values(), ids=UNREAD)
def test_a_key_that_cannot_be_read_takes_no_other_along(case: Unread) -> None:
    found = decode_ip_masq(config_map(case.text))
    assert found is not None
    (said,) = map(str, found.problems)
    assert said.startswith("ConfigMap kube-system/ip-masq-agent: data.config")
    assert case.message in said
    state = EgressState()
    for before, expected in ((None, case.config), (BEFORE, case.after)):
        if before is not None:
            state.put(before)
        state.put(found)
        assert state.ip_masq is not None
        assert (state.ip_masq.cidrs, state.ip_masq.link_local) == (expected.cidrs, expected.link_local)


@pytest.mark.parametrize("data", ["data", "binaryData"])
def test_a_config_map_without_the_key_that_is_read_leaves_what_was_read_before(data: str) -> None:
    document = config_map(None)
    document.pop("data", None)
    found = decode_ip_masq({**document, data: {"other": "bm9u"}})
    assert found is not None
    assert found.problems
    kept = found.with_last_good(BEFORE)
    assert (kept.cidrs, kept.link_local) == (BEFORE.cidrs, BEFORE.link_local)
    assert found.cidrs is None


def test_more_unknown_keys_than_are_compared_leave_what_was_read_before() -> None:
    found = decode_ip_masq(config_map("".join(f"key-{number}: x\n" for number in range(400))))
    assert found is not None
    kept = found.with_last_good(BEFORE)
    assert (kept.cidrs, kept.link_local) == (BEFORE.cidrs, BEFORE.link_local)


def test_a_word_of_sixty_fields_is_text_not_a_sexagesimal_number() -> None:
    found = decode_ip_masq(config_map(f"cidrLimit: 1{':30' * 20_000}"))
    assert found is not None
    assert "is not a whole number" in str(found.problems[0])


def test_a_config_map_without_the_key_that_is_read_says_so() -> None:
    found = decode_ip_masq({**config_map(None), "data": {"Config": "nonMasqueradeCIDRs: []"}})
    assert found is not None
    assert found.cidrs is None
    assert [problem.reason for problem in found.problems] == [
        "has no key config, the only one that is read; write the configuration there"
    ]


def test_64_cidrs_are_allowed_and_65_are_not() -> None:
    listed = [f"10.0.{number}.0/24" for number in range(65)]
    allowed, refused = (decode_ip_masq(config_map(f"nonMasqueradeCIDRs: {listed[:most]}")) for most in (64, 65))
    assert allowed is not None
    assert refused is not None
    assert (allowed.problems, len(refused.problems)) == ((), 1)
    assert "more than cidrLimit 64" in refused.problems[0].reason


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
