"""A case as values: changes of a folder of manifests, step by step; questions about flows, and findings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec
import yaml

from nfagent.cli.yaml_writer import KubectlDumper
from nfagent.policy.evaluator import Flow

Document: TypeAlias = dict[str, Any]

StepAction: TypeAlias = Literal["commit", "wait", "revoke", "clear", "clear late", "restart"]
"""Action of both nodes after a step.

commit:     commit the changes to the kernel
wait:       nothing yet
revoke:     commit, then end the denied connections of addresses under re-check
clear:      revoke, then clear the re-check of the checked addresses
clear late: commit, then clear the re-check of addresses that were checked at an earlier step
restart:    start again from the objects only, with the kernel as it was left

With packets there are real agents: they wait, or restart, and in all other cases act as for `clear`.
"""

LinkDestination: TypeAlias = Literal["link-local", "from link-local", "multicast", "broadcast", "subnet broadcast"]
"""Address of the link to which a Pod sends to another, or to its node: never allowed more than its own address."""
Kind: TypeAlias = Literal["first", "established"] | LinkDestination
"""Packets of a connection: the first one, those of both directions once established, or one to another address."""


class ManifestChange(msgspec.Struct, frozen=True):
    """A manifest file with its one document, added or changed; None where the file is deleted."""

    file: str
    document: Document | None

    @property
    def text(self) -> str | None:
        """Content of the file."""
        return None if self.document is None else yaml.dump(self.document, Dumper=KubectlDumper, sort_keys=False)


class Step(msgspec.Struct, frozen=True):
    """Simultaneous changes, one for each file, and the action of both nodes then; created by `step_of`."""

    changes: tuple[ManifestChange, ...]
    then: StepAction = "commit"


def step_of(changes: Iterable[ManifestChange], then: StepAction) -> Step:
    """Return a step: of several changes of a file the last one; deletions first, in the order in which agents read."""
    last = {change.file: change for change in changes}
    return Step(tuple(sorted(last.values(), key=lambda change: (change.document is not None, change.file))), then)


class Case(msgspec.Struct, frozen=True):
    """A history: the first step creates the cluster, the others change it."""

    steps: tuple[Step, ...]

    @property
    def documents(self) -> int:
        """Number of documents that are written."""
        return sum(change.document is not None for step in self.steps for change in step.changes)


class Question(msgspec.Struct, frozen=True):
    """A question: whether these packets of a flow pass."""

    flow: Flow
    kind: Kind = "first"

    def __str__(self) -> str:
        """Return the question as text."""
        kinds = {"first": "", "established": ", once established"}
        return f"{self.flow}{kinds.get(self.kind, f', by link address: {self.kind}')}"


class Finding(msgspec.Struct, frozen=True):
    """Oracles that differ, after a step of a case (counted from 0).

    question: None where an oracle failed, or has other rules than expected
    verdicts: oracle -> 'allowed', 'denied', or the name of the exception that it raised
    place:    node and hook, or similar
    """

    step: int
    question: Question | None
    verdicts: dict[str, str]
    place: str = ""

    def like(self, other: Finding | None) -> bool:
        """Return whether it is the same difference, at any place."""
        return other is not None and (self.question, self.verdicts) == (other.question, other.verdicts)

    def __str__(self) -> str:
        """Return the finding as one line."""
        said = ", ".join(f"{judge}: {verdict}" for judge, verdict in self.verdicts.items())
        where = f" ({self.place})" if self.place else ""
        return f"{self.question or 'no flow'}: {said}{where}"


def verdict_text(allowed: bool) -> str:  # noqa: FBT001 - verdicts are booleans everywhere
    """Return a verdict as in findings."""
    return "allowed" if allowed else "denied"
