"""The changes that are measured."""

from __future__ import annotations

from benchmarks.suites.revocation_cpu import pod_document, policy
from nfagent.desired.state import DesiredState
from nfagent.lab.objects.documents import Document
from nfagent.lab.topology.plan import grid
from tests.support.two_node_cluster import DECODERS


def rechecked(desired: DesiredState, *documents: Document) -> set[str]:
    """Apply documents; return the addresses that this puts under re-check, and clear them."""
    for document in documents:
        item = DECODERS[document["kind"]](document)
        assert item is not None
        desired.put(item)
    desired.drain_changes()
    found = desired.recheck_addresses
    desired.clear_recheck(found)
    desired.drain_changes()
    return set(found)


def test_every_change_may_revoke_connections_of_each_selected_pod() -> None:
    _, pods, _ = grid(nodes=1)
    selected = {address for pod in pods if pod.namespace == "x" for address in pod.addresses}
    desired = DesiredState("n1")
    rechecked(desired, *map(pod_document, pods), policy("a"))
    for allowed in "bab":
        assert selected <= rechecked(desired, policy(allowed))
    assert not rechecked(desired, policy("b"))
