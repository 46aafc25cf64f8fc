"""What kubelet does on a real node, for a VM of the Vagrant lab: its Node object, its Pods by CNI, and their objects.

    python -m nfagent.lab.vagrant.node prepare     # definitions and rights of nfagent, its kubeconfig, the Node
    python -m nfagent.lab.vagrant.node pods        # the Pods of this node: the service `kubelet` of the VM

A Pod is a network namespace, POD_NAMESPACE.POD_NAME, that the CNI plugin of /etc/cni/net.d attached. It is as good as
running when its object says so; nothing runs in it but what a test starts. Both commands may be repeated.
"""

from __future__ import annotations

import base64
import os
import sys
import time
from pathlib import Path

import msgspec
import yaml

from nfagent.errors import ClusterError, HostError, UsageError
from nfagent.lab.apiserver.kube_client import Document, LabApiClient
from nfagent.lab.cluster.plan import ROLES, pod_name
from nfagent.lab.topology import netns
from nfagent.lab.vagrant import cni

_ADMIN = Path("/lab/admin.kubeconfig")
_AGENT = Path("/etc/nfagent/kubeconfig")
_DEPLOY = Path("/vagrant/deploy")
_API_SECONDS = 600.0  # for an API server that starts under emulation
_POLL_SECONDS = 1.0
_TOKEN_SECONDS = 30 * 86400


class VagrantNode(msgspec.Struct, frozen=True):
    """A worker: its number, from 1, and the number of the lab's networks."""

    number: int
    net: int
    pods: int

    @property
    def name(self) -> str:
        """The name of VM and Node."""
        return f"worker-{self.number}"

    @property
    def addresses(self) -> tuple[str, str]:
        """Its addresses on the network of the nodes."""
        return f"10.99.{self.net}.{10 + self.number}", f"fd00:99:{self.net}::{10 + self.number}"

    @property
    def pod_cidrs(self) -> tuple[str, str]:
        """The ranges of its Pods."""
        return f"10.244.{self.number}.0/24", f"fd00:10:244:{self.number}::/64"

    def pod_names(self) -> list[tuple[str, str]]:
        """Return namespace and name of each Pod: web-1, db-1, visitor-1, web-1-2, ..."""
        return [pod_name(self.number, index) for index in range(self.pods)]

    def document(self) -> Document:
        """Return the Node object."""
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name}},
            "spec": {"podCIDR": self.pod_cidrs[0], "podCIDRs": list(self.pod_cidrs)},
            "status": {
                "addresses": [{"type": "InternalIP", "address": each} for each in self.addresses],
                "conditions": [{"type": "Ready", "status": "True", "reason": "Lab", "message": ""}],
            },
        }


def pod_document(node: str, namespace: str, name: str, addresses: tuple[str, ...]) -> Document:
    """Return the object of a running Pod."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name.partition("-")[0]}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "registry.invalid/none"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": each} for each in addresses]},
    }


def pod_netns(namespace: str, name: str) -> str:
    """Return the name of a Pod's network namespace."""
    return f"{namespace}.{name}"


def agent_kubeconfig(admin: Document, authority: bytes, token: str) -> Document:
    """Return the agent's kubeconfig, of the administrator's, the server's certificate and the agent's token.

    The certificate is inside: its file belongs to the user `vagrant`, and the service reads only what root owns.
    """
    (entry,) = admin["clusters"]
    cluster = {name: value for name, value in entry["cluster"].items() if name != "certificate-authority"}
    cluster["certificate-authority-data"] = base64.b64encode(authority).decode("ascii")
    (context,) = admin["contexts"]
    return {
        **admin,
        "clusters": [{**entry, "cluster": cluster}],
        "users": [{"name": "nfagent", "user": {"token": token}}],
        "contexts": [{**context, "context": {**context["context"], "user": "nfagent"}}],
    }


def this_node() -> VagrantNode:
    """Return the node that this VM is, by the environment. Raises UsageError for a missing or wrong variable."""
    numbers: dict[str, int] = {}
    for name, default in (("LAB_NODE", ""), ("LAB_NET", ""), ("LAB_PODS", str(len(ROLES)))):
        text = os.environ.get(name, default)
        if not text.isdecimal():
            raise UsageError(f"{name} is {text!r} in the environment: run this by the service, or set it to a number")
        numbers[name] = int(text)
    return VagrantNode(numbers["LAB_NODE"], numbers["LAB_NET"], numbers["LAB_PODS"])


def admin_client() -> LabApiClient:
    """Return a client with all rights. Raises ClusterError without the lab's kubeconfig."""
    try:
        document = yaml.safe_load(_ADMIN.read_text("utf-8"))
    except OSError as error:
        raise ClusterError(
            f"{_ADMIN}: {error.strerror}: this isn't a VM of the lab, or vagrant/prepare didn't run"
        ) from None
    server, token = document["clusters"][0]["cluster"], document["users"][0]["user"]["token"]
    address, _, port = server["server"].removeprefix("https://").rpartition(":")
    return LabApiClient(address, int(port), Path(server["certificate-authority"]), token)


def prepare(node: VagrantNode, client: LabApiClient) -> None:
    """Wait for the API server, then create what the agent needs. Raises ClusterError."""
    _await_server(client)
    for path in (*sorted((_DEPLOY / "crds").glob("*s.yaml")), _DEPLOY / "rbac.yaml"):
        client.put_all(each for each in yaml.safe_load_all(path.read_text("utf-8")) if each)
    client.put(node.document())
    _write_kubeconfig(client)


def attach_pods(node: VagrantNode, client: LabApiClient) -> None:
    """Attach the Pods that aren't there yet, and write their objects. Raises ClusterError, HostError."""
    network = cni.Network.read()
    there = set(netns.named(""))
    for namespace, name in node.pod_names():
        if pod_netns(namespace, name) not in there:
            netns.make([pod_netns(namespace, name)])
            addresses = network.add(f"{namespace}-{name}", pod_netns(namespace, name))
            client.put(pod_document(node.name, namespace, name, addresses))


def _await_server(client: LabApiClient) -> None:
    end = time.monotonic() + _API_SECONDS
    while True:
        try:
            client.ask("GET", "/readyz").document("readyz")
        except ClusterError as error:
            # /readyz is text: it is no document where it is ready.
            if time.monotonic() > end:
                raise ClusterError(f"no API server after {_API_SECONDS:.0f} s: {error}") from error
            time.sleep(_POLL_SECONDS)
        except ValueError:
            return


def _write_kubeconfig(client: LabApiClient) -> None:
    token = client.service_account_token("nfagent", "nfagent", _TOKEN_SECONDS)
    admin = yaml.safe_load(_ADMIN.read_text("utf-8"))
    authority = Path(admin["clusters"][0]["cluster"]["certificate-authority"]).read_bytes()
    _AGENT.touch(0o600)
    _AGENT.write_text(yaml.safe_dump(agent_kubeconfig(admin, authority, token), sort_keys=False), "utf-8")


def main(arguments: list[str]) -> int:
    """Run a command; return the exit code."""
    commands = {"prepare": prepare, "pods": attach_pods}
    if len(arguments) != 1 or arguments[0] not in commands:
        sys.stderr.write("usage: python -m nfagent.lab.vagrant.node prepare|pods\n")
        return 2
    try:
        with admin_client() as client:
            commands[arguments[0]](this_node(), client)
    except (ClusterError, HostError, UsageError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
