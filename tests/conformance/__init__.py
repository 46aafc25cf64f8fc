"""The recorded conformance suites: cyclonus for NetworkPolicy, two of network-policy-api for the tiers above and below.

A case is a few policies, and probes with their expected verdicts. Every case is checked by each implementation of the
same objects: `evaluate`, both nodes' rulesets interpreted, and real packets in a lab with an agent on each node.

    suites     a suite's file as one common shape: cases, steps, documents, probes
    readings   `evaluate` and the interpreted rules
    packets    the same probes, sent in a lab
    results    the result of a case
    cover      few cases that together have every tag
    report     the report of a run: values, JSON
    show       the report as text: the table, the failures
    session    a run over all suites
    replay     a step's objects as a folder of manifests

`python -m tests.conformance` (`make conformance`) runs everything; `pytest` all cases by the first two readings, and
the packets of a cover. The suites' files lie in `data/`, whose README names their sources.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"


def load_conformance(name: str) -> dict[str, Any]:
    """Return the content of a suite's file."""
    suite: dict[str, Any] = json.loads((FOLDER / name).read_bytes())
    return suite
