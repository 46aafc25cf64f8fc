"""Memory after many objects were added and removed in a small cluster, each with unique names, labels and addresses."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterator

import msgspec

from benchmarks.harness.process_usage import rss_mib
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from nfagent.decode.fast_pod import decode_pod_json
from nfagent.decode.networkpolicy import decode_network_policy
from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.objects import Namespace, Node, ObjectRef, Pod
from nfagent.policy.evaluator import Flow
from nfagent.system.gc_tuning import collect_and_freeze, relax_collection

CHANGES = 8
"""Changes per round: four objects are added, and removed."""
_MORE_MIB = 8


@bench("churn", "memory after many objects were added and removed, in a cluster that stays small")
def churned(run: Run) -> Iterator[Row]:
    """Make 300,000 changes in a process of its own."""
    rounds = 2_000 if run.quick else 37_500
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        before, after = processes.apply(_resident, (rounds,))
    yield Row(
        name=f"memory growth after {rounds * CHANGES:,} changes, cluster of three Pods",
        unit="MiB",
        values=[after - before],
        targets=(at_most("max", _MORE_MIB),),
        note=f"{before:.1f} MiB at the start, {after:.1f} at the end; Pods, policies, Namespaces and Nodes",
    )


def _resident(rounds: int) -> tuple[float, float]:
    """Return this process's memory in MiB before and after so many rounds."""
    relax_collection()
    desired = DesiredState("a")
    for item in small_cluster("a"):
        desired.put(item)
    churn(desired, range(1))
    collect_and_freeze()
    before = rss_mib()
    churn(desired, range(1, rounds))
    gc.collect()
    return before, rss_mib()


def small_cluster(node: str) -> Iterator[Item]:
    """Yield a cluster of three Pods, two of them on the node."""
    yield Node(node, addresses=("192.0.2.1",))
    yield Namespace("shop", (("team", "shop"),))
    for number in range(3):
        labels = (("app", f"app-{number}"),)
        yield Pod("shop", f"pod-{number}", labels, node if number < 2 else "other", (f"10.1.0.{number + 1}",))


def round_of(number: int, node: str) -> tuple[Item, ...]:
    """Return the objects of a round: a Pod, a policy that selects it, a Namespace, a Node."""
    return (
        Node(
            f"node-{number}", (("rack", f"rack-{number}"),), addresses=(f"172.16.{number // 250 % 250}.{number % 250}",)
        ),
        Namespace(f"space-{number}", (("team", f"team-{number}"),)),
        _pod(number, node if number % 2 else "other"),
        _policy(number),
    )


def churn(desired: DesiredState, rounds: range) -> None:
    """Add and remove objects as the agent does; check a connection of each Pod as a revocation does."""
    for number in rounds:
        items = round_of(number, desired.cluster.node)
        for item in items:
            desired.put(item)
        desired.drain_changes()
        desired.is_allowed(Flow(address_of(number), "10.1.0.1", "tcp", 8080))
        for item in items:
            desired.remove(ObjectRef(item.ref.kind, item.ref.namespace, item.ref.name))
        desired.drain_changes()
        desired.clear_recheck(desired.recheck_addresses)
        desired.drain_changes()


def address_of(number: int) -> str:
    """Return the address of a round's Pod."""
    return f"10.{2 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"


def _pod(number: int, node: str) -> Pod:
    document = {
        "metadata": {
            "namespace": "shop",
            "name": f"replica-{number:x}-abcde",
            "labels": {"app": f"app-{number}", "pod-template-hash": f"{number:x}"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": f"replica-{number:x}", "controller": True}],
        },
        "spec": {"nodeName": node, "containers": [{"ports": [{"name": f"web-{number}", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address_of(number)}, {"ip": f"fd00::{number + 16:x}"}]},
    }
    read = decode_pod_json(msgspec.json.encode(document))
    if read is None:
        raise ValueError(f"Pod {number} of the churn can't be read")
    return read[0]


def _policy(number: int) -> Item:
    labels = {"matchLabels": {"app": f"app-{number}"}}
    blocks = [
        {"ipBlock": {"cidr": f"198.{18 + number // 250 % 2}.{number % 250}.{block * 16}/28"}} for block in range(8)
    ]
    return decode_network_policy(
        {
            "metadata": {"namespace": "shop", "name": f"policy-with-a-longer-name-{number}"},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": labels}], "ports": [{"port": f"web-{number}"}]}],
                "egress": [{"to": [{"podSelector": labels}, *blocks]}],
            },
        }
    )
