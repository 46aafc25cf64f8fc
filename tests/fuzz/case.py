"""A case as values: what happens to a folder of manifests, step by step, and what its judges were asked and said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec
import yaml

from nfagent.cli.yaml_writer import KubectlDumper
from nfagent.policy.evaluator import Flow

Document: TypeAlias = dict[str, Any]

Fate: TypeAlias = Literal["commit", "wait", "judge", "absolve", "absolve late", "restart"]
"""What both nodes do after a step.

commit:       tell the kernel what changed
wait:         nothing yet
judge:        commit, then end the live connections that are denied, of those under re-check
absolve:      judge, then take those out of re-check who were judged
absolve late: commit, then take those out who were judged at an earlier step
restart:      begin anew from the objects alone, on a kernel that holds what was told before

With packets there are real agents: they wait, or restart, or else do everything, as `absolve` says.
"""

Way: TypeAlias = Literal["link-local", "from link-local", "multicast", "broadcast", "subnet broadcast"]
"""By which address of their link a Pod calls another, or its node: never as good as by its own (`link_scope`)."""
Kind: TypeAlias = Literal["first", "established"] | Way
"""Which packets of a connection: the one that opens it, those of both ways once it lives, or one by another address."""


class Change(msgspec.Struct, frozen=True):
    """A manifest file with its one document, new or changed; None where the file is deleted."""

    file: str
    document: Document | None

    @property
    def text(self) -> str | None:
        """What the file holds."""
        return None if self.document is None else yaml.dump(self.document, Dumper=KubectlDumper, sort_keys=False)


class Step(msgspec.Struct, frozen=True):
    """Changes that happen together, one for each file, and what both nodes do then; `step_of` makes one."""

    changes: tuple[Change, ...]
    then: Fate = "commit"


def step_of(changes: Iterable[Change], then: Fate) -> Step:
    """Make a step: of several changes of a file the last counts; what goes comes first, as agents read a folder."""
    last = {change.file: change for change in changes}
    return Step(tuple(sorted(last.values(), key=lambda change: (change.document is not None, change.file))), then)


class Case(msgspec.Struct, frozen=True):
    """A history: the first step makes the world, the others change it."""

    steps: tuple[Step, ...]

    @property
    def documents(self) -> int:
        """Count the documents that are written."""
        return sum(change.document is not None for step in self.steps for change in step.changes)


class Question(msgspec.Struct, frozen=True):
    """What was asked: whether these packets of a flow pass."""

    flow: Flow
    kind: Kind = "first"

    def __str__(self) -> str:
        """Say it in words."""
        kinds = {"first": "", "established": ", once established"}
        return f"{self.flow}{kinds.get(self.kind, f', called otherwise: {self.kind}')}"


class Finding(msgspec.Struct, frozen=True):
    """Judges that don't agree, after a step of a case (counted from 0).

    question: None where a judge failed, or has other rules than it should: those of a fresh start, those it wants
    verdicts: judge -> 'allowed', 'denied', or what else became of it: the name of the error that it ended with
    place:    where it was seen, in words
    """

    step: int
    question: Question | None
    verdicts: dict[str, str]
    place: str = ""

    def like(self, other: Finding | None) -> bool:
        """Tell whether it is the same disagreement, wherever it was seen."""
        return other is not None and (self.question, self.verdicts) == (other.question, other.verdicts)

    def __str__(self) -> str:
        """Say it in a line."""
        said = ", ".join(f"{judge}: {verdict}" for judge, verdict in self.verdicts.items())
        where = f" ({self.place})" if self.place else ""
        return f"{self.question or 'no flow'}: {said}{where}"


def in_words(allowed: bool) -> str:  # noqa: FBT001 - a verdict is a boolean wherever one is computed
    """Write a verdict as findings have it."""
    return "allowed" if allowed else "denied"
