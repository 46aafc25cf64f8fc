"""The state that a folder of manifests describes, read once: for commands that need no running agent."""

from __future__ import annotations

from pathlib import Path

from nfagent.cluster.model import Ref
from nfagent.edge.folder_look import read_folder
from nfagent.edge.manifests import Folder
from nfagent.egress.plan import MasqueradeSettings
from nfagent.errors import Problem
from nfagent.policy.choices import Choices
from nfagent.ruleset.desired import Desired


def read_state(
    folder: Path,
    node: str,
    masquerade: MasqueradeSettings,
    log_group: int,
    choices: Choices | None = None,
) -> tuple[Desired, tuple[Problem, ...]]:
    """Give the state, as the agent of that node would have it, and what is wrong with the files. Raises UsageError."""
    known = Folder()
    desired = Desired(node, masquerade, log_group, choices)
    for event in read_folder(folder, known):
        if isinstance(event, Ref):
            desired.remove(event)
        else:
            desired.put(event)
    return desired, known.problems
