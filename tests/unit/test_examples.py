"""The examples of README: they are valid, and have the verdicts that README describes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfagent.desired.state import DesiredState
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.explain.explanation import explain
from nfagent.manifests.snapshot import read_state

EXAMPLES = Path(__file__).parents[2] / "examples"


def read(name: str) -> DesiredState:
    desired, problems = read_state(EXAMPLES / name, "node-b", MasqueradeSettings(), 100)
    assert problems == ()
    return desired


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()))
def test_an_example_is_valid_and_has_policies_for_its_node(name: str) -> None:
    desired = read(name)
    assert desired.index.active or desired.egress.policies


@pytest.mark.parametrize(
    ("source", "destination", "allowed", "decisive"),
    [
        pytest.param(
            "ops/prometheus", "shop/db:metrics", True, '"monitoring" allows', id="monitoring passes the admin tier"
        ),
        pytest.param(
            "guest/visitor", "svc/shop/db:sql", False, '"guests stay with guests" denies', id="guests are stopped there"
        ),
        pytest.param(
            "shop/api",
            "svc/shop/db:3306",
            True,
            "NetworkPolicy shop/db isolates",
            id="the Namespace decides for its own",
        ),
        pytest.param(
            "shop/api",
            "ops/prometheus:9090",
            False,
            '"no other client" denies',
            id="the baseline where no policy isolates",
        ),
        pytest.param("shop/api", "169.254.169.254:80", False, '"no metadata service" denies', id="no metadata service"),
    ],
)
def test_the_tiers_example_is_decided_tier_by_tier(
    source: str,
    destination: str,
    allowed: bool,  # noqa: FBT001 - a table's column
    decisive: str,
) -> None:
    desired = read("tiers")
    found = explain(desired.cluster, desired.index, source, destination, desired.policy_options)
    assert found.allowed is allowed
    assert any(decisive in line and line.endswith("matches") for line in found.lines)


@pytest.mark.parametrize(
    ("source", "destination", "seen_as", "reason"),
    [
        pytest.param("payments/ledger", "203.0.113.10", "10.64.0.10", "partner has NoSNAT", id="its sources select it"),
        pytest.param("payments/report", "203.0.113.10", "192.0.2.1", "no policy and no list", id="they don't"),
        pytest.param("payments/ledger", "203.0.113.200", "192.0.2.1", "partner-gateway has SNAT", id="longest prefix"),
        pytest.param("payments/ledger", "10.200.0.5", "10.64.0.10", "default has NoSNAT", id="the base"),
        pytest.param("web/shop", "10.200.0.5", "192.0.2.2", "class-e has SNAT", id="class E by Namespace"),
        pytest.param("web/shop", "10.96.0.99", "240.64.1.10", "is in the cluster", id="a Service's range"),
    ],
)
def test_the_egress_nat_example_is_translated_as_its_comments_say(
    source: str, destination: str, seen_as: str, reason: str
) -> None:
    desired = read("egress-nat")
    found = explain(desired.cluster, desired.index, source, destination, translate=desired.translation).translation
    assert found is not None
    assert (found.seen_as, reason in found.words) == ((seen_as,), True)
