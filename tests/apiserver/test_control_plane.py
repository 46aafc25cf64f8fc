"""The lab's control plane: it starts, serves, restarts with its data, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nfagent.errors import ClusterError, UsageError
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import Document, LabApiClient
from nfagent.lab.machine.binaries import ControlPlaneBinaries
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, OutsideHost
from tests.support.packet_labs import namespace_document, node_document, policy_document, wait_until

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).parents[2]
NODES = (NodePlan("n1", ("192.0.2.1", "2001:db8:ffff::1"), ("10.244.1.0/24",)), NodePlan("n2", ("192.0.2.2",), ()))
API = OutsideHost("api", ("192.0.2.250", "2001:db8:ffff::250"))

WIDGET = {"apiVersion": "test.invalid/v1", "kind": "Widget", "metadata": {"name": "one"}}


def pod(name: str, *, port: int = 80, address: str = "10.244.1.10", **labels: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "x", "name": name, "labels": labels},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"containerPort": port}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    }


def settings(name: str, **values: str) -> Document:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": values}


def limits(name: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"limits": []},
    }


def definition() -> Document:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.test.invalid"},
        "spec": {
            "group": "test.invalid",
            "scope": "Cluster",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [version],
        },
    }


class TestObjects:
    def test_a_pod_is_put_with_its_status_and_its_namespace(self, clean: LabApiClient) -> None:
        clean.put(pod("web", app="web"))
        found = clean.get(pod("web"))
        assert found is not None
        assert found["status"]["podIPs"] == [{"ip": "10.244.1.10"}]
        assert clean.get(namespace_document("x")) is not None

    @pytest.mark.parametrize(
        ("later", "labels", "ports"),
        [
            pytest.param(pod("web", app="db"), {"app": "db"}, [80], id="a label changes in place"),
            pytest.param(pod("web"), None, [80], id="a label that isn't written any more goes"),
            pytest.param(pod("web", app="web", port=81), {"app": "web"}, [81], id="a new port makes the Pod anew"),
        ],
    )
    def test_put_has_the_object_be_as_written(
        self, clean: LabApiClient, later: Document, labels: object, ports: list[int]
    ) -> None:
        clean.put(pod("web", app="web"))
        clean.put(later)
        found = clean.get(later)
        assert found is not None
        assert found["metadata"].get("labels") == labels
        assert [port["containerPort"] for port in found["spec"]["containers"][0]["ports"]] == ports

    def test_an_address_that_is_put_replaces_the_earlier_one(self, clean: LabApiClient) -> None:
        clean.put(pod("web"))
        clean.put(pod("web", address="10.244.1.11"))
        found = clean.get(pod("web"))
        assert found is not None
        assert found["status"]["podIPs"] == [{"ip": "10.244.1.11"}]

    def test_many_are_applied_in_any_order(self, clean: LabApiClient) -> None:
        pods = [pod(f"p{number}", address=f"10.244.1.{number}") for number in range(1, 31)]
        policy = policy_document("x", "deny", podSelector={})
        clean.put_all([*pods, WIDGET, policy, node_document(NODES[0]), definition()])
        assert len(clean.list("v1", "Pod", "x")) == 30
        assert clean.get(policy) is not None
        assert clean.get(WIDGET) is not None

    def test_a_kind_is_served_when_its_definition_was_put_and_gone_when_it_was_deleted(
        self, clean: LabApiClient
    ) -> None:
        clean.put(definition())
        clean.put(WIDGET)
        assert clean.get(WIDGET) is not None
        clean.delete(definition())
        assert clean.ask("GET", "/apis/test.invalid/v1/widgets/one").status == 404
        assert "Widget" not in {served.kind for served in clean.resources()}

    def test_a_namespace_goes_with_all_that_is_in_it(self, clean: LabApiClient) -> None:
        held = settings("held") | {"metadata": {"name": "held", "namespace": "x", "finalizers": ["test.invalid/none"]}}
        clean.put_all([pod("web"), held])
        clean.delete(namespace_document("x"))
        assert clean.get(namespace_document("x")) is None
        clean.put(namespace_document("x"))
        assert clean.list("v1", "Pod", "x") == clean.list("v1", "ConfigMap", "x") == []

    def test_a_pod_with_grace_is_terminating_until_it_is_deleted_without(self, clean: LabApiClient) -> None:
        clean.put(pod("web"))
        clean.delete(pod("web"), grace_seconds=30)
        found = clean.get(pod("web"))
        assert found is not None
        assert "deletionTimestamp" in found["metadata"]
        clean.delete(pod("web"))
        assert clean.get(pod("web")) is None

    def test_the_servers_words_come_with_a_refusal(self, clean: LabApiClient) -> None:
        bad = policy_document("x", "bad", podSelector={}, ingress=[{"ports": [{"port": 80, "endPort": 70}]}])
        with pytest.raises(ClusterError, match=r"apply NetworkPolicy x/bad: 422: .*endPort"):
            clean.put(bad)


class TestUsers:
    def test_who_has_no_rights_is_refused(self, control_plane: ControlPlane) -> None:
        with control_plane.client("nobody") as client:  # codespell:ignore nobody
            assert client.ask("GET", "/api/v1/pods").status == 403

    def test_a_service_account_has_the_rights_that_it_is_given(
        self, control_plane: ControlPlane, clean: LabApiClient
    ) -> None:
        meta = {"name": "reader", "namespace": "x"}
        rbac = "rbac.authorization.k8s.io"
        role = {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]}
        binding = {
            "subjects": [{"kind": "ServiceAccount", **meta}],
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "reader"},
        }
        clean.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
        clean.put({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, **role})
        clean.put({"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": meta, **binding})
        with control_plane.client(token=clean.service_account_token("x", "reader")) as client:
            wait_until(lambda: client.ask("GET", "/api/v1/namespaces/x/pods").ok)
            assert client.ask("GET", "/api/v1/namespaces/x/pods").ok
            assert client.ask("GET", "/api/v1/namespaces/default/pods").status == 403

    def test_a_user_that_was_not_named_has_no_token(self, control_plane: ControlPlane) -> None:
        with pytest.raises(UsageError, match="no user 'eve' here, only admin, nobody"):  # codespell:ignore nobody
            control_plane.token_for("eve")


class TestLife:
    def test_after_a_kill_it_comes_back_with_its_objects_to_the_same_clients(
        self, control_plane: ControlPlane, clean: LabApiClient
    ) -> None:
        clean.put(settings("kept", color="red"))
        control_plane.kill()
        with pytest.raises(ClusterError, match="refused"):
            clean.get(settings("kept"))
        control_plane.start()
        found = clean.get(settings("kept"))
        assert found is not None
        assert found["data"] == {"color": "red"}

    def test_compaction_ends_an_old_watch_with_410(self, control_plane: ControlPlane, clean: LabApiClient) -> None:
        revision = clean.create(limits("first"))["metadata"]["resourceVersion"]
        clean.create(limits("second"))
        clean.create(limits("third"))
        query = {"watch": "1", "resourceVersion": revision, "timeoutSeconds": "1"}

        def watched() -> list[tuple[str, int]]:
            """Return what a watch of a second has, in which a busy server may send less: type, and code of an error."""
            lines = clean.ask("GET", "/api/v1/limitranges", query=query).lines
            return [(event["type"], event["object"].get("code", 0)) for event in lines]

        wait_until(lambda: watched() == [("ADDED", 0), ("ADDED", 0)])
        control_plane.compact()
        wait_until(lambda: watched() == [("ERROR", 410)])

    def test_frozen_it_accepts_connections_and_answers_none(self, control_plane: ControlPlane) -> None:
        with control_plane.client(timeout=0.3) as hasty, control_plane.client() as patient:
            control_plane.freeze()
            try:
                with pytest.raises(ClusterError, match="timed out"):
                    hasty.ask("GET", "/readyz")
            finally:
                control_plane.thaw()
            assert patient.ask("GET", "/readyz").ok


class TestEnd:
    def test_a_server_that_does_not_start_says_why_and_nothing_is_left(
        self, binaries: ControlPlaneBinaries, tmp_path: Path
    ) -> None:
        plane = ControlPlane(tmp_path, flags=("--no-such-flag",), binaries=binaries)
        with pytest.raises(ClusterError, match="unknown flag: --no-such-flag"):
            plane.up()
        assert processes_of(tmp_path) == []

    @pytest.mark.kernel
    def test_in_a_lab_every_node_reaches_it_and_both_processes_end_with_it(
        self, binaries: ControlPlaneBinaries, tmp_path: Path
    ) -> None:
        with NetnsTopology(NODES, outside=(API,), tag="ta") as topology:
            inside = topology.outside_namespace("api")
            with ControlPlane(tmp_path, address=API.addresses[0], netns=inside, binaries=binaries) as plane:
                assert len(processes_of(tmp_path)) == 2
                for name in (inside, *map(topology.node_namespace, topology.nodes)):
                    with plane.client(netns=name) as client:
                        assert client.ask("GET", "/readyz").ok, name
                plane.compact()
        assert processes_of(tmp_path) == []

    @pytest.mark.usefixtures("binaries")
    def test_both_processes_end_with_the_process_that_started_them(self, tmp_path: Path) -> None:
        program = (
            "import os, pathlib, signal, sys\n"
            "from nfagent.lab.apiserver.control_plane import ControlPlane\n"
            "with ControlPlane(pathlib.Path(sys.argv[1])):\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=120, cwd=ROOT)
        assert done.returncode == -signal.SIGKILL
        wait_until(lambda: not processes_of(tmp_path))
        assert processes_of(tmp_path) == []


def processes_of(folder: Path) -> list[int]:
    """Return the processes with a folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # One that ends meanwhile isn't there any more.
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found
