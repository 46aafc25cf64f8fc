"""Verdict keys of deleted rules are kept for a while: the latest ones, in bounded number."""

from __future__ import annotations

import pytest

from nfagent.model.objects import ObjectRef
from nfagent.nftables.verdict_keys import (
    VerdictKey,
    VerdictKeys,
    allowed_by,
    audit_denied_by,
    denied_by,
    key_of_counter,
)


def denial(number: int, policies: int) -> VerdictKey:
    return denied_by(
        "ingress", tuple(ObjectRef("NetworkPolicy", "shop", f"p{number}-{each}") for each in range(policies))
    )


@pytest.mark.parametrize(
    ("policies", "known"),
    [
        pytest.param(1, 1024, id="of one policy each, the latest thousand"),
        pytest.param(1_000, 16, id="of a thousand policies each, as many as name sixteen thousand"),
        pytest.param(20_000, 1, id="of more than that, the latest one"),
    ],
)
def test_the_latest_retired_keys_are_kept(policies: int, known: int) -> None:
    origins = VerdictKeys()
    gone = [denial(number, policies) for number in range(known + 5)]
    for origin in gone:
        origins.add(origin)
        origins.retire(origin)
    found = [origins.get(origin.prefix) for origin in gone]
    assert found == [*[None] * 5, *gone[5:]]


def test_a_key_that_is_retired_again_counts_once() -> None:
    origins = VerdictKeys()
    again = denial(0, 9_000)
    for origin in (again, denial(1, 5), again, again):
        origins.add(origin)
        origins.retire(origin)
    assert origins.get(denial(1, 5).prefix) == denial(1, 5)
    assert origins.get(again.prefix) == again


def test_the_keys_of_the_first_retirements_are_forgotten() -> None:
    keys = VerdictKeys(lambda prefix: f"cut {prefix}")
    first, again, last = (denial(number, 1) for number in range(3))
    for key in (first, again, last, again):
        keys.add(key)
        keys.retire(key)
    keys.forget_retired(3)
    assert keys.retirements == 4
    assert [keys.get(key.prefix) for key in (first, again, last)] == [None, again, None]
    assert [keys.whole(f"cut {key.prefix}") for key in (first, again)] == [None, again.prefix]


def test_a_key_in_use_again_is_not_forgotten() -> None:
    keys = VerdictKeys()
    key = denial(0, 1)
    keys.add(key)
    keys.retire(key)
    keys.add(key)
    keys.forget_retired(1)
    assert keys.get(key.prefix) == key


def test_a_cut_prefix_is_known_for_as_long_as_its_key() -> None:
    keys = VerdictKeys(lambda prefix: f"cut {prefix}")
    key, others = denial(0, 1), [denial(number, 1) for number in range(1, 1100)]
    written = [f"cut {key.prefix}", f"cut {key.reply_prefix}"]
    for _ in range(2):
        keys.add(key)
        keys.retire(key)
        assert [keys.whole(each) for each in written] == [key.prefix, key.reply_prefix]
    for other in others:
        keys.add(other)
        keys.retire(other)
    assert keys.get(key.prefix) is None
    assert [keys.whole(each) for each in written] == [None] * len(written)


def refs(kind: str, namespace: str, *names: str) -> tuple[ObjectRef, ...]:
    return tuple(ObjectRef(kind, namespace, name) for name in names)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(
            denied_by("ingress", refs("NetworkPolicy", "shop", "db", "default-deny")), id="two NetworkPolicies"
        ),
        pytest.param(allowed_by("egress", refs("NetworkPolicy", "shop", "a.b")), id="a name with a dot"),
        pytest.param(
            audit_denied_by("egress", refs("AdminNetworkPolicy", "", "guard.x", "y")), id="policies of a tier"
        ),
        pytest.param(allowed_by("ingress", refs("BaselineAdminNetworkPolicy", "", "default")), id="the baseline"),
    ],
)
def test_a_counters_name_tells_its_key(key: VerdictKey) -> None:
    assert key_of_counter(key.name) == key


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(denial(1, 30).name, id="too long, with a digest"),
        pytest.param("drop/spoofed", id="a reason"),
        pytest.param("deny/ingress/xyz.name", id="a kind that isn't known"),
        pytest.param("deny/sideways/shop/db", id="a direction that isn't known"),
        pytest.param("deny/ingress/shop/", id="no policy"),
        pytest.param("deny/ingress//db", id="no namespace"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_name_that_does_not_tell_a_key_has_none(name: str) -> None:
    assert key_of_counter(name) is None
