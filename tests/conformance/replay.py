"""Writes the objects after a step as a folder of manifests, to look into a case."""

from __future__ import annotations

import shutil
from pathlib import Path

from nfagent.model.objects import ObjectRef
from tests.conformance.results import Failure
from tests.conformance.suites import Case, Suite, states
from tests.support.packet_labs import as_text


def file_name(ref: ObjectRef) -> str:
    """Return the manifest file of an object."""
    return "-".join(part for part in (ref.kind.lower(), ref.namespace, ref.name) if part) + ".yaml"


def write(folder: Path, suite: Suite, case: Case, number: int) -> Path:
    """Write what a step of a case leaves, in a folder of its own within `folder`; give that one."""
    within = folder / f"{case.id}-step-{number}"
    shutil.rmtree(within, ignore_errors=True)
    within.mkdir(parents=True)
    for step, state in states(suite, case):
        if step.number == number:
            for ref, document in state.items():
                (within / file_name(ref)).write_text(as_text([document]), encoding="utf-8")
    return within


def command(folder: Path, node: str, failure: Failure) -> str:
    """Return the command that explains the verdict on a failed probe."""
    flow = failure.flow
    if flow is None:
        return f"nfagent render --manifests {folder} --node {node}"
    host = f"[{flow.destination}]" if ":" in flow.destination else flow.destination
    return f"nfagent explain --manifests {folder} --node {node} {flow.source} {host}:{flow.port}/{flow.protocol}"
