"""Who answers a question: the running agent, the manifests, or the kernel alone.

The agent is asked where it runs, unless a folder of manifests is named: then that is what the question is about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from nfagent.cli.client import ask, listening
from nfagent.cli.options import FOLDER_HINT
from nfagent.cli.output import remark, remark_problems
from nfagent.config import Settings
from nfagent.edge.kernel import Nftables
from nfagent.edge.offline import read_state
from nfagent.errors import Problem, UsageError
from nfagent.policy.explain import explain, explanation_view
from nfagent.ruleset.desired import Desired
from nfagent.ruleset.views import (
    Scope,
    View,
    annotation,
    counters_view,
    diff_view,
    policies_view,
    ruleset_view,
    scoped,
    state_view,
)


class Answers(Protocol):
    """What can be asked."""

    def view(self, name: str, scope: Scope) -> View:
        """Give a view of `dump`. Raises UsageError, KernelError, MachineError."""
        ...

    def explain(self, source: str, destination: str) -> dict[str, Any]:
        """Judge a connection: policy.explain.explanation_view. Raises UsageError, MachineError."""
        ...


def find_answers(settings: Settings, *, from_files: bool) -> Answers:
    """Find who answers. Raises UsageError, MachineError.

    from_files: a folder was named on the command line
    """
    if not from_files and listening(settings.socket_path):
        return AgentAnswers(settings.socket_path)
    if not settings.manifests:
        return KernelAnswers(settings.socket_path)
    if not from_files:
        remark("note", f"no agent listens at {settings.socket_path}; this is from {settings.manifests}")
    return FolderAnswers(settings)


class AgentAnswers:
    """The running agent's."""

    def __init__(self, path: Path) -> None:
        """Ask at that socket."""
        self._path = path

    def view(self, name: str, scope: Scope) -> View:
        """Give a view of `dump`."""
        return ask(self._path, f"/v1/dump/{name}", {"namespace": scope.namespace, "pod": scope.pod})

    def explain(self, source: str, destination: str) -> dict[str, Any]:
        """Judge a connection."""
        return ask(self._path, "/v1/explain", {"source": source, "destination": destination})


class FolderAnswers:
    """The manifests', and the kernel's where a view is about it.

    desired:  what the manifests ask for
    problems: what is wrong with them
    """

    def __init__(self, settings: Settings) -> None:
        """Read the folder. Raises UsageError."""
        self.desired, self.problems = _read(settings)

    def view(self, name: str, scope: Scope) -> View:
        """Give a view of `dump`."""
        match name:
            case "state":
                return state_view(self.desired, scope, self.problems)
            case "policies":
                return policies_view(self.desired, scope, self.problems)
        remark_problems(self.problems)
        wanted = self.desired.ruleset()
        if name == "ruleset":
            return ruleset_view(scoped(self.desired, wanted, scope), annotation(self.desired))
        kernel = Nftables()
        try:
            match name:
                case "kernel":
                    shown = scoped(self.desired, kernel.read_now(), scope)
                    return ruleset_view(shown, annotation(self.desired))
                case "diff":
                    return diff_view(kernel.read_now(), wanted)
                case "counters":
                    return counters_view(self.desired, kernel.counters_now(), scope)
        finally:
            kernel.close()
        raise UsageError(f"there is no view {name!r}")

    def explain(self, source: str, destination: str) -> dict[str, Any]:
        """Judge a connection."""
        remark_problems(self.problems)
        return explanation_view(
            explain(self.desired.cluster, self.desired.index, source, destination, self.desired.choices)
        )


class KernelAnswers:
    """What is loaded, and no more: there is neither an agent nor a folder."""

    def __init__(self, path: Path) -> None:
        """Keep in mind where no agent was."""
        self._path = path

    def view(self, name: str, scope: Scope) -> View:
        """Give the view `kernel`, whole."""
        if name != "kernel" or scope.namespace or scope.pod:
            raise self._nobody()
        kernel = Nftables()
        try:
            return ruleset_view(kernel.read_now(), None)
        finally:
            kernel.close()

    def explain(self, source: str, destination: str) -> dict[str, Any]:  # noqa: ARG002 - as Answers has it
        """Refuse: the rules alone don't know Pods."""
        raise self._nobody()

    def _nobody(self) -> UsageError:
        return UsageError(
            f"no agent listens at {self._path}, and there are no manifests to read instead; "
            f"start it (systemctl start nfagent), or {FOLDER_HINT}"
        )


def _read(settings: Settings) -> tuple[Desired, tuple[Problem, ...]]:
    desired, problems = read_state(
        Path(settings.manifests),
        settings.node_name,
        settings.masquerade_settings(),
        settings.logging.group,
        settings.policy,
    )
    known = sorted(desired.cluster.nodes)
    if desired.cluster.node not in known:
        there = ", ".join(known) or "none at all"
        remark("warning", f"no Node {desired.cluster.node} in the manifests (there: {there}); name it with --node")
    return desired, problems
