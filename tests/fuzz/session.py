"""One run: case after case until the time is up, and what becomes of the first that fails."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.errors import UsageError
from nfagent.lab.topology_plan import Attachment
from tests.fuzz.case import Case, Finding
from tests.fuzz.folder import read_case, write_case
from tests.fuzz.generator import draw_case, generator
from tests.fuzz.oracle_runner import Judges
from tests.fuzz.oracles import Make
from tests.fuzz.packets import PacketLab, fits
from tests.fuzz.report import Found, Replayed, Report, under_way
from tests.fuzz.shrink import shrink
from tests.fuzz.stats import Tally

_STEADY_EVERY = 4
"""Of so many cases one is put to the lab too: it takes longer than all the others."""

_TRIES = 2


class Plan(msgspec.Struct, frozen=True):
    """What a run is to do.

    seed:    decides every case
    seconds: after which no case is begun
    packets: whether there is a lab (root)
    attachment: how the lab's nodes attach their Pods
    build:   the folder for cases that fail, each in its own
    shrink:  how many seconds more a case that fails may take to become smaller
    """

    seed: int
    seconds: float
    packets: bool
    build: Path
    attachment: Attachment = "routed"
    shrink: float = 120.0


def fuzz(plan: Plan, show: Callable[[str], None], make: Make = DesiredState) -> Report:
    """Run; ends with the first case that fails. Raises MachineError, KernelError.

    show: is told where it is
    make: makes a node's state
    """
    began, tally = time.monotonic(), Tally()
    found = None
    number = 0
    with _judges(tally, make, plan.attachment if plan.packets else None) as judges:
        while found is None and (number == 0 or time.monotonic() - began < plan.seconds):
            show(under_way(tally, plan.seconds - (time.monotonic() - began)))
            random = generator(plan.seed, number)
            steady = number % _STEADY_EVERY == 0
            case = draw_case(random, steady=steady)
            finding = judges.search(case, random, packets=steady and plan.packets)
            if finding is not None:
                found = keep(case, finding, judges, plan, number=number, show=show)
            number += 1
    lab = plan.attachment if plan.packets else None
    return Report(plan.seed, round(time.monotonic() - began, 1), plan.packets, tally, found, lab)


def replay(folder: Path, make: Make = DesiredState, *, packets: bool = True) -> Replayed:
    """Ask a case that failed once more.

    Raises UsageError, also where packets have to be asked and aren't wanted; MachineError, KernelError.
    """
    case, recorded = read_case(folder)
    needed = "packets" in recorded.finding.verdicts
    if needed and not packets:
        raise UsageError(f"{folder}: packets have shown it, and they alone can again: replay it as root, with packets")
    with _judges(Tally(), make, recorded.attachment if needed else None) as judges:
        now = judges.repeat(case, recorded.finding, alike=False)
    return Replayed(str(folder), recorded.finding, now)


@contextlib.contextmanager
def _judges(tally: Tally, make: Make, attachment: Attachment | None) -> Iterator[Judges]:
    with contextlib.ExitStack() as stack:
        lab = None
        if attachment is not None:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-fuzz-"))
            lab = stack.enter_context(PacketLab(Path(scratch), attachment))
        yield Judges(tally, lab, make)


def keep(
    case: Case, finding: Finding, judges: Judges, plan: Plan, *, number: int, show: Callable[[str], None]
) -> Found:
    """Shrink a case that failed, and write it down.

    number: of the case in its run
    show:   is told where it is
    """
    # What comes after the failing step can't have to do with it.
    case = Case(case.steps[: finding.step + 1])
    fails = _Same(finding, judges, show)
    repeated = any(fails(case) for _ in range(_TRIES))
    end = time.monotonic() + plan.shrink
    small = shrink(case, fails, lambda: time.monotonic() > end) if repeated else case
    last = msgspec.structs.replace(finding, step=len(small.steps) - 1)
    seen = (judges.repeat(small, finding) if repeated else None) or last
    folder = plan.build / str(plan.seed)
    command = write_case(folder, small, seen, seed=plan.seed, number=number, attachment=plan.attachment)
    documents, steps = (case.documents, small.documents), (len(case.steps), len(small.steps))
    return Found(seen, str(folder), command, documents, steps, repeated)


class _Same:
    """Tells whether a case fails as one before did."""

    def __init__(self, finding: Finding, judges: Judges, show: Callable[[str], None]) -> None:
        self._finding = finding
        self._judges = judges
        self._show = show
        self._tries = 0

    def __call__(self, case: Case) -> bool:
        self._tries += 1
        self._show(f"shrinking: {case.documents} documents in {len(case.steps)} steps, try {self._tries}")
        if "packets" in self._finding.verdicts and not fits(case):
            return False
        return self._judges.repeat(case, self._finding) is not None
