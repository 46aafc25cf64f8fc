"""The JSON of every view of `nfagent dump`, byte for byte: keys, their order, and values.

Programs read this output. A change of these files is a change for users and belongs in CHANGELOG.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from nfagent.errors import ValidationIssue
from nfagent.introspection.chunks import encoded, whole
from nfagent.introspection.diff_report import diff_parts
from nfagent.introspection.freshness import Freshness, StaleResource
from nfagent.introspection.view_filter import ViewFilter
from nfagent.introspection.views import annotation, counters_view, policies_parts, ruleset_parts, state_parts
from nfagent.nftables.parse import CounterValue
from tests.support.two_node_cluster import TwoNodeCluster
from tests.unit.introspection.test_views import DOCUMENTS, EGRESS, FLOOR, GUARD, HELD, PROBLEM, changed

FOLDER = Path(__file__).parent / "view_bytes"
FRESHNESS = Freshness(
    stale=(StaleResource(("Pod", "Node"), "2024-05-06T07:08:09Z", 720.0, "connection refused"),),
    refused="Operation not permitted",
)
UNREAD = Freshness(unread=("Pod",), trouble="connection refused")
ALL = ViewFilter()
OTHER_PROBLEM = ValidationIssue(reason="is not YAML", place="g.yaml")


def views() -> dict[str, object]:
    """Return every view of a cluster that has each kind of object, by the name of its file."""
    desired = TwoNodeCluster(*DOCUMENTS, *EGRESS, GUARD, FLOOR).views["a"]
    problems = (PROBLEM, OTHER_PROBLEM)
    names = sorted(desired.ruleset().counters)
    counted = {name: CounterValue(number, 60 * number) for number, name in enumerate(names)}
    return {
        "state": state_parts(desired, ALL, problems),
        "state_summary": state_parts(desired, ViewFilter(form="summary"), problems, FRESHNESS),
        "state_pod": state_parts(desired, ViewFilter(pod="shop/db"), (), FRESHNESS),
        "state_unread": state_parts(desired, ViewFilter(namespace="none"), (), UNREAD),
        "policies": policies_parts(desired, ALL, problems, FRESHNESS),
        "policies_far_pod": policies_parts(desired, ViewFilter(pod="shop/far"), ()),
        "policies_none": policies_parts(desired, ViewFilter(namespace="none"), (), UNREAD),
        "ruleset": ruleset_parts(HELD, annotation(desired)),
        "ruleset_text": ruleset_parts(HELD, None, ViewFilter(form="text"), FRESHNESS),
        "ruleset_nft": ruleset_parts(HELD, None, ViewFilter(form="nft")),
        "ruleset_objects": ruleset_parts(HELD, None, ViewFilter(form="objects")),
        "diff": diff_parts(changed(maps={}), HELD, FRESHNESS),
        "diff_equal": diff_parts(HELD, HELD),
        "counters": counters_view(desired, counted, ALL),
        "counters_none": counters_view(desired, {}, ViewFilter(pod="shop/db"), FRESHNESS),
    }


@pytest.mark.parametrize("name", views())
def test_the_json_of_a_view_stays_byte_for_byte(name: str) -> None:
    written = b"".join(encoded(views()[name])) + b"\n"
    path = FOLDER / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_bytes(written)
    assert written == path.read_bytes()


@pytest.mark.parametrize("name", views())
def test_a_view_made_at_once_is_what_its_json_decodes_to(name: str) -> None:
    made = whole(views()[name])
    assert msgspec.json.decode(msgspec.json.encode(made)) == msgspec.json.decode(b"".join(encoded(views()[name])))
