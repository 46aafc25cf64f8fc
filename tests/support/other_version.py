"""An earlier version of nfagent, from this repository's history, whose agent runs with the packages of this one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.machine.binaries import CHECKOUT

BASELINE = "f6ecf28b85cde92647827e976a783ac69ce3e5bf"
"""The commit that stands for the last release until there is one: its table has neither counters by Pod, nor chains of
audit mode, and logs by another rule. A release's tag takes its place."""


def last_release() -> str:
    """Return the newest tag of a release before this commit; the baseline without one, '' without its history."""
    tag = _git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^")
    if tag:
        return tag
    return BASELINE if _git("cat-file", "-t", BASELINE) == "commit" else ""


def check_out(version: str, folder: Path) -> Path:
    """Write the files of a version into a new folder, and return it."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", version, "nfagent"], cwd=CHECKOUT, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def use(agent: LabAgent, checkout: Path | None) -> None:
    """Have an agent that isn't running be of another checkout from its next start on; None for this one."""
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        agent.environment.pop(name, None)
    if checkout is not None:
        # A safe path leaves out the current folder, in which this version's modules may be.
        agent.environment |= {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}


def _git(*arguments: str) -> str:
    """Return what git says; '' where it fails, also because there is no repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
