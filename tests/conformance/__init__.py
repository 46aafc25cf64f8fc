"""The recorded conformance suites: cyclonus for NetworkPolicy, two of network-policy-api for the tiers above and below.

A case is a few policies, and probes with the verdict that each must get. Every case is judged by each reading of the
same objects: `evaluate`, both nodes' rulesets interpreted, and real packets in a lab with an agent on each node.

    suites     a suite's file as one common shape: cases, steps, documents, probes
    readings   `evaluate` and the rules, asked by values alone
    packets    the same probes sent in a lab
    results    what came of a case
    cover      few cases that bear every tag
    report     what came of a run: values, JSON
    show       the same for people: the table, the failures
    session    a run over all of it
    replay     a step's objects as a folder of manifests

`python -m tests.conformance` (`make conformance`) runs everything; `pytest` all cases by the first two readings, and
the packets of a cover. The suites' files lie in a folder beside the repository, or where NFAGENT_CONFORMANCE says.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("NFAGENT_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))


def load_conformance(name: str) -> dict[str, Any]:
    """Give a suite's file, or skip the module that asks, visibly, where the folder is missing."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no {name} in {FOLDER}: set NFAGENT_CONFORMANCE to its folder", allow_module_level=True)
    suite: dict[str, Any] = json.loads(path.read_bytes())
    return suite
