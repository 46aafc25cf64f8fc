"""The desired state of a folder of manifests, by the settings of a command."""

from __future__ import annotations

from pathlib import Path

from nfagent.config import Settings
from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue
from nfagent.manifests.snapshot import read_state


def read_manifests(settings: Settings, folder: Path) -> tuple[DesiredState, tuple[ValidationIssue, ...]]:
    """Return the desired state of this node's agent, and the issues of the files. Raises UsageError."""
    masquerade, group = settings.masquerade_settings(), settings.logging.group
    return read_state(folder, settings.node_name, masquerade, group, settings.policy)
