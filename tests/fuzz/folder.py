"""A failing case as a folder of manifests that people can read and `make fuzz REPLAY=` can repeat.

`expected.json` has the question, the verdicts, and the nodes' action after each step. `01/` has the manifests of the
first step, `02/` those that the second one adds or changes; `02/DELETED` lists the files that it deletes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import yaml

from nfagent.errors import UsageError
from nfagent.kernel.backend_choice import BackendName
from nfagent.lab.topology.plan import Attachment
from tests.fuzz.case import Case, Finding, ManifestChange, Step, StepAction, step_of

_EXPECTED = "expected.json"
_DELETED = "DELETED"


class LabForm(msgspec.Struct, frozen=True):
    """What a lab is like.

    attachment: how its nodes attach their Pods
    backend:    where its agents write rules
    """

    attachment: Attachment = "routed"
    backend: BackendName = "nftables"


class Recorded(msgspec.Struct, frozen=True):
    """The content of `expected.json`.

    replay:       the command that repeats the case
    seed, number: of the run, and of the case in it
    finding:      the question, and the verdicts
    lab:          the lab in which packets were sent
    then:         the nodes' action after each step
    """

    replay: str
    seed: int
    number: int
    finding: Finding
    then: tuple[StepAction, ...]
    lab: LabForm = LabForm()


def write_case(
    folder: Path, case: Case, finding: Finding, *, seed: int, number: int, lab: LabForm | None = None
) -> str:
    """Write a case in place of an earlier one; return the command that replays it."""
    if folder.exists():
        shutil.rmtree(folder)
    for place, step in enumerate(case.steps, start=1):
        into = folder / f"{place:02}"
        into.mkdir(parents=True)
        deleted = [change.file for change in step.changes if change.document is None]
        if deleted:
            (into / _DELETED).write_text("".join(f"{name}\n" for name in deleted), encoding="utf-8")
        for change in step.changes:
            if change.text is not None:
                (into / change.file).write_text(change.text, encoding="utf-8")
    replay = f"make fuzz REPLAY={folder}"
    recorded = Recorded(replay, seed, number, finding, tuple(step.then for step in case.steps), lab or LabForm())
    written = msgspec.json.format(msgspec.json.encode(recorded), indent=2)
    (folder / _EXPECTED).write_bytes(written + b"\n")
    return replay


def read_case(folder: Path) -> tuple[Case, Recorded]:
    """Read a case as it was written, or edited since. Raises UsageError."""
    try:
        recorded = msgspec.json.decode((folder / _EXPECTED).read_bytes(), type=Recorded)
        steps = tuple(
            _read_step(folder / f"{number:02}", action) for number, action in enumerate(recorded.then, start=1)
        )
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{folder} can't be replayed: {error}; give a folder that `make fuzz` has written") from error
    return Case(steps), recorded


def _read_step(folder: Path, then: StepAction) -> Step:
    listed = folder / _DELETED
    names = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    changes = [ManifestChange(name, None) for name in names]
    changes += [
        ManifestChange(path.name, yaml.safe_load(path.read_text(encoding="utf-8"))) for path in folder.glob("*.yaml")
    ]
    return step_of(changes, then)
