"""Policy files that a simulation applies: their names and policies."""

from __future__ import annotations

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.admin_policy import Policy


class PolicyFile(msgspec.Struct, frozen=True):
    """A file: the name that messages show, and its text."""

    name: str
    text: str


class PolicyFiles(msgspec.Struct, frozen=True):
    """The policies of files.

    policies: at least one, each once
    problems: why some of them can't be enforced as written; these fail closed
    """

    policies: tuple[Policy, ...]
    problems: tuple[ValidationIssue, ...] = ()
