from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.netaddr import FAMILIES
from nfagent.xtables.names import (
    ACCOUNT_BYTES,
    CHAIN_BYTES,
    LOG_PREFIX_BYTES,
    SET_BYTES,
    account_name,
    chain_name,
    log_prefix,
    set_name,
    temporary,
)

LONG = "ingress/" + "n" * 63 + "/" + "p" * 200
NAMES = st.text(max_size=60) | st.sampled_from([LONG, LONG + "x", "egress4", "egress/", "/", ""])


@given(NAMES, st.sampled_from(FAMILIES), NAMES)
def test_every_name_fits_and_is_one_word_of_plain_characters(origin: str, family: int, part: str) -> None:
    found = {
        set_name(origin, family, part): SET_BYTES,  # type: ignore[arg-type]
        temporary(set_name(origin, family, part)): SET_BYTES,  # type: ignore[arg-type]
        chain_name(origin, "reply", part): CHAIN_BYTES,
        account_name(origin, family): ACCOUNT_BYTES,  # type: ignore[arg-type]
    }
    for name, longest in found.items():
        assert len(name.encode()) <= longest
        assert name.isascii()
        assert name.replace("-", "").isalnum()


@given(st.lists(st.tuples(NAMES, st.sampled_from(FAMILIES), NAMES), unique=True, max_size=8))
def test_two_objects_have_two_names(objects: list[tuple[str, int, str]]) -> None:
    assert len({set_name(*item) for item in objects}) == len(objects)  # type: ignore[arg-type]


def test_a_name_begins_with_what_fits_of_the_nftables_name() -> None:
    assert set_name("podlinks", 4).startswith("nfa-podlinks-")
    assert chain_name("ingress/shop/db").startswith("nfa-ingress-")


def test_chains_of_both_directions_are_two() -> None:
    assert chain_name("ingress/shop/db") != chain_name("ingress/shop/db", "reply")


@pytest.mark.parametrize(
    "prefix", [pytest.param("deny ingress shop/db", id="a short one"), pytest.param("x" * 63, id="one of 63 bytes")]
)
def test_a_log_prefix_that_fits_stays(prefix: str) -> None:
    assert log_prefix(prefix) == prefix


def test_long_log_prefixes_are_cut_and_differ_by_their_digests() -> None:
    one, other = log_prefix("deny ingress shop/" + "p" * 100), log_prefix("deny ingress shop/" + "p" * 101)
    assert one != other
    assert {len(one), len(other)} == {LOG_PREFIX_BYTES}
    assert one.startswith("deny ingress shop/p")
