"""Who answers a question: the running agent, the manifests, or the kernel alone.

The agent is asked where it runs, unless a folder of manifests is named: then that is what the question is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from nfagent.cli.client import ask, ask_parts, listening
from nfagent.cli.options import FOLDER_HINT
from nfagent.cli.output import remark, remark_problems
from nfagent.config import Settings
from nfagent.edge.asking import question
from nfagent.edge.given import read_given
from nfagent.edge.kernel import Nftables
from nfagent.edge.offline import read_state
from nfagent.edge.trials import Asked, Part, Work, begin_trial, in_turns
from nfagent.errors import MachineError, Problem, UsageError
from nfagent.explain.explanation import explain, explanation_view
from nfagent.explain.trial import Seen
from nfagent.ruleset.desired import Desired
from nfagent.ruleset.differences import diff_view
from nfagent.ruleset.node_links import held_links
from nfagent.ruleset.objects import Ruleset
from nfagent.ruleset.pieces import whole
from nfagent.ruleset.scopes import check_scope
from nfagent.ruleset.standing import WHOLE
from nfagent.ruleset.views import (
    Scope,
    View,
    annotation,
    counters_view,
    policies_view,
    ruleset_parts,
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
        """Judge a connection: explain.explanation.explanation_view. Raises UsageError, MachineError."""
        ...

    def attempt(self, asked: Asked, seen: Iterable[Seen]) -> Iterator[Part]:
        """Try policies on flows, and on those between Pods; the last part has the outcome.

        Raises UsageError, MachineError.
        """
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
        return ask(self._path, f"/v1/dump/{name}", msgspec.structs.asdict(scope))

    def explain(self, source: str, destination: str) -> dict[str, Any]:
        """Judge a connection."""
        return ask(self._path, "/v1/explain", {"source": source, "destination": destination})

    def attempt(self, asked: Asked, seen: Iterable[Seen]) -> Iterator[Part]:
        """Try policies."""
        decoder = msgspec.json.Decoder(Part)
        for line in ask_parts(self._path, "/v1/try", question(asked, seen)):
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError:
                raise MachineError(
                    f"the agent at {self._path} answers otherwise than this command expects; "
                    "restart it, so that both have one version: systemctl restart nfagent"
                ) from None


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
        check_scope(self.desired, name, scope, WHOLE)
        match name:
            case "state":
                return state_view(self.desired, scope, self.problems)
            case "policies":
                return policies_view(self.desired, scope, self.problems)
        remark_problems(self.problems)
        wanted = self.desired.ruleset()
        if name == "ruleset":
            return self._ruleset(wanted, scope)
        kernel = Nftables()
        try:
            match name:
                case "kernel":
                    return self._ruleset(kernel.read_now(), scope)
                case "diff":
                    found = kernel.read_now()
                    # The files say nothing of the node's interfaces: those stay as the table has them.
                    self.desired.follow_links(held_links(found), held=True)
                    return diff_view(found, self.desired.ruleset())
                case "counters":
                    return counters_view(self.desired, kernel.counters_now(), scope)
        finally:
            kernel.close()
        raise UsageError(f"there is no view {name!r}")

    def _ruleset(self, ruleset: Ruleset, scope: Scope) -> View:
        shown = scoped(self.desired, ruleset, scope)
        found: View = whole(ruleset_parts(shown, annotation(self.desired), scope))
        return found

    def explain(self, source: str, destination: str) -> dict[str, Any]:
        """Judge a connection."""
        remark_problems(self.problems)
        return explanation_view(
            explain(self.desired.cluster, self.desired.index, source, destination, self.desired.choices)
        )

    def attempt(self, asked: Asked, seen: Iterable[Seen]) -> Iterator[Part]:
        """Try policies."""
        remark_problems(self.problems)
        given = read_given(asked.files)
        desired = self.desired
        trial = begin_trial(desired.cluster, desired.index, desired.choices, given, delete=asked.delete)
        return (part for part in in_turns(Work(trial, given, asked, seen)) if part is not None)


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

    def attempt(self, asked: Asked, seen: Iterable[Seen]) -> Iterator[Part]:  # noqa: ARG002 - as above
        """Refuse: the same."""
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
