"""Names for the completion of shells: by prefix, namespaces first where several fit."""

from __future__ import annotations

import pytest

from nfagent.introspection.names_route import find_names
from tests.support.steps import finished

PODS = [("shop", "web"), ("shop", "db"), ("shop-test", "web"), ("kube-system", "dns")]


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("", ["kube-system/", "shop-test/", "shop/"]),
        ("sh", ["shop-test/", "shop/"]),
        ("kube", ["kube-system/dns"]),
        ("shop/", ["shop/db", "shop/web"]),
        ("shop/w", ["shop/web"]),
        ("x", []),
    ],
    ids=["nothing yet", "several namespaces", "one namespace", "its Pods", "one Pod", "nothing fits"],
)
def test_names_begin_with_the_prefix(prefix: str, names: list[str]) -> None:
    assert finished(find_names(PODS, prefix)) == names


def test_objects_without_a_namespace_are_listed_beside_the_namespaces() -> None:
    policies = [("", "anp"), ("shop", "db"), ("test", "db")]
    assert finished(find_names(policies, "")) == ["anp", "shop/", "test/"]
    assert finished(find_names([("", "anp"), ("", "annex"), ("shop", "db")], "an")) == ["annex", "anp"]


def test_an_answer_is_bounded_and_made_in_steps() -> None:
    many = [("shop", f"web-{number:05}") for number in range(10_000)]
    steps = sum(1 for _ in find_names(many, ""))
    assert steps == 10
    assert finished(find_names(many, "")) == [f"shop/web-{number:05}" for number in range(1000)]
