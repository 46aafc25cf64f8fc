"""The annotation nfagent.io/audit: "true" or "false"; any other value is a problem, and the last good one holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nfagent.decode.admin_policy import decode_admin_policy, decode_baseline_policy, decode_cluster_policy
from nfagent.decode.core import decode_namespace
from nfagent.decode.networkpolicy import decode_network_policy
from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import Policy
from nfagent.model.objects import Namespace
from nfagent.reporting.problems import UNREADABLE, cluster_notices

Document = dict[str, Any]
Audited = Policy | Namespace
ALL: Document = {"namespaces": {}}
ANP: Document = {"priority": 1, "subject": ALL, "ingress": [{"action": "Deny", "from": [ALL]}]}

KINDS: dict[str, tuple[Callable[[Document], Audited], Document]] = {
    "NetworkPolicy": (decode_network_policy, {"podSelector": {}}),
    "AdminNetworkPolicy": (decode_admin_policy, ANP),
    "BaselineAdminNetworkPolicy": (decode_baseline_policy, {key: ANP[key] for key in ("subject", "ingress")}),
    "ClusterNetworkPolicy": (decode_cluster_policy, ANP | {"tier": "Admin"}),
    "Namespace": (decode_namespace, {}),
}
WRONG = ("yes", "True", "", " true", True, False, 1, ["true"], {"true": "true"})


def read(kind: str, annotations: object) -> Audited:
    decode, spec = KINDS[kind]
    return decode({"kind": kind, "metadata": {"name": "default", "annotations": annotations}, "spec": spec})


def is_audited(item: Audited) -> bool:
    return item.audits_policies if isinstance(item, Namespace) else item.audit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("value", "audited"), [("true", True), ("false", False), (None, False)])
def test_a_value_that_is_valid_has_no_problem(kind: str, value: object, *, audited: bool) -> None:
    item = read(kind, {"nfagent.io/audit": value})
    assert (is_audited(item), item.problems) == (audited, ())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", WRONG, ids=map(repr, WRONG))
def test_another_value_is_a_problem_that_says_what_to_write_and_audits_nothing(kind: str, value: object) -> None:
    item = read(kind, {"nfagent.io/audit": value})
    (problem,) = item.problems
    assert not is_audited(item)
    assert problem.object.startswith(kind)
    assert problem.field == "metadata.annotations.nfagent.io/audit"
    assert isinstance(value, list | dict) or value == "" or problem.value
    assert "write one of them in quotes" in problem.reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("annotations", [{"nfagent.io/audit": True}, ["nfagent.io/audit"], "nfagent.io/audit"])
def test_what_cannot_be_read_keeps_the_last_good_value_and_the_object_is_reported(
    kind: str, annotations: object
) -> None:
    state = DesiredState("a")
    state.put(read(kind, {"nfagent.io/audit": "true"}))
    item = read(kind, annotations)
    state.put(item)
    held = state.find(item.ref)
    assert isinstance(held, Namespace | Policy)
    assert is_audited(held)
    (notice,) = cluster_notices({item.ref: item.problems}, {item.ref: held}, None)
    assert notice.reason == UNREADABLE
    assert notice.message.startswith("Part of the object can't be read: metadata.annotations")
    state.put(read(kind, {"nfagent.io/audit": "false"}))
    ended = state.find(item.ref)
    assert isinstance(ended, Namespace | Policy)
    assert not is_audited(ended)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Namespace"])
def test_a_policy_whose_annotation_cannot_be_read_keeps_its_rules(kind: str) -> None:
    good, bad = read(kind, {}), read(kind, {"nfagent.io/audit": "yes"})
    assert not isinstance(good, Namespace)
    assert not isinstance(bad, Namespace)
    assert (bad.problem, bad.ingress, bad.egress) == (None, good.ingress, good.egress)
