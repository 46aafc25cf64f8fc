"""Verdict keys of deleted rules are kept for a while: the latest ones, in bounded number."""

from __future__ import annotations

import pytest

from nfagent.model.objects import ObjectRef
from nfagent.nftables.verdict_keys import VerdictKey, VerdictKeys, denied_by


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
