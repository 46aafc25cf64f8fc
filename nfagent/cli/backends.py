"""Backends of `dump`, `explain` and `try`: the running agent, a folder of manifests, or the kernel alone.

The running agent answers, unless the command line names a folder of manifests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

import msgspec

from nfagent.cli.manifest_state import read_manifests
from nfagent.cli.options import FOLDER_HINT
from nfagent.cli.output import write_problems, write_remark
from nfagent.config import Settings, lowering_options
from nfagent.desired.node_interfaces import held_links
from nfagent.desired.state import DesiredState
from nfagent.errors import HostError, UsageError, ValidationIssue
from nfagent.explain.explanation import ExplanationAnswer, explain, explanation_view
from nfagent.introspection.agent_client import SLOW_SECONDS, get_json, get_lines, is_listening, post_lines
from nfagent.introspection.answer_format import answer_format
from nfagent.introspection.chunks import whole
from nfagent.introspection.diff_report import diff_view
from nfagent.introspection.freshness import WHOLE
from nfagent.introspection.view_filter import ViewFilter, check_scope
from nfagent.introspection.views import (
    View,
    annotation,
    counters_view,
    policies_view,
    ruleset_parts,
    ruleset_view,
    scoped,
    state_view,
)
from nfagent.kernel.ruleset_reader import ruleset_reader
from nfagent.manifests.ip_masq_reader import read_ip_masq_file
from nfagent.manifests.policy_file_reader import decode_policies
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.simulate.codec import encode_request
from nfagent.simulate.job import SimulationJob, SimulationPart, SimulationRequest, run_in_slices, start_simulation
from nfagent.simulate.matrix import matrix_of
from nfagent.simulate.matrix_answer import MatrixPart, MatrixRequest, port_text
from nfagent.simulate.simulation import ObservedFlow
from nfagent.simulate.translations import EgressInputs
from nfagent.xtables.options import LoweringOptions

_Part = TypeVar("_Part")


class Backend(Protocol):
    """Answers `dump`, `explain` and `try`."""

    def view(self, name: str, scope: ViewFilter) -> View:
        """Return a view of `dump`. Raises UsageError, KernelError, HostError."""
        ...

    def explain(self, source: str, destination: str) -> dict[str, Any]:
        """Return the verdict on a connection as explain.explanation.explanation_view. Raises UsageError, HostError."""
        ...

    def simulate(self, asked: SimulationRequest, seen: Iterable[ObservedFlow]) -> Iterator[SimulationPart]:
        """Evaluate flows before and after a policy change; the last part has the result.

        Raises UsageError, HostError.
        """
        ...

    def matrix(self, asked: MatrixRequest) -> Iterator[MatrixPart]:
        """Judge who reaches whom, in parts. Raises UsageError, HostError."""
        ...


def find_backend(settings: Settings, *, from_files: bool) -> Backend:
    """Return the backend that answers. Raises UsageError, HostError.

    from_files: the command line names a folder
    """
    if not from_files and is_listening(settings.socket_path):
        return AgentBackend(settings.socket_path)
    if not settings.manifests:
        return KernelBackend(settings)
    if not from_files:
        write_remark("note", f"no agent listens at {settings.socket_path}; answered from {settings.manifests}")
    return FolderBackend(settings)


class AgentBackend:
    """Asks the running agent."""

    def __init__(self, path: Path) -> None:
        """Ask at this socket."""
        self._path = path

    def view(self, name: str, scope: ViewFilter) -> View:
        """Return a view of `dump`."""
        return get_json(self._path, f"/v1/dump/{name}", msgspec.structs.asdict(scope), seconds=SLOW_SECONDS)

    def explain(self, source: str, destination: str) -> dict[str, Any]:
        """Return the verdict on a connection."""
        asked = {"source": source, "destination": destination}
        found = get_json(self._path, "/v1/explain", asked, seconds=SLOW_SECONDS)
        with answer_format("the running agent's explanation has"):
            msgspec.convert(found, ExplanationAnswer)
        return found

    def simulate(self, asked: SimulationRequest, seen: Iterable[ObservedFlow]) -> Iterator[SimulationPart]:
        """Evaluate flows before and after a policy change."""
        return self._decoded(post_lines(self._path, "/v1/try", encode_request(asked, seen)), SimulationPart)

    def matrix(self, asked: MatrixRequest) -> Iterator[MatrixPart]:
        """Judge who reaches whom."""
        ports = [("port", port_text(span)) for span in asked.ports]
        query = urlencode([("namespace", asked.namespace), *ports])
        return self._decoded(get_lines(self._path, f"/v1/matrix?{query}"), MatrixPart)

    def _decoded(self, lines: Iterator[bytes], kind: type[_Part]) -> Iterator[_Part]:
        decoder = msgspec.json.Decoder(kind)
        for line in lines:
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise HostError(
                    f"the agent at {self._path} is of another version than this command",
                    hint="systemctl restart nfagent",
                ) from None


class FolderBackend:
    """Answers from a folder of manifests, and from the kernel for the views `kernel`, `diff` and `counters`.

    desired:  the desired state by the manifests, and by that file
    problems: what is wrong with the manifests, and with the ip-masq-agent file of this node
    """

    def __init__(self, settings: Settings) -> None:
        """Read the folder. Raises UsageError."""
        self.desired, self.problems = _read(settings)
        self._setting = settings.backend
        self._options = lowering_options(settings.iptables)

    def view(self, name: str, scope: ViewFilter) -> View:
        """Return a view of `dump`."""
        check_scope(self.desired, name, scope, WHOLE)
        match name:
            case "state":
                self.desired.drain_changes()  # holders of floating addresses are found with the ruleset
                return state_view(self.desired, scope, self.problems)
            case "policies":
                self.desired.drain_changes()  # ties too
                return policies_view(self.desired, scope, self.problems)
        write_problems(self.problems)
        wanted = self.desired.ruleset()
        if name == "ruleset":
            return self._ruleset(wanted, scope)
        with ruleset_reader(self._setting, self.desired.ruleset, self._options) as kernel:
            match name:
                case "kernel":
                    return self._ruleset(kernel.read_now(), scope)
                case "diff":
                    found = kernel.read_now()
                    # Manifests don't describe the node's interfaces: those of the table are kept.
                    self.desired.follow_links(held_links(found), held=True)
                    wanted = self.desired.ruleset()
                    return diff_view(found, wanted, kernel.shell_commands(found, wanted))
                case "counters":
                    return counters_view(self.desired, kernel.counters_now(), scope)
        raise UsageError(f"there is no view {name!r}")

    def _ruleset(self, ruleset: Ruleset, scope: ViewFilter) -> View:
        shown = scoped(self.desired, ruleset, scope)
        found: View = whole(ruleset_parts(shown, annotation(self.desired), scope))
        return found

    def explain(self, source: str, destination: str) -> dict[str, Any]:
        """Return the verdict on a connection."""
        write_problems(self.problems)
        desired = self.desired
        for _ in desired.prepare():
            pass
        return explanation_view(
            explain(desired.cluster, desired.index, source, destination, desired.policy_options, desired.translation)
        )

    def simulate(self, asked: SimulationRequest, seen: Iterable[ObservedFlow]) -> Iterator[SimulationPart]:
        """Evaluate flows before and after a policy change."""
        write_problems(self.problems)
        given = decode_policies(asked.files)
        desired = self.desired
        egress = EgressInputs(desired.egress, desired.masquerade_settings, desired.cluster_ranges)
        simulation = start_simulation(
            desired.cluster, desired.index, desired.policy_options, given, delete=asked.delete, egress=egress
        )
        return (part for part in run_in_slices(SimulationJob(simulation, given, asked, seen)) if part is not None)

    def matrix(self, asked: MatrixRequest) -> Iterator[MatrixPart]:
        """Judge who reaches whom."""
        write_problems(self.problems)
        for _ in self.desired.prepare():
            pass
        return (part for part in matrix_of(self.desired, asked).parts() if part is not None)


class KernelBackend:
    """Answers `dump kernel` alone: there is neither an agent nor a folder."""

    def __init__(self, settings: Settings) -> None:
        """Name the socket where no agent listens in errors."""
        self._path = settings.socket_path
        self._setting = settings.backend

    def view(self, name: str, scope: ViewFilter) -> View:
        """Return the view `kernel`, unfiltered."""
        if name != "kernel" or scope.namespace or scope.pod:
            raise self._no_backend()
        with ruleset_reader(self._setting, lambda: ABSENT, LoweringOptions()) as kernel:
            found = kernel.read_now()
            if found.exists and not kernel.is_nftables:
                raise UsageError(
                    "names in iptables and ipset are digests, so these rules can't be named without the objects",
                    hint=f"start the agent (systemctl start nfagent), or {FOLDER_HINT}; or read iptables-save and "
                    "ipset list",
                )
            return ruleset_view(found, None)

    def explain(self, source: str, destination: str) -> dict[str, Any]:  # noqa: ARG002 - as the protocol has it
        """Raise UsageError: the ruleset alone doesn't name Pods."""
        raise self._no_backend()

    def simulate(self, asked: SimulationRequest, seen: Iterable[ObservedFlow]) -> Iterator[SimulationPart]:  # noqa: ARG002 - as above
        """Raise UsageError, as `explain` does."""
        raise self._no_backend()

    def matrix(self, asked: MatrixRequest) -> Iterator[MatrixPart]:  # noqa: ARG002 - as above
        """Raise UsageError, as `explain` does."""
        raise self._no_backend()

    def _no_backend(self) -> UsageError:
        return UsageError(
            f"no agent listens at {self._path}, and there are no manifests to read instead",
            hint=f"start the agent (systemctl start nfagent), or {FOLDER_HINT}",
        )


def _read(settings: Settings) -> tuple[DesiredState, tuple[ValidationIssue, ...]]:
    desired, problems = read_manifests(settings, Path(settings.manifests))
    path = settings.masquerade.config_file
    config, wrong = read_ip_masq_file(path)
    desired.put_ip_masq_file(path, config)
    known = sorted(desired.cluster.nodes)
    if desired.cluster.node not in known:
        there = ", ".join(known) or "none"
        write_remark("warning", f"no Node {desired.cluster.node} in the manifests (Nodes: {there}); give --node NAME")
    return desired, (*problems, *wrong)
