"""Which families are filtered on a bridge, and how bridges are named in messages."""

from __future__ import annotations

import pytest

from nfagent.kernel.bridges import describe_bridges, filtered_families
from nfagent.model.netaddr import Family
from nfagent.netlink.rtnl_link import Interface


@pytest.mark.parametrize(
    ("own", "switches", "families"),
    [
        ((), {4: "1", 6: "1"}, (4, 6)),
        ((), {4: "1", 6: "0"}, (4,)),
        ((), {4: "0", 6: "0"}, ()),
        ((6,), {4: "0", 6: "0"}, (6,)),
        ((4, 6), {4: None, 6: None}, ()),
        ((), {4: "1", 6: None}, (4,)),
    ],
    ids=[
        "both families are switched on",
        "one family is switched on",
        "both families are switched off",
        "the bridge switches one on for itself",
        "without the module a bridge's own option has no effect",
        "a kernel without IPv6 has no switch for it",
    ],
)
def test_a_bridge_is_filtered_where(
    own: tuple[Family, ...], switches: dict[Family, str | None], families: tuple[Family, ...]
) -> None:
    assert filtered_families(Interface(7, "cbr0", "bridge", nf_call=own), switches) == families


def test_bridges_are_named_each_with_its_families() -> None:
    assert (
        describe_bridges({("docker0", 4), ("cbr0", 6), ("cbr0", 4)})
        == "bridge cbr0 (IPv4, IPv6), bridge docker0 (IPv4)"
    )
