"""Nothing is written before every kind was read: an agent without the right to one of them waits, and says so."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.cluster.agents_apiserver import kind_status
from tests.support.apiserver_labs import DEPLOY, ApiLab, may, read_documents
from tests.support.packet_labs import Document, policy_document, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver]

META = {"namespace": "nfagent", "name": "limited"}
KEPT = policy_document("x", "kept", podSelector={"matchLabels": {"pod": "b"}}, policyTypes=["Ingress"])
NEW = policy_document("y", "new", podSelector={"matchLabels": {"pod": "a"}}, policyTypes=["Ingress"])


def limited_role() -> Document:
    """Return the shipped role, without NetworkPolicies."""
    shipped = read_documents(DEPLOY / "rbac.yaml")
    role = copy.deepcopy(next(document for document in shipped if document["kind"] == "ClusterRole"))
    role["metadata"] = {"name": "limited"}
    for rule in role["rules"]:
        rule["resources"] = [resource for resource in rule["resources"] if resource != "networkpolicies"]
    return role


def bindings() -> list[Document]:
    """Return the shipped bindings, for the limited account; its cluster-wide one is of the limited role."""
    found = []
    for document in read_documents(DEPLOY / "rbac.yaml"):
        if document["kind"] in {"ClusterRoleBinding", "RoleBinding"}:
            document["metadata"]["name"] = "limited"
            document["subjects"] = [{"kind": "ServiceAccount", **META}]
            if document["kind"] == "ClusterRoleBinding":
                document["roleRef"]["name"] = "limited"
            found.append(document)
    return found


@pytest.fixture(scope="module")
def waiting(
    lab: ApiLab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LabAgent, Future[None], dict[str, str]]]:
    """Return an agent on node b that may not read NetworkPolicies, its start, and the node's table before it."""
    before = lab.client.inventory()
    lab.cluster.put(KEPT)
    lab.cluster.wait_for_recheck()
    own = lab.cluster.agent("b")
    own.stop()
    table = {"before": own.nft("-s", "list", "table", "inet", "nfagent")}
    lab.client.put_all(
        [NEW, limited_role(), *bindings(), {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": META}]
    )
    token = lab.client.service_account_token(META["namespace"], META["name"])
    with lab.plane.client(token=token) as account:
        wait_until(lambda: may(account, "list", "pods") and may(account, "list", "configmaps", name="ip-masq-agent"))
    kubeconfig: Path = lab.plane.kubeconfig("limited", token=token)
    agent = LabAgent(lab.topology, "b", ("--kubeconfig", str(kubeconfig)), tmp_path_factory.mktemp("limited"))
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(agent.start, None, 240.0)
        try:
            wait_until(lambda: "NetworkPolicy" in agent.stderr_text, 30.0)
            yield agent, start, table
        finally:
            # The thread ends with its agent.
            agent.stop()
    own.start()
    lab.restore(before)


Waiting = tuple[LabAgent, Future[None], dict[str, str]]


def test_it_says_which_kind_and_why(waiting: Waiting) -> None:
    agent, start, _ = waiting
    assert not start.done()
    wait_until(lambda: kind_status(agent, "NetworkPolicy")["trouble"] != "")
    found = kind_status(agent, "NetworkPolicy")
    assert not found["synced"]
    for words in ("403", "networkpolicies", "system:serviceaccount:nfagent:limited"):
        assert words in found["trouble"]
    # Its log is written by a thread.
    wait_until(lambda: found["trouble"] in agent.stderr_text)
    shown = json.loads(agent.run("dump", "state", "-o", "json").stdout)
    assert shown["agent"]["apiserver"]["resources"]["NetworkPolicy"]["trouble"] == found["trouble"]
    assert not shown["agent"]["reconcile"]["in_sync"]


def test_the_table_stays_as_it_was_and_is_enforced(lab: ApiLab, waiting: Waiting) -> None:
    agent, _, table = waiting
    wait_until(lambda: kind_status(agent, "Pod")["synced"])
    assert kind_status(agent, "Pod")["synced"], "the rest was read"
    assert agent.nft("-s", "list", "table", "inet", "nfagent") == table["before"]
    assert lab.reach("x/a", "x/b") == {False}
    assert lab.reach("x/a", "y/a") == {True}, "a policy that couldn't be read isn't guessed"


def test_with_the_right_it_goes_on_without_a_restart(lab: ApiLab, waiting: Waiting) -> None:
    agent, start, table = waiting
    grant = next(one for one in bindings() if one["kind"] == "ClusterRoleBinding")
    grant["metadata"]["name"], grant["roleRef"]["name"] = "granted", "nfagent"
    lab.client.put(grant)
    start.result(90.0)
    # It is ready once the kind is listed, and watches it then.
    wait_until(lambda: kind_status(agent, "NetworkPolicy")["trouble"] == "")
    assert agent.nft("-s", "list", "table", "inet", "nfagent") != table["before"]
    assert lab.reach("x/a", "x/b") == {False}
    assert lab.reach("x/a", "y/a") == {False}
    wait_until(lambda: "all kinds are watched again" in agent.stderr_text)
