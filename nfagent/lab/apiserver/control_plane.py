"""A real kube-apiserver with its own etcd, as local processes, without kubelet, scheduler or controllers.

    with ControlPlane(scratch) as plane:                       # on 127.0.0.1
        plane.client().put(document)
        plane.kubeconfig("admin")                              # for nfagent and kubectl
        plane.kill(); plane.start()                            # etcd keeps all objects meanwhile

    with ControlPlane(scratch, address="192.0.2.250", netns=topology.outside_namespace("api")) as plane:

The second form is for labs: it runs on an outside host of the topology, and every node's namespace reaches it as a
separate machine. The client of `client()` enters that namespace itself.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nfagent.errors import ClusterError
from nfagent.lab.apiserver.credentials import ADMIN, Credentials
from nfagent.lab.apiserver.kube_client import LabApiClient
from nfagent.lab.machine.binaries import ControlPlaneBinaries, find
from nfagent.lab.topology import netns as network_namespaces
from nfagent.lab.topology.processes import Processes, free_ports

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_TAIL = 3000
# Namespaces that the server creates after /readyz succeeds.
_LATE = ("default", "kube-system", "kube-public", "kube-node-lease")


class ControlPlane:
    """One etcd and one kube-apiserver; a context manager that starts and ends them."""

    def __init__(
        self,
        scratch: Path,
        *,
        address: str = "127.0.0.1",
        netns: str = "",
        users: Mapping[str, Sequence[str]] | None = None,
        flags: Sequence[str] = (),
        uncached: Sequence[str] = (),
        binaries: ControlPlaneBinaries | None = None,
        outlives: Mapping[str, str] | None = None,
    ) -> None:
        """Set the options; `up()` starts the processes.

        scratch:  folder for data, certificates and logs; created where it is missing
        address:  the API server's listen address, IPv4 or IPv6, an address of the network namespace `netns` (this
                  process's own where it is empty)
        users:    further users and their groups; the server reads them only when it starts
        flags:    further flags of kube-apiserver, such as '--feature-gates=WatchList=false'
        uncached: resources, such as 'limitranges', that are served from etcd: there `compact()` ends old watches
        outlives: variables for the environment of processes that go on when this process has ended; None: they end too
        Raises HostError where the binaries are missing.
        """
        self.address, self.netns = address, netns
        self._binaries = binaries or find()
        self._scratch = scratch.absolute()
        self._credentials = Credentials(self._scratch, users or {})
        # A watch cache of size 0 turns it off.
        self._flags = [*flags, f"--watch-cache-sizes={','.join(f'{name}#0' for name in uncached)}"]
        self._processes = Processes(self._scratch, netns, outlives, outlive=outlives is not None)
        self.port = self._etcd_port = 0

    def __enter__(self) -> Self:
        """Start both, and return when the API server is ready."""
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both."""
        self.down()

    @property
    def url(self) -> str:
        """The API server's URL, such as 'https://127.0.0.1:21234'."""
        return f"https://{_host(self.address)}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The CA bundle (PEM) that verifies the API server."""
        return self._scratch / "certificates" / "apiserver.crt"

    @property
    def pid(self) -> int:
        """The API server's process id. Raises UsageError where it isn't running."""
        return self._processes["kube-apiserver"].pid

    @property
    def is_running(self) -> bool:
        """Whether the API server was started, and not killed."""
        return "kube-apiserver" in self._processes

    def up(self) -> None:
        """Start etcd and API server. Raises ClusterError, with the end of its log, where one isn't ready in time."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        try:
            self._etcd_port, peer_port = free_ports("127.0.0.1", 2, self.netns)
            (self.port,) = free_ports(self.address, 1, self.netns)
            self._credentials.write()
            self._start_etcd(peer_port)
            self.start()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Kill both processes; their objects are lost. May be called twice."""
        for name in ("kube-apiserver", "etcd"):
            self._processes.kill(name)

    def start(self) -> None:
        """Start the API server; after `kill`, with the same port, certificates and users. Raises ClusterError."""
        options = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd_port}",
            "bind-address": self.address,
            "advertise-address": self.address,
            "secure-port": self.port,
            "cert-dir": self.ca_file.parent,
            "token-auth-file": self._credentials.tokens_file,
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self._credentials.signing_key_file,
            "service-account-signing-key-file": self._credentials.signing_key_file,
            # No controller creates the service accounts that this plugin requires for Pods.
            "disable-admission-plugins": "ServiceAccount",
            # Of the same family as its own address.
            "service-cluster-ip-range": "fd00:10:96::/112" if ":" in self.address else "10.96.0.0/16",
            # No Service `kubernetes` leads to this server.
            "endpoint-reconciler-type": "none",
        }
        self._processes.start("kube-apiserver", [str(self._binaries.kube_apiserver), *_flags(options), *self._flags])
        self._await_ready()

    def kill(self) -> None:
        """End the API server by SIGKILL; etcd and its objects stay."""
        self._processes.kill("kube-apiserver")

    def freeze(self) -> None:
        """Stop the API server by SIGSTOP: connections stay open, requests get no reply."""
        self._processes["kube-apiserver"].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the API server by SIGCONT."""
        self._processes["kube-apiserver"].send_signal(signal.SIGCONT)

    def compact(self) -> int:
        """Compact etcd to its current revision, and return that revision. Raises ClusterError."""
        revision = int(self._ask_etcd("range", {"key": base64.b64encode(b"\0").decode()})["header"]["revision"])
        self._ask_etcd("compaction", {"revision": str(revision), "physical": True})
        return revision

    def token_for(self, user: str) -> str:
        """Return a user's bearer token. Raises UsageError."""
        return self._credentials.token_for(user)

    def client(
        self, user: str = ADMIN, *, token: str = "", netns: str | None = None, timeout: float = 60.0
    ) -> LabApiClient:
        """Return a client for a user, or for any bearer token, such as a service account's.

        It connects from the network namespace `netns`, None for the API server's own. Raises UsageError.
        """
        bearer = token or self.token_for(user)
        where = self.netns if netns is None else netns
        return LabApiClient(self.address, self.port, self.ca_file, bearer, netns=where, timeout=timeout)

    def kubeconfig(self, user: str = ADMIN, *, token: str = "") -> Path:
        """Write a kubeconfig for a user, or for any token under that name; return its path. Raises UsageError."""
        return self._credentials.kubeconfig(user, token or self.token_for(user), self.url, self.ca_file)

    def log_text(self, name: str = "kube-apiserver") -> str:
        """Return the log of a process, 'etcd' or 'kube-apiserver', so far."""
        return self._processes.log_text(name)

    def _start_etcd(self, peer_port: int) -> None:
        here, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{peer_port}"
        options = {
            "name": "lab",
            "data-dir": self._scratch / "etcd",
            "listen-client-urls": here,
            "advertise-client-urls": here,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"lab={peer}",
            "log-level": "warn",
        }
        self._processes.start("etcd", [str(self._binaries.etcd), "--unsafe-no-fsync", *_flags(options)])

    def _await_ready(self) -> None:
        end = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            if dead := self._processes.exited_name():
                raise ClusterError(f"{dead} exited: {self.log_text(dead)[-_TAIL:]}")
            if time.monotonic() > end:
                raise ClusterError(
                    f"kube-apiserver isn't ready after {_READY_SECONDS:.0f} s: {self.log_text()[-_TAIL:]}"
                )
            time.sleep(_POLL_SECONDS)

    def _is_ready(self) -> bool:
        if not self.ca_file.exists():
            return False
        with contextlib.suppress(ClusterError, OSError), self.client() as client:
            ready = client.ask("GET", "/readyz").status == http.client.OK
            return ready and all(
                client.ask("GET", f"/api/v1/namespaces/{name}").status == http.client.OK for name in _LATE
            )
        return False

    def _ask_etcd(self, what: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Call etcd's gRPC gateway: its API as JSON, keys in base64 (etcd's api/etcdserverpb/rpc.proto)."""

        def ask() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=_READY_SECONDS)
            try:
                connection.request("POST", f"/v3/kv/{what}", json.dumps(body))
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        status, content = network_namespaces.inside(self.netns, ask) if self.netns else ask()
        if status != http.client.OK:
            raise ClusterError(f"etcd: {what}: {content.decode('utf-8', 'replace')}")
        answer: dict[str, Any] = json.loads(content)
        return answer


def _flags(options: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
