"""Kinds whose definitions came while the agents ran: followed within a minute, without a restart, to the packets.

The definitions are there since the lab is; what is left of the agents' pause is waited for here, once.
"""

from __future__ import annotations

import pytest

from nfagent.lab.cluster.agents_apiserver import kind_status
from nfagent.lab.probes.probe import Probe
from nfagent.model.netaddr import FAMILIES
from nfagent.verdicts.records import Record, decode
from tests.apiserver.lab.conftest import LATE, OUTSIDE
from tests.support.apiserver_labs import ApiLab
from tests.support.packet_labs import Document, logging_document, policy_document, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver, pytest.mark.usefixtures("all_kinds")]


def subject(name: str) -> Document:
    return {"pods": {"namespaceSelector": {"matchLabels": {"ns": "x"}}, "podSelector": {"matchLabels": {"pod": name}}}}


def tier(version: str, kind: str, name: str, spec: Document) -> Document:
    group = "policy.networking.k8s.io"
    return {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": name}, "spec": spec}


def from_y(action: str) -> list[Document]:
    return [{"action": action, "from": [{"namespaces": {"matchLabels": {"ns": "y"}}}]}]


ADMIN = tier("v1alpha1", "AdminNetworkPolicy", "t", {"priority": 5, "subject": subject("a"), "ingress": from_y("Deny")})
BASELINE = tier(
    "v1alpha1", "BaselineAdminNetworkPolicy", "default", {"subject": subject("a"), "ingress": from_y("Deny")}
)
CLUSTER = tier(
    "v1alpha2",
    "ClusterNetworkPolicy",
    "t",
    {"tier": "Admin", "priority": 5, "subject": subject("a"), "ingress": from_y("Deny")},
)


@pytest.mark.parametrize("kind", LATE)
def test_it_is_followed_on_both_nodes(lab: ApiLab, kind: str) -> None:
    # An agent that an earlier test has started again may have listed it only.
    for agent in lab.cluster.agents.values():
        wait_until(lambda: kind_status(agent, kind)["phase"] == "watching")  # noqa: B023 - called at once
        assert kind_status(agent, kind)["trouble"] == ""


@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize("policy", [ADMIN, BASELINE, CLUSTER], ids=lambda one: str(one["kind"]))
def test_a_policy_of_a_tier_bites_and_is_gone_with_its_object(lab: ApiLab, policy: Document) -> None:
    lab.cluster.put(policy)
    assert (lab.reach("y/a", "x/a"), lab.reach("z/a", "x/a")) == ({False}, {True})
    lab.cluster.delete(policy)
    assert lab.reach("y/a", "x/a") == {True}


@pytest.mark.usefixtures("tidy")
def test_towards_the_destinations_of_an_egress_policy_pods_keep_their_addresses(lab: ApiLab) -> None:
    def sources() -> set[str | None]:
        probes = [Probe(lab.pod("x/a"), address, "tcp", 443) for address in OUTSIDE[0].addresses]
        return {outcome.seen_from for outcome in lab.ask(probes).values()}

    destinations = [{"cidr": "198.51.100.0/24"}, {"cidr": "2001:db8:99::/64"}]
    policy: Document = {
        "apiVersion": "networking.gke.io/v1",
        "kind": "EgressNATPolicy",
        "metadata": {"name": "out"},
        "spec": {"action": "NoSNAT", "destinations": destinations},
    }
    assert sources() == set(lab.topology.nodes["a"].addresses)
    lab.cluster.put(policy)
    assert sources() == set(lab.topology.pods["x", "a"].addresses)
    lab.cluster.delete(policy)
    assert sources() == set(lab.topology.nodes["a"].addresses)


@pytest.mark.usefixtures("tidy")
def test_logging_that_is_switched_on_writes_a_record_of_a_denied_connection(lab: ApiLab) -> None:
    def records() -> list[Record]:
        path = lab.cluster.agent("a").verdict_log
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [record for record in map(decode, lines) if record.disposition == "deny"]

    lab.cluster.put(policy_document("x", "p", podSelector={"matchLabels": {"pod": "a"}}, policyTypes=["Ingress"]))
    assert lab.reach("y/a", "x/a") == {False}
    assert records() == []
    lab.cluster.put(logging_document(allow=False, deny=True))
    assert lab.reach("y/a", "x/a") == {False}
    wait_until(
        lambda: {record.connection.dest_ip for record in records()} >= set(lab.topology.pods["x", "a"].addresses)
    )
    wanted = {(lab.address("y/a", family), lab.address("x/a", family)) for family in FAMILIES}
    assert {(one.connection.src_ip, one.connection.dest_ip) for one in records()} == wanted
