"""Policy files that a simulation applies: their names and policies."""

from __future__ import annotations

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.admin_policy import Policy
from nfagent.model.gvk import EgressObject


class PolicyFile(msgspec.Struct, frozen=True):
    """A file: the name that messages show, and its text."""

    name: str
    text: str


class PolicyFiles(msgspec.Struct, frozen=True):
    """The policies of files.

    policies: each once
    problems: why some objects can't be enforced as written; such policies fail closed
    egress:   EgressNATPolicies, NetworkGatewayGroups and the ip-masq-agent ConfigMap, each once; there is at
              least one object
    """

    policies: tuple[Policy, ...]
    problems: tuple[ValidationIssue, ...] = ()
    egress: tuple[EgressObject, ...] = ()
