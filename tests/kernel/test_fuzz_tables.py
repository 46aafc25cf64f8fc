"""The fuzzer's oracle of text and bytes: histories with fixed seeds, and a fault that only the bytes have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.netlink.nft_messages import NFPROTO_INET
from nfagent.nftables.objects import Goto
from nfagent.nftables.transaction import AddRule, Transaction
from tests.fuzz.folder import read_case
from tests.fuzz.generator import draw_case, generator
from tests.fuzz.oracle_runner import OracleRunner
from tests.fuzz.session import FuzzPlan, keep
from tests.fuzz.stats import Counts
from tests.fuzz.tables import KernelTables
from tests.support.fuzz_search import first_finding
from tests.support.twin_tables import TwinTables

pytestmark = pytest.mark.kernel

SEED = 15
MOST_CASES = 5


@pytest.fixture(scope="module")
def tables() -> Iterator[KernelTables]:
    with KernelTables() as made:
        yield made


@pytest.mark.parametrize("number", range(4))
def test_text_and_bytes_give_the_same_tables_throughout_a_history(tables: KernelTables, number: int) -> None:
    counts, random = Counts(), generator(SEED, number)
    case = draw_case(random, steady=False)
    assert OracleRunner(counts, tables=tables).search(case, random, tables=True) is None
    assert counts.table_cases == 1
    assert counts.tables == 2 * sum(step.then != "wait" for step in case.steps)


class Lossy(TwinTables):
    """Bytes without the rules that deny for a policy."""

    def commit(self, transaction: Transaction, *, family: int = NFPROTO_INET) -> None:
        kept = [command for command in transaction if not _denies(command)]
        super().commit(tuple(kept), family=family)


def _denies(command: object) -> bool:
    return isinstance(command, AddRule) and command.chain.startswith("deny/") and isinstance(command.rule.verdict, Goto)


def test_a_fault_that_only_the_bytes_have_is_found_shrunk_and_replayed(tables: KernelTables, tmp_path: Path) -> None:
    with KernelTables(Lossy) as lossy:
        runner = OracleRunner(Counts(), tables=lossy)
        case, finding = first_finding(runner, SEED, MOST_CASES, steady=False, tables=True)
        assert finding.verdicts == {"text": "a table", "bytes": "another"}
        assert "rule inet nfagent 1 of deny/" in finding.place
        plan = FuzzPlan(SEED, 0.0, packets=True, build=tmp_path, shrink=4.0)
        found = keep(case, finding, runner, plan, number=0, show=lambda _words: None)
        assert found.repeated
        assert found.documents[1] < found.documents[0]
        small, recorded = read_case(Path(found.folder))
        again = runner.repeat(small, recorded.finding)
        assert again is not None
        assert again.like(finding)
    assert OracleRunner(Counts(), tables=tables).repeat(small, recorded.finding, alike=False) is None
