"""One run: cases until the time is up, and the handling of the first that fails."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.errors import UsageError
from nfagent.kernel.backend_choice import BackendName
from nfagent.lab.topology.plan import Attachment
from tests.fuzz.case import Case, Finding
from tests.fuzz.folder import LabForm, read_case, write_case
from tests.fuzz.generator import draw_case, generator
from tests.fuzz.oracle_runner import OracleRunner
from tests.fuzz.oracles import Make
from tests.fuzz.packets import PacketLab, fits
from tests.fuzz.report import Found, Replayed, Report, progress_text
from tests.fuzz.shrink import shrink
from tests.fuzz.stats import Counts
from tests.fuzz.tables import KernelTables

_STEADY_EVERY = 4
"""One in so many cases uses the lab too, which takes longer than all the others."""

_TABLES_EVERY, _TABLES_AT = 4, 2
"""One in so many cases compares real tables: case 2, 6, 10, … of a run, whose seed determines them as it does all."""

_TRIES = 2


class FuzzPlan(msgspec.Struct, frozen=True):
    """Parameters of a run.

    seed:       determines every case
    seconds:    no case is started after these
    packets:    whether there is a lab, and real tables (root)
    attachment: how the lab's nodes attach their Pods
    backend:    where the lab's agents write rules
    build:      folder of failing cases, each in its own
    shrink:     additional seconds for shrinking a failing case, and until it has become smaller once where it can
    """

    seed: int
    seconds: float
    packets: bool
    build: Path
    attachment: Attachment = "routed"
    backend: BackendName = "nftables"
    shrink: float = 120.0


def fuzz(plan: FuzzPlan, show: Callable[[str], None], make: Make = DesiredState) -> Report:
    """Run until the first failing case. Raises HostError, KernelError.

    show: shows progress
    make: returns a node's state
    """
    began, counts = time.monotonic(), Counts()
    found = None
    number = 0
    lab = LabForm(plan.attachment, plan.backend) if plan.packets else None
    with _runner(counts, make, lab, tables=plan.packets) as runner:
        while found is None and (number == 0 or time.monotonic() - began < plan.seconds):
            show(progress_text(counts, plan.seconds - (time.monotonic() - began)))
            random = generator(plan.seed, number)
            steady, tables = number % _STEADY_EVERY == 0, number % _TABLES_EVERY == _TABLES_AT
            case = draw_case(random, steady=steady)
            finding = runner.search(case, random, packets=steady and plan.packets, tables=tables and plan.packets)
            if finding is not None:
                found = keep(case, finding, runner, plan, number=number, show=show)
            number += 1
    return Report(plan.seed, round(time.monotonic() - began, 1), plan.packets, counts, found, lab)


def replay(folder: Path, make: Make = DesiredState, *, packets: bool = True) -> Replayed:
    """Repeat a failing case.

    Raises UsageError, also where packets are needed and not allowed; HostError, KernelError.
    """
    case, recorded = read_case(folder)
    needed, tables = ("packets" in recorded.finding.verdicts, "bytes" in recorded.finding.verdicts)
    if (needed or tables) and not packets:
        raise UsageError(f"{folder}: the finding needs packets or real tables: replay it as root, with packets")
    with _runner(Counts(), make, recorded.lab if needed else None, tables=tables) as runner:
        now = runner.repeat(case, recorded.finding, alike=False)
    return Replayed(str(folder), recorded.finding, now)


@contextlib.contextmanager
def _runner(counts: Counts, make: Make, form: LabForm | None, *, tables: bool) -> Iterator[OracleRunner]:
    with contextlib.ExitStack() as stack:
        real = stack.enter_context(KernelTables()) if tables else None
        lab = None
        if form is not None:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-fuzz-"))
            lab = stack.enter_context(PacketLab(Path(scratch), form.attachment, backend=form.backend))
        yield OracleRunner(counts, lab, make, real)


def keep(
    case: Case, finding: Finding, runner: OracleRunner, plan: FuzzPlan, *, number: int, show: Callable[[str], None]
) -> Found:
    """Shrink a failing case, and write it.

    number: of the case in its run
    show:   shows progress
    """
    # Steps after the failing one don't matter.
    case = Case(case.steps[: finding.step + 1])
    fails = _Same(case, finding, runner, show)
    repeated = any(fails(case) for _ in range(_TRIES))
    end = time.monotonic() + plan.shrink
    small = shrink(case, fails, lambda: time.monotonic() > end and fails.fewest < case.documents) if repeated else case
    last = msgspec.structs.replace(finding, step=len(small.steps) - 1)
    seen = (runner.repeat(small, finding) if repeated else None) or last
    folder = plan.build / str(plan.seed)
    command = write_case(folder, small, seen, seed=plan.seed, number=number, lab=LabForm(plan.attachment, plan.backend))
    documents, steps = (case.documents, small.documents), (len(case.steps), len(small.steps))
    return Found(seen, str(folder), command, documents, steps, repeated)


class _Same:
    """Whether a case has the same finding."""

    def __init__(self, case: Case, finding: Finding, runner: OracleRunner, show: Callable[[str], None]) -> None:
        self._finding = finding
        self._runner = runner
        self._show = show
        self._tries = 0
        self.fewest = case.documents
        """The number of documents of the smallest case that had it."""

    def __call__(self, case: Case) -> bool:
        self._tries += 1
        self._show(f"shrinking: {case.documents} documents in {len(case.steps)} steps, try {self._tries}")
        if "packets" in self._finding.verdicts and not fits(case):
            return False
        same = self._runner.repeat(case, self._finding) is not None
        if same:
            self.fewest = min(self.fewest, case.documents)
        return same
