"""The same policy as an eBPF program at tc: the reference for measurements, an eBPF dataplane on the same links.

    with EbpfPath(topology.node_namespace("n1")) as path:
        web = path.attach(topology.pod_namespace("shop", "web"))
        path.identify("10.244.2.11", 1001)
        path.allow(web, "ingress", 1001, port=80, protocol="tcp")     # from the next connection on
        path.allow_all(web, "egress")

An attached Pod denies every new connection in both directions until entries allow it. Entries are written one by one,
for benchmarks; `agent` drives the same program from the cluster's objects.
"""

from __future__ import annotations

import subprocess
from types import TracebackType
from typing import Self

import msgspec

from nfagent.errors import KernelError
from nfagent.lab.ebpf.codec import (
    NO_PACKETS,
    EndpointEntry,
    address_key,
    endpoint_value,
    number_value,
    policy_key,
)
from nfagent.lab.ebpf.program import EbpfProgram, Maps
from nfagent.model.objects import Direction, Protocol


class EbpfPath:
    """The program on the links of some Pods of one node; a context manager that loads and unloads it."""

    def __init__(self, node_netns: str) -> None:
        """Set the node's network namespace; nothing is loaded yet."""
        self._program = EbpfProgram(node_netns)

    def __enter__(self) -> Self:
        """Compile and load the program. Raises HostError, KernelError."""
        self._program.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach the program from all links and unload it."""
        self.close()

    @property
    def maps(self) -> Maps:
        """The maps, for keys that are encoded beforehand. Raises UsageError before the program is loaded."""
        return self._program.maps

    def attach(self, pod_netns: str) -> int:
        """Attach the program to a Pod's link; return its endpoint, the interface index of the link on the node's side.

        Its policy has the same number. Raises KernelError, UsageError before it is loaded.
        """
        endpoints = self.maps.endpoints
        endpoint = link_of(pod_netns)
        endpoints.update(number_value(endpoint), endpoint_value(EndpointEntry(endpoint, endpoint)))
        self._program.attach(endpoint)
        return endpoint

    def identify(self, block: str, identity: int) -> None:
        """Add the identity of an address or CIDR. Raises UsageError, KernelError."""
        self.maps.identities.update(address_key(block), number_value(identity))

    def forget(self, block: str) -> bool:
        """Remove an address's identity; return whether it had one."""
        return self.maps.identities.delete(address_key(block))

    def allow(
        self, endpoint: int, direction: Direction, identity: int = 0, port: int = 0, protocol: Protocol | str = ""
    ) -> None:
        """Allow new connections; zeros and '' are wildcards. Raises UsageError, KernelError."""
        self.maps.policies.update(policy_key(endpoint, direction, identity, port, protocol), NO_PACKETS)

    def allow_all(self, endpoint: int, direction: Direction) -> None:
        """Allow all in one direction, as for a Pod that no policy isolates."""
        self.allow(endpoint, direction)

    def revoke(
        self, endpoint: int, direction: Direction, identity: int = 0, port: int = 0, protocol: Protocol | str = ""
    ) -> bool:
        """Remove an entry; return whether it existed. Established connections go on."""
        return self.maps.policies.delete(policy_key(endpoint, direction, identity, port, protocol))

    def close(self) -> None:
        """Detach from every link that still exists, and unload; may be called twice."""
        self._program.close()


def link_of(pod_netns: str) -> int:
    """Return the interface index, in the node's namespace, of the other end of a Pod's eth0. Raises KernelError."""
    command = ["ip", "-n", pod_netns, "-json", "link", "show", "dev", "eth0"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=30)
    if done.returncode:
        raise KernelError(f"no eth0 in {pod_netns}: {done.stderr.decode('utf-8', 'replace').strip()}")
    [link] = msgspec.json.decode(done.stdout)
    return int(link["link_index"])
