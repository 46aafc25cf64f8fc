"""An earlier version of nfagent, to compare with: a checkout of it, whose code runs with this interpreter.

    git worktree add ../before v0.1.0
    NFAGENT_BENCH_BEFORE=../before python -m benchmarks --only commits

Only nfagent is the earlier one: benchmarks, and with them labs, clusters and traffic, are of this checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.harness.child_process import ROOT
from nfagent.errors import HostError

VARIABLE = "NFAGENT_BENCH_BEFORE"


def earlier_checkout() -> Path:
    """Return the earlier version's checkout. Raises HostError where the environment names none."""
    named = os.environ.get(VARIABLE, "")
    checkout = Path(named)
    # An empty path is the current folder, which may be this checkout.
    if not named or not (checkout / "nfagent" / "__main__.py").exists():
        raise HostError(f"no earlier version to compare with: set {VARIABLE}=FOLDER, a checkout of it")
    return checkout.resolve()


def has_earlier_checkout() -> bool:
    """Return whether the environment names an earlier version. Raises HostError where there is none at that path."""
    return VARIABLE in os.environ and bool(earlier_checkout())


def agent_environment(checkout: Path) -> dict[str, str]:
    """Return the environment variables with which `python -m nfagent` is that checkout's."""
    # PYTHONSAFEPATH: else the current folder would precede PYTHONPATH.
    return {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}


def benchmark_environment(checkout: Path, folder: Path) -> dict[str, str]:
    """Return the environment variables with which a module of this checkout's benchmarks imports that nfagent.

    folder: a temporary one, which gets a link to each of both packages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package, origin in (("nfagent", checkout), ("benchmarks", ROOT)):
        (folder / package).symlink_to(origin / package)
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
