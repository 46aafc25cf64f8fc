"""Policy files that a simulation applies: their names and policies."""

from __future__ import annotations

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.admin_policy import Policy


class PolicyFile(msgspec.Struct, frozen=True):
    """A file's name, as it is shown, and its text."""

    name: str
    text: str


class PolicyFiles(msgspec.Struct, frozen=True):
    """What the files hold.

    policies: at least one, each once
    problems: why some of them can't be enforced as they are written; these fail closed
    """

    policies: tuple[Policy, ...]
    problems: tuple[ValidationIssue, ...] = ()
