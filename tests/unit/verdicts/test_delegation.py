"""Delegation: records only where annotated NetworkPolicies allow, or Pods of annotated Namespaces are denied."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from nfagent.clock import SystemClock
from nfagent.model.objects import ObjectRef
from nfagent.netlink.nflog import LoggedPacket
from nfagent.nftables.verdict_keys import VerdictKey, allowed_by, denied_by
from nfagent.verdicts.attribution import Attributor
from nfagent.verdicts.delegation import Delegation
from nfagent.verdicts.history import ObjectHistory
from nfagent.verdicts.rate_limit import RecordLimits
from nfagent.verdicts.record_stream import RecordStream
from nfagent.verdicts.records import Record, decode
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, namespace, pod, policy, tier_policy
from tests.unit.verdicts.test_attribution import DB, NOW, OUTSIDE, TCP, WEB, logged, packet, ports

ALLOW, DENY = "policy.network.gke.io/enable-logging", "policy.network.gke.io/enable-deny-logging"
FROM_WEB = policy(
    "shop/from-web", labelled(app="db"), ingress=[{"from": [{"podSelector": labelled(app="web")}]}], types=["Ingress"]
)
ON_5432 = policy("shop/on-5432", labelled(app="db"), ingress=[{"ports": [{"port": 5432}]}], types=["Ingress"])
OUT = policy("web/out", types=["Egress"])
GUARD = tier_policy("AdminNetworkPolicy", "guard", {"namespaces": {}}, priority=1)
FROM_WEB_REF, ON_5432_REF, OUT_REF = (
    ObjectRef("NetworkPolicy", *path.split("/")) for path in ("shop/from-web", "shop/on-5432", "web/out")
)
GUARD_REF = ObjectRef("AdminNetworkPolicy", "", "guard")


def logging(*, allow: bool, deny: bool) -> Document:
    cluster = {"allow": {"log": True, "delegate": allow}, "deny": {"log": True, "delegate": deny}}
    return {"kind": "NetworkLogging", "metadata": {"name": "default"}, "spec": {"cluster": cluster}}


def annotated(document: Document, key: str, value: object = "true") -> Document:
    return {**document, "metadata": {**document["metadata"], "annotations": {key: value}}}


class Log:
    """A node's records of single packets."""

    def __init__(self, *documents: Document, limits: RecordLimits | None = None) -> None:
        self.scene = TwoNodeCluster(
            *(
                namespace("shop"),
                namespace("web"),
                pod("web/web", "a", 10, app="web"),
                pod("shop/db", "a", 20, app="db"),
            ),
            *(FROM_WEB, ON_5432, OUT, GUARD, *documents),
        )
        view, limits = self.scene.views["a"], limits or RecordLimits(aggregation_seconds=0)
        self._written: list[Record] = []
        self.history = ObjectHistory(view, lambda: NOW)
        attributor, delegation = Attributor(view, self.history), Delegation(view, self.history)
        self.stream = RecordStream(attributor, limits, SystemClock(), self._write, delegation)

    def _write(self, lines: Sequence[bytes]) -> None:
        self._written += map(decode, lines)

    def add(self, *packets: LoggedPacket) -> list[Record]:
        """Return the records of packets, those that wait included."""
        del self._written[:]
        self.stream.add(packets)
        self.stream.finish()
        return list(self._written)


def allowed(port: int = 5432) -> LoggedPacket:
    return logged(allowed_by("ingress", (FROM_WEB_REF,)).prefix, packet(WEB, DB, TCP, ports(1, port)))


def denied(key: VerdictKey, source: str = OUTSIDE, destination: str = DB) -> LoggedPacket:
    return logged(key.prefix, packet(source, destination, TCP, ports(1, 80)))


def names(records: list[Record]) -> list[list[str]]:
    return [[name.name for name in record.policies] for record in records]


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param([FROM_WEB, ON_5432], [], id="no record where none of the policies that allow is annotated"),
        pytest.param([annotated(FROM_WEB, ALLOW), ON_5432], [["from-web"]], id="a record names the annotated policy"),
        pytest.param(
            [FROM_WEB, annotated(ON_5432, ALLOW)], [["on-5432"]], id="a policy counts whose rule didn't come first"
        ),
        pytest.param(
            [annotated(FROM_WEB, ALLOW), annotated(ON_5432, ALLOW)], [["from-web", "on-5432"]], id="both are named"
        ),
        pytest.param([annotated(FROM_WEB, ALLOW, "True"), ON_5432], [], id="another spelling is no annotation"),
        pytest.param([annotated(FROM_WEB, ALLOW, value=True), ON_5432], [], id="a boolean is no annotation"),
        pytest.param([annotated(FROM_WEB, DENY), ON_5432], [], id="the Namespaces' annotation says nothing here"),
    ],
)
def test_a_delegated_allow(policies: list[Document], expected: list[list[str]]) -> None:
    log = Log(*policies, logging(allow=True, deny=True))
    assert names(log.add(allowed())) == expected
    assert log.stream.status().not_delegated == ({} if expected else {"allow": 1})


def test_an_allow_of_a_tier_is_never_delegated() -> None:
    log = Log(annotated(GUARD, ALLOW), logging(allow=True, deny=False))
    assert log.add(logged(allowed_by("ingress", (GUARD_REF,)).prefix, packet(WEB, DB, TCP, ports(1, 80)))) == []


DENYING_GUARD = tier_policy(
    "AdminNetworkPolicy",
    "guard",
    {"namespaces": {}},
    priority=1,
    ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}],
    egress=[{"action": "Deny", "to": [{"namespaces": {}}]}],
)
SHOP, WEB_SPACE = annotated(namespace("shop"), DENY), annotated(namespace("web"), DENY)
BY_SHOP, BY_WEB = denied_by("ingress", (FROM_WEB_REF, ON_5432_REF)), denied_by("egress", (OUT_REF,))


@pytest.mark.parametrize(
    ("documents", "dropped", "is_logged"),
    [
        pytest.param([], denied(BY_SHOP), False, id="ingress, no Namespace is annotated"),
        pytest.param([SHOP], denied(BY_SHOP), True, id="ingress, the destination's Namespace is"),
        pytest.param([WEB_SPACE], denied(BY_SHOP, WEB), False, id="ingress, only the source's Namespace is"),
        pytest.param([WEB_SPACE], denied(BY_WEB, WEB), True, id="egress, the source's Namespace is"),
        pytest.param([SHOP], denied(BY_WEB, WEB), False, id="egress, only the destination's Namespace is"),
        pytest.param([SHOP], denied(denied_by("ingress", (GUARD_REF,))), True, id="ingress by a tier, annotated"),
        pytest.param([WEB_SPACE], denied(denied_by("ingress", (GUARD_REF,)), WEB), False, id="ingress by a tier, not"),
        pytest.param([WEB_SPACE], denied(denied_by("egress", (GUARD_REF,)), WEB), True, id="egress by a tier"),
        pytest.param([annotated(namespace("shop"), DENY, "yes")], denied(BY_SHOP), False, id="another value"),
        pytest.param([annotated(namespace("shop"), ALLOW)], denied(BY_SHOP), False, id="the policies' annotation"),
    ],
)
@pytest.mark.parametrize("seconds", [0, 5], ids=["each packet", "aggregated"])
def test_a_delegated_deny(documents: list[Document], dropped: LoggedPacket, *, is_logged: bool, seconds: float) -> None:
    log = Log(
        DENYING_GUARD, logging(allow=True, deny=True), *documents, limits=RecordLimits(aggregation_seconds=seconds)
    )
    records = log.add(dropped, dropped)
    assert sum(record.count for record in records) == (2 if is_logged else 0)
    assert log.stream.status().not_delegated == ({} if is_logged else {"deny": 2})
    assert log.stream.status().unattributed.unknown == 0


def test_without_delegation_annotations_change_nothing() -> None:
    log = Log(annotated(FROM_WEB, ALLOW), logging(allow=False, deny=False))
    assert names(log.add(allowed())) == [["from-web", "on-5432"]]
    assert len(log.add(denied(BY_SHOP))) == 1


def test_each_half_is_delegated_by_itself() -> None:
    log = Log(logging(allow=True, deny=False))
    assert log.add(allowed()) == []
    assert len(log.add(denied(BY_SHOP))) == 1


def test_annotations_and_delegation_take_effect_with_the_next_packet_and_change_no_rule() -> None:
    log = Log(logging(allow=True, deny=True))
    view = log.scene.views["a"]
    view.drain_changes()
    view.clear_recheck(view.recheck_addresses)
    view.drain_changes()
    ruleset = view.ruleset()
    assert (log.add(allowed()), log.add(denied(BY_SHOP))) == ([], [])
    for document in (annotated(FROM_WEB, ALLOW), SHOP):
        log.scene.put(document)
    assert names(log.add(allowed())) == [["from-web"]]
    assert len(log.add(denied(BY_SHOP))) == 1
    for document in (FROM_WEB, namespace("shop")):
        log.scene.put(document)
    assert (log.add(allowed()), log.add(denied(BY_SHOP))) == ([], [])
    log.scene.put(logging(allow=False, deny=False))
    assert (len(log.add(allowed())), len(log.add(denied(BY_SHOP)))) == (1, 1)
    assert view.ruleset() == ruleset
    assert not view.drain_changes(), "neither rules nor connections under re-check"
    assert not view.recheck_addresses


@pytest.mark.parametrize("by_tier", [False, True])
def test_annotations_of_objects_that_are_gone_hold_for_packets_that_were_logged_before(*, by_tier: bool) -> None:
    log = Log(DENYING_GUARD, annotated(FROM_WEB, ALLOW), SHOP, logging(allow=True, deny=True))
    log.history.cover()
    log.history.committed()
    late = [allowed(), denied(denied_by("ingress", (GUARD_REF,)) if by_tier else BY_SHOP)]
    late = [msgspec.structs.replace(each, timestamp_ns=NOW - 1) for each in late]
    log.scene.views["a"].drain_changes()
    for ref in (FROM_WEB_REF, ObjectRef("Pod", "shop", "db"), ObjectRef("Namespace", "", "shop")):
        log.history.remove(ref)
    log.history.cover()
    log.scene.views["a"].drain_changes()
    log.history.committed()
    assert [record.disposition for record in log.add(*late)] == ["allow", "deny"]
    after = [msgspec.structs.replace(each, timestamp_ns=NOW + 1) for each in late]
    assert log.add(*after) == []


def test_what_is_not_delegated_takes_nothing_of_the_rate_limit() -> None:
    limits = RecordLimits(aggregation_seconds=0, records_per_second=0.001, burst=1)
    log = Log(annotated(ON_5432, ALLOW), logging(allow=True, deny=True), limits=limits)
    assert log.add(*(allowed(port=80) for _ in range(50)), *(denied(BY_SHOP) for _ in range(50))) == []
    assert names(log.add(allowed(), allowed())) == [["on-5432"]]
    assert log.stream.status().not_delegated == {"allow": 50, "deny": 50}
    assert sum(log.stream.status().dropped_packets.values()) == 1
