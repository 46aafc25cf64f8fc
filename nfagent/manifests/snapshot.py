"""Reads a folder of manifests once into a desired state, for commands that need no running agent."""

from __future__ import annotations

from pathlib import Path

from nfagent.desired.state import DesiredState
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.errors import ValidationIssue
from nfagent.manifests.folder_scan import read_folder
from nfagent.manifests.index import ManifestIndex
from nfagent.model.objects import ObjectRef
from nfagent.policy.options import PolicyOptions


def read_state(
    folder: Path,
    node: str,
    masquerade: MasqueradeSettings,
    log_group: int,
    policy_options: PolicyOptions | None = None,
) -> tuple[DesiredState, tuple[ValidationIssue, ...]]:
    """Return the desired state of the node's agent, and the issues of the files. Raises UsageError."""
    known = ManifestIndex()
    desired = DesiredState(node, masquerade, log_group, policy_options)
    for event in read_folder(folder, known):
        if isinstance(event, ObjectRef):
            desired.remove(event)
        else:
            desired.put(event)
    return desired, (*known.problems, *known.foreign)
