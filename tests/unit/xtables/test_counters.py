"""Which objects of iptables count for nftables' counters."""

from __future__ import annotations

from nfagent.model.netaddr import FAMILIES
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.pod_counts import COUNTED_SETS, count_shapes
from nfagent.xtables.counters import counter_accounts, counters_by_account, counting_set
from nfagent.xtables.names import ACCOUNT_BYTES
from nfagent.xtables.set_parts import parts_of

LONG = "deny/ingress/team/a-policy-with-a-name-that-fits-nowhere"


def test_a_counter_has_one_account_for_each_family_also_where_no_rule_counts_with_it() -> None:
    accounts = counter_accounts(Ruleset(counters=frozenset(("drop/spoofed", LONG))))
    assert len(accounts) == 4
    assert max(map(len, accounts)) <= ACCOUNT_BYTES
    assert counter_accounts(Ruleset(counters=frozenset((LONG,))), (4,)) < accounts


def test_accounts_are_told_apart_by_the_names_of_the_counters() -> None:
    counters = [LONG, f"{LONG}-2", "drop/spoofed"]
    accounts = counters_by_account(counters)
    assert len(accounts) == len(counters) * len(FAMILIES)
    assert set(accounts.values()) == set(counters)
    assert accounts.keys() == counter_accounts(Ruleset(counters=frozenset(counters)))


def test_the_members_of_a_set_that_counts_are_read_from_the_set_that_it_becomes() -> None:
    found = {name: parts_of(name, shape) for name, shape in count_shapes()}
    assert found.keys() == COUNTED_SETS
    assert {name: [part.name for part in parts] for name, parts in found.items()} == {
        name: [counting_set(name)] for name in COUNTED_SETS
    }
    assert all(part.shape.counters for parts in found.values() for part in parts)
