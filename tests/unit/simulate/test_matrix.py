"""The matrix of who reaches whom: its groups, what is not known, its limits, and that it is of one moment."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from nfagent.errors import UsageError
from nfagent.model.objects import ObjectRef
from nfagent.policy.options import PolicyOptions
from nfagent.simulate import matrix as matrix_module
from nfagent.simulate.asked_ports import asked_ports
from nfagent.simulate.class_verdicts import PortSpan
from nfagent.simulate.matrix import MatrixJob, matrix_of, run
from nfagent.simulate.matrix_answer import Matrix, MatrixPart, MatrixRequest
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, node, pod, policy, port

PODS = (
    pod("shop/web-1", "a", 10, (port(80, "http"),), app="web"),
    pod("shop/web-2", "b", 11, (port(80, "http"),), app="web"),
    pod("shop/db", "b", 20, app="db"),
    pod("ops/probe", "a", 30, app="probe"),
)
TO_DB = policy("shop/db", labelled(app="db"), ingress=[{"from": [{"podSelector": labelled(app="web")}]}])


def host_pod(path: str, where: str) -> Document:
    found = pod(path, where, 1, app="agent")
    found["spec"]["hostNetwork"] = True
    found["status"]["podIPs"] = [{"ip": item["address"]} for item in node(where)["status"]["addresses"]]
    return found


@dataclass
class Shown:
    """A matrix by the names of its groups."""

    found: Matrix

    @property
    def names(self) -> list[str]:
        return [end.name for end in self.found.ends]

    def verdict(self, client: str, server: str) -> str | None:
        return self.found.verdict(self.names.index(client), self.names.index(server))

    def words(self, client: str, server: str) -> list[str]:
        traffic = self.found.traffic(self.names.index(client), self.names.index(server))
        return [
            f"{item}{f' {item.nodes}' if item.nodes else ''}: {'allowed' if item.allowed else 'denied'}"
            for item in traffic
        ]


def shown(scene: TwoNodeCluster, asked: MatrixRequest | None = None) -> Shown:
    return Shown(run(matrix_of(scene.views["a"], asked or MatrixRequest())))


def test_labels_that_no_policy_reads_tell_no_pods_apart() -> None:
    found = shown(TwoNodeCluster(*PODS, pod("shop/cache", "a", 12, app="cache")))
    assert found.names == ["ops app=probe", "shop all Pods"]
    assert found.found.ends[1].pods == 4
    assert found.verdict("shop all Pods", "shop all Pods") == "allowed"


def test_pods_are_told_apart_by_what_policies_read() -> None:
    found = shown(TwoNodeCluster(*PODS, pod("shop/cache", "a", 12, app="cache"), TO_DB))
    assert found.names == ["ops app=probe", "shop app=cache", "shop app=db", "shop app=web"]
    assert found.verdict("shop app=web", "shop app=db") == "allowed"
    assert found.verdict("shop app=cache", "shop app=db") == "denied"
    assert found.verdict("shop app=web", "shop app=web") == "allowed", "two of one group"
    assert found.verdict("shop app=db", "shop app=db") == "none", "a Pod alone"


def test_a_named_port_tells_pods_of_one_label_set_apart() -> None:
    http = policy("shop/web", labelled(app="web"), ingress=[{"ports": [{"port": "http"}]}])
    other = pod("shop/web-3", "a", 13, (port(8080, "http"),), app="web")
    found = shown(TwoNodeCluster(*PODS, other, http))
    names = ["shop app=web [ports http=80/tcp]", "shop app=web [ports http=8080/tcp]"]
    assert found.names[-2:] == names
    assert [found.words("ops app=probe", name)[1] for name in names] == ["80/tcp: allowed", "8080/tcp: allowed"]


def test_an_ip_block_tells_pods_of_one_label_set_apart() -> None:
    block = policy("shop/db", labelled(app="db"), ingress=[{"from": [{"ipBlock": {"cidr": "10.64.0.0/24"}}]}])
    found = shown(TwoNodeCluster(*PODS, block))
    first, second = (name for name in found.names if "app=web" in name)
    assert first == "shop app=web [in 10.64.0.0/24]"
    assert {found.verdict(first, "shop app=db"), found.verdict(second, "shop app=db")} == {"some", "denied"}


def test_a_node_reaches_its_own_pods_alone_where_policies_deny_it() -> None:
    scene = TwoNodeCluster(*PODS, host_pod("ops/agent-a", "a"), host_pod("ops/agent-b", "b"), policy("shop/shut"))
    found = shown(scene)
    assert found.verdict("ops app=agent [host network]", "shop all Pods") == "some"
    assert found.words("ops app=agent [host network]", "shop all Pods") == [
        "anything same: allowed",
        "anything other: denied",
    ]


def test_packets_that_arrive_with_a_nodes_address_are_not_known() -> None:
    view = TwoNodeCluster(*PODS, TO_DB).views["a"]
    policies = list(view.index.policies.values())
    job = MatrixJob(
        view.cluster, policies, PolicyOptions(), MatrixRequest(), masqueraded=lambda address: address == "10.64.1.20"
    )
    found = Shown(run(job))
    assert found.verdict("shop app=web", "shop app=db") == "unknown"
    assert found.verdict("shop app=db", "shop app=web") == "allowed"


def test_the_matrix_is_of_the_moment_at_which_it_was_asked_for() -> None:
    view = TwoNodeCluster(*PODS, TO_DB).views["a"]
    whole = run(matrix_of(view, MatrixRequest()))
    parts = matrix_of(view, MatrixRequest()).parts()
    found = Matrix()
    for count, part in enumerate(parts):
        if count == 3:
            for ref in (ObjectRef("Pod", "shop", "web-1"), TO_DB_REF):
                assert view.remove(ref)
        if part is not None:
            found.add(part)
    assert (found.ends, found.letters, found.reasons) == (whole.ends, whole.letters, whole.reasons)


TO_DB_REF = ObjectRef("NetworkPolicy", "shop", "db")


def test_others_share_a_row_where_no_verdict_differs() -> None:
    others = [pod(f"team-{number}/app", "a", 40 + number, app=f"x{number}") for number in range(5)]
    isolated = [policy(f"team-{number}/own", ingress=[{}]) for number in range(5)]
    found = shown(TwoNodeCluster(*PODS, *others, *isolated, TO_DB), MatrixRequest("shop"))
    assert found.names == ["shop app=db", "shop app=web", "6 namespaces (ops, team-0, …)"]
    assert found.found.ends[2].namespaces == ("ops", *(f"team-{number}" for number in range(5)))
    assert found.verdict(found.names[2], found.names[2]) is None, "neither end is in the namespace"


def test_too_many_groups_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_module, "MAX_CELLS", 8)
    with pytest.raises(
        UsageError, match="3 groups of Pods that policies tell apart are too many; narrow it with -n NS"
    ):
        shown(TwoNodeCluster(*PODS, TO_DB))


def test_parts_survive_encoding() -> None:
    scene = TwoNodeCluster(*PODS, TO_DB)
    for part in matrix_of(scene.views["a"], MatrixRequest()).parts():
        assert part is None or msgspec.json.decode(msgspec.json.encode(part), type=MatrixPart) == part


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["5432"], [PortSpan("tcp", 5432, 5432)]),
        (["53/udp", "80-90/tcp", "85-100"], [PortSpan("tcp", 80, 100), PortSpan("udp", 53, 53)]),
        (["1/tcp", "2/tcp"], [PortSpan("tcp", 1, 2)]),
        (["sctp", "ICMP", "icmp"], [PortSpan("sctp", 1, 65535), PortSpan("portless")]),
        ([], []),
    ],
    ids=["tcp by default", "ranges that overlap", "adjacent ones", "whole protocols", "none"],
)
def test_ports_are_read_as_people_write_them(texts: list[str], expected: list[PortSpan]) -> None:
    assert list(asked_ports(texts)) == expected


@pytest.mark.parametrize("text", ["", "0", "65536", "80-", "90-80", "http", "80/icmp", "\u0661"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no port; write one like 5432, 53/udp"):
        asked_ports([text])
