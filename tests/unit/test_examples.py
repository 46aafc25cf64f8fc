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
    assert read(name).index.active


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
