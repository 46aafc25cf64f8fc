"""The container of a DaemonSet's Pod, run by podman in the network namespace of a lab's node.

    with PodContainer(DeployedPod(template, config), folder, "n1", netns, additions=Additions()) as running:
        running.execute("nfagent", "check")

It gets what kubelet would give it by the Pod's spec: arguments, environment, rights, volumes. Folders of the node are
folders of the test. Processes of the container end with the block.
"""

from __future__ import annotations

import http.client
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from nfagent import __version__
from nfagent.lab.topology import netns as network_namespaces
from tests.support.packet_labs import Document

BUILD = (Path(__file__).parents[2] / "build" / "container").resolve()
_HYBRID = Path("/sys/fs/cgroup/unified")
ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where kubelet mounts the service account's token and the CA."""
IMAGE = f"localhost/nfagent:{__version__}"
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=30000:30000")
"""Options of podman: where root may not raise limits, its own are refused."""
_PROBE_SECONDS = 5.0


def podman(*arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run podman on the storage that `make image` fills."""
    storage = ["--root", str(BUILD / "storage"), "--runroot", str(BUILD / "run"), "--storage-driver", "overlay"]
    command = [*_without_hybrid_cgroups(), "podman", *storage, "--runtime", "crun", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)


def _without_hybrid_cgroups() -> list[str]:
    """Return what hides the second version of cgroups beside the first, where crun refuses to run."""
    if not _HYBRID.is_mount():
        return []
    return ["unshare", "--mount", "sh", "-c", f'umount {_HYBRID} && exec "$@"', "sh"]


class DeployedPod(NamedTuple):
    """The Pod template of a DaemonSet, and the files of its ConfigMaps by their names."""

    template: Document
    config: Mapping[str, Mapping[str, str]]


class Additions(NamedTuple):
    """What a container gets besides: variables, read-only folders with their places, capabilities."""

    environment: Mapping[str, str] = {}
    mounts: Mapping[Path, str] = {}
    capabilities: Sequence[str] = ()


class PodContainer:
    """One container, from `start` to the end of the block."""

    def __init__(self, deployed: DeployedPod, folder: Path, node: str, netns: str, *, additions: Additions) -> None:
        """Store how it is run; folder: holds the node's folders, one for each hostPath, and the files of ConfigMaps."""
        self._spec, self._config = deployed.template["spec"], deployed.config
        (self.container,) = self._spec["containers"]
        self._folder, self._node, self._netns = folder, node, netns
        self._additions = additions
        self.name = f"nfagent-test-{os.getpid()}-{netns}"

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End and remove it."""
        self.remove()

    def host_folder(self, path: str) -> Path:
        """Return the folder that stands for one of the node."""
        return self._folder / "host" / path.lstrip("/")

    def start(self) -> None:
        """Start it. Fails the test where podman does."""
        done = podman("run", "--detach", "--name", self.name, *self._options(), IMAGE, *self.container["args"])
        assert done.returncode == 0, done.stderr

    def run_to_end(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a second one like it, for a command that ends by itself; return what it said."""
        name = f"{self.name}-second"
        return podman("run", "--rm", "--name", name, *self._options(), IMAGE, *arguments)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as `kubectl exec` does."""
        return podman("exec", self.name, *command)

    def stop(self) -> int:
        """Stop it as kubelet does, with the Pod's grace period; return its exit code: 137 where the time was over."""
        seconds = self._spec["terminationGracePeriodSeconds"]
        done = podman("stop", "--time", str(seconds), self.name)
        assert done.returncode == 0, done.stderr
        return int(podman("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)

    def remove(self) -> None:
        """End and remove it."""
        podman("rm", "--force", "--time", "5", self.name)

    @property
    def log_text(self) -> str:
        """What it wrote to its standard output and error."""
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def probe(self, name: str) -> int:
        """Make one of the container's probes from the node; return the HTTP status, 0 where nothing answers."""
        asked = self.container[name]["httpGet"]

        def ask() -> int:
            connection = http.client.HTTPConnection(asked["host"], asked["port"], timeout=_PROBE_SECONDS)
            try:
                connection.request("GET", asked["path"])
                return connection.getresponse().status
            except OSError:
                return 0
            finally:
                connection.close()

        return network_namespaces.inside(self._netns, ask)

    def _options(self) -> Iterator[str]:
        rights: dict[str, Any] = self.container["securityContext"]
        assert self._spec["hostNetwork"] is True
        yield from ("--network", f"ns:{network_namespaces.RUN / self._netns}", "--cgroups", "disabled")
        yield from LIMITS
        yield from ("--user", f"{rights['runAsUser']}:{rights['runAsGroup']}")
        yield from (f"--cap-drop={name}" for name in rights["capabilities"]["drop"])
        yield from (f"--cap-add={name}" for name in (*rights["capabilities"]["add"], *self._additions.capabilities))
        if rights["readOnlyRootFilesystem"]:
            yield from ("--read-only", "--read-only-tmpfs=false")
        if not rights["allowPrivilegeEscalation"]:
            yield from ("--security-opt", "no-new-privileges")
        for variable in self.container["env"]:
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            yield from ("--env", f"{variable['name']}={self._node if field == 'spec.nodeName' else variable['value']}")
        yield from (part for key, value in self._additions.environment.items() for part in ("--env", f"{key}={value}"))
        yield from (part for source, place in self._places() for part in ("--volume", f"{source}:{place}"))

    def _places(self) -> Iterator[tuple[Path, str]]:
        volumes = {volume["name"]: volume for volume in self._spec["volumes"]}
        for mount in self.container["volumeMounts"]:
            source = self._source(volumes[mount["name"]])
            yield source, mount["mountPath"] + (":ro" if mount.get("readOnly") else "")
        for source, place in self._additions.mounts.items():
            yield source, f"{place}:ro"

    def _source(self, volume: Document) -> Path:
        if "hostPath" in volume:
            found = self.host_folder(volume["hostPath"]["path"])
            found.mkdir(parents=True, exist_ok=True)
            return found
        name: str = volume["configMap"]["name"]
        folder = self._folder / "config" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in self._config[name].items():
            (folder / file).write_text(text, encoding="utf-8")
        return folder
