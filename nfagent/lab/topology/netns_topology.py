"""Builds a plan: nodes, Pods and outside hosts as network namespaces of this machine.

    with NetnsTopology(nodes, pods, outside, tag="demo") as topology:
        topology.pod_namespace("default", "web")           # the netns' name, for probes
        topology.command(topology.node_namespace("n1"), ["nft", "list", "ruleset"])

An agent runs in a node's namespace, which forwards all packets of its Pods. Packets between two Pods on one bridge
pass its forward hook too, by br_netfilter.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from nfagent.errors import HostError, KernelError, UsageError
from nfagent.lab.topology import ip_commands, netns
from nfagent.lab.topology.plan import NodePlan, OutsideHost, PodPlan, check

_SERIAL = itertools.count(1)
_MODULES = {"vlan": "8021q", "vxlan": "vxlan"}


class NetnsTopology:
    """The namespaces and links of one lab; a context manager that builds and removes them."""

    def __init__(
        self,
        nodes: Sequence[NodePlan],
        pods: Sequence[PodPlan] = (),
        outside: Sequence[OutsideHost] = (),
        tag: str = "lab",
        *,
        prefix: str = "",
    ) -> None:
        """Check the plan; `up()` builds it. Raises UsageError for a plan that can't be built.

        prefix: begins the names of all namespaces; '' for one of this process, which `netns.sweep` removes after it
        """
        check(nodes, pods, outside)
        self.nodes = {node.name: node for node in nodes}
        self.outside = {host.name: host for host in outside}
        self.pods: dict[tuple[str, str], PodPlan] = {}
        self._planned = tuple(pods)
        self._prefix = prefix or f"{netns.prefix(tag, os.getpid())}{next(_SERIAL)}-"
        # The Pods' peer interfaces in the nodes' namespaces; an interface name has at most 15 characters.
        self._ports: dict[tuple[str, str], str] = {}
        self._port_numbers = itertools.count(1)

    def __enter__(self) -> Self:
        """Build the topology."""
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the topology, also after an exception."""
        self.down()

    def up(self) -> None:
        """Build everything; after an error or an interrupt, remove all that was made.

        Raises HostError without root, br_netfilter, or the VLAN or vxlan devices of the plan; KernelError.
        """
        if os.geteuid() != 0:
            raise HostError("the lab creates network namespaces: run it as root, with sudo")
        try:
            self._build_members()
            self._attach(self._planned)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove every namespace of this lab with its interfaces; may be called twice."""
        try:
            netns.remove(netns.named(self._prefix))
        finally:
            # A second interrupt may have cut the first pass short.
            netns.remove(netns.named(self._prefix))
            self.pods.clear()
            self._ports.clear()

    def add_pod(self, pod: PodPlan) -> None:
        """Add a Pod. Raises UsageError for one that exists already or can't be built, KernelError."""
        check(tuple(self.nodes.values()), (*self.pods.values(), pod), tuple(self.outside.values()))
        try:
            self._attach((pod,))
        except BaseException:
            netns.remove([self.pod_namespace(*pod.key)])
            self._forget(pod)
            raise

    def remove_pod(self, namespace: str, name: str) -> None:
        """Remove a Pod; its addresses are unreachable on return. Raises UsageError, KernelError."""
        pod_netns = self.pod_namespace(namespace, name)
        pod = self.pods[namespace, name]
        try:
            # The link is deleted at once; the namespace stays as long as a socket or a process uses it.
            netns.ip_batch([f"link del {self._ports[pod.key]}"], self.node_namespace(pod.node))
        finally:
            netns.remove([pod_netns])
            self._forget(pod)

    def node_namespace(self, name: str) -> str:
        """Return the network namespace of a node. Raises UsageError."""
        return self._of(name, self.nodes, "node", f"node-{name}")

    def pod_namespace(self, namespace: str, name: str) -> str:
        """Return the network namespace of a Pod. Raises UsageError."""
        return self._of((namespace, name), self.pods, "Pod", _pod_name(namespace, name))

    def outside_namespace(self, name: str) -> str:
        """Return the network namespace of an outside host. Raises UsageError."""
        return self._of(name, self.outside, "host outside", f"outside-{name}")

    def command(self, namespace: str, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs a command in one of the network namespaces."""
        return ["ip", "netns", "exec", namespace, *argv]

    def _of(self, key: object, known: Iterable[object], what: str, name: str) -> str:
        if key not in known:
            raise UsageError(f"no {what} {key!r} in this lab; it has {', '.join(map(repr, known)) or 'none'}")
        return self._prefix + name

    def _forget(self, pod: PodPlan) -> None:
        del self.pods[pod.key]
        del self._ports[pod.key]

    def _build_members(self) -> None:
        underlay = self._prefix + "underlay"
        members = {self._prefix + f"node-{name}": plan for name, plan in self.nodes.items()}
        hosts = {self._prefix + f"outside-{name}": plan for name, plan in self.outside.items()}
        netns.make([underlay, *members, *hosts])
        netns.write_sysctls(underlay, ip_commands.QUIET)
        for name, plan in members.items():
            bridged = ip_commands.BRIDGED if plan.attachment == "bridge" else {}
            netns.write_sysctls(name, ip_commands.FORWARDING | bridged)
        for name in hosts:
            netns.write_sysctls(name, ip_commands.QUIET)
        ports = {name: f"port{number}" for number, name in enumerate((*members, *hosts), start=1)}
        everyone = members | hosts
        netns.ip_batch(
            ip_commands.uplink(name, underlay, port, everyone[name].addresses) for name, port in ports.items()
        )
        netns.ip_batch(ip_commands.underlay(ports.values()), underlay)
        for name, plan in members.items():
            _configure(ip_commands.node(plan, (other for other in self.nodes.values() if other != plan)), name)
        for name, host in hosts.items():
            _configure(ip_commands.outside(host, self.nodes.values()), name)
        netns.await_links(underlay, (ip_commands.UNDERLAY, *ports.values()))
        for name in everyone:
            netns.await_links(name, (ip_commands.UPLINK,))

    def _attach(self, pods: Sequence[PodPlan]) -> None:
        if not pods:
            return
        spaces = {pod: self._prefix + _pod_name(*pod.key) for pod in pods}
        self.pods |= {pod.key: pod for pod in pods}
        self._ports |= {pod.key: f"pod{next(self._port_numbers)}" for pod in pods}
        netns.make(spaces.values())
        for name in spaces.values():
            netns.write_sysctls(name, ip_commands.QUIET)
        netns.ip_batch(
            ip_commands.pod_link(pod, name, self.nodes[pod.node], self.node_namespace(pod.node), self._ports[pod.key])
            for pod, name in spaces.items()
        )
        for pod, name in spaces.items():
            netns.ip_batch(ip_commands.pod(pod, self.nodes[pod.node]), name)
        for node in {pod.node: self.nodes[pod.node] for pod in pods}.values():
            lines = (ip_commands.pod_port(pod, node, self._ports[pod.key]) for pod in pods if pod.node == node.name)
            netns.ip_batch(itertools.chain.from_iterable(lines), self.node_namespace(node.name))
        for pod, name in spaces.items():
            bridge = (ip_commands.BRIDGE,) if self.nodes[pod.node].attachment == "bridge" else ()
            netns.await_links(self.node_namespace(pod.node), (self._ports[pod.key], *bridge))
            netns.await_links(name, (ip_commands.UPLINK,))


def _configure(lines: Iterable[str], name: str) -> None:
    try:
        netns.ip_batch(lines, name)
    except KernelError as error:
        # rtnetlink's error for a link type that is neither built in nor an available module.
        found = re.search(r" type (vlan|vxlan)\b.*Unknown device type", str(error))
        if found is None:
            raise
        raise HostError(
            f"this kernel has no {found[1]} devices: run `modprobe {_MODULES[found[1]]}`, or plan another underlay"
        ) from error


def _pod_name(namespace: str, name: str) -> str:
    # Kubernetes namespaces have no dots, so the name is unique.
    return f"pod-{namespace}.{name}"
