from __future__ import annotations

import re

import pytest

from nfagent.cluster.address import parse_cidr
from nfagent.cluster.model import Ref
from nfagent.policy.compile import Blocks, ClassKey, NamedPorts
from nfagent.policy.model import PodPeer, Requirement, Selector
from nfagent.ruleset import names

LONGEST_NAMESPACE, LONGEST_NAME = "n" * 63, "p" * 253


def refs(namespace: str, *policies: str) -> tuple[Ref, ...]:
    return tuple(Ref("NetworkPolicy", namespace, name) for name in policies)


def test_20_namespace_and_policy_never_run_together() -> None:
    chains = {
        names.class_chain(ClassKey("ingress", refs("a", "bc"))),
        names.class_chain(ClassKey("ingress", refs("ab", "c"))),
        names.class_chain(ClassKey("ingress", refs("a", "b-c"))),
        names.class_chain(ClassKey("ingress", refs("a", "b", "c"))),
        names.class_chain(ClassKey("ingress", refs("a", "b.c"))),
        names.class_chain(ClassKey("egress", refs("a", "bc"))),
    }
    assert len(chains) == 6


def test_names_read_as_what_they_are() -> None:
    key = ClassKey("ingress", refs("shop", "db", "default-deny"))
    assert names.class_chain(key) == "ingress/shop/db_default-deny"
    assert names.deny_counter(key) == "deny/ingress/shop/db_default-deny"
    assert names.allow_chain("egress", refs("shop", "db")[0]) == "allow/egress/shop/db"
    assert names.log_prefix("deny", "ingress", refs("shop", "db", "x")) == "deny ingress shop/db_x"


@pytest.mark.parametrize("policies", [1, 2, 50])
def test_21_the_longest_names_fit_and_stay_apart(policies: int) -> None:
    some = refs(LONGEST_NAMESPACE, *(f"{number:03}{LONGEST_NAME[3:]}" for number in range(policies)))
    other = refs(LONGEST_NAMESPACE, *(f"{number:03}{LONGEST_NAME[4:]}q" for number in range(policies)))
    for key in (ClassKey("egress", some), ClassKey("ingress", some)):
        assert len(names.class_chain(key)) <= 255
        assert len(names.deny_counter(key)) <= 255
    assert len(names.log_prefix("allow", "ingress", some)) <= 127
    assert names.policies_name(some) != names.policies_name(other)
    assert names.policies_name(some).startswith(f"{LONGEST_NAMESPACE}/")


@pytest.mark.parametrize("name", ["fwd", "drop", "ip", "chain", "0"])
def test_21_names_that_are_keywords_never_stand_alone(name: str) -> None:
    key = ClassKey("ingress", refs(name, name))
    for made in (names.class_chain(key), names.deny_counter(key), names.allow_chain("ingress", key.policies[0])):
        assert re.match(r"(ingress|deny|allow)/", made)


@pytest.mark.parametrize(
    ("words", "comment"),
    [
        pytest.param('pods a="b"', "pods a='b'", id="quotes are made single"),
        pytest.param("x" * 127, "x" * 127, id="127 bytes stay as they are"),
        pytest.param("x" * 128, "x" * 124 + "...", id="[21] 128 bytes are cut"),
        pytest.param("ü" * 64, "ü" * 62 + "...", id="never within a character"),
    ],
)
def test_comment(words: str, comment: str) -> None:
    assert names.comment(words) == comment
    assert len(comment.encode()) <= 127


def test_equal_contents_share_a_name_and_others_do_not() -> None:
    web = Selector((Requirement("app", "In", ("web",)),))
    ten, eleven = parse_cidr("10.0.0.0/8"), parse_cidr("11.0.0.0/8")
    contents: list[PodPeer | Blocks | NamedPorts] = [
        PodPeer(web, namespace="shop"),
        PodPeer(web, namespace="ops"),
        PodPeer(web, namespaces=Selector()),
        PodPeer(Selector(), namespaces=web),
        Blocks((ten,), "10.0.0.0/8"),
        Blocks((eleven,), "11.0.0.0/8"),
        NamedPorts("http", "tcp", None, local=True),
        NamedPorts("http", "udp", None, local=True),
        NamedPorts("http", "tcp", None, local=False),
        NamedPorts("http", "tcp", PodPeer(web, namespace="shop"), local=False),
    ]
    assert len({names.content_name(content, 4) for content in contents}) == len(contents)
    assert names.content_name(PodPeer(web, namespace="shop"), 4) == names.content_name(contents[0], 4)
    assert names.content_name(contents[0], 4) != names.content_name(contents[0], 6)
