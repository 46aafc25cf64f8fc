"""Two recorded cases by packets: their objects applied to an API server, step by step."""

from __future__ import annotations

import pytest

from nfagent.lab.probes.probe import Probe
from tests.conformance.suites import Case, flows, places, recorded, states
from tests.support.apiserver_labs import ApiLab

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver, pytest.mark.usefixtures("tidy")]

SUITE = recorded("cyclonus")
# A range of ports of UDP; a policy that is created, and changed.
CASES = [case for case in SUITE.cases if case.id in {"cyc-145", "cyc-195"}]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id} {', '.join(case.tags)}")
def test_packets_get_the_verdicts_that_the_suite_expects(lab: ApiLab, case: Case) -> None:
    held = dict(SUITE.base)
    for step, state in states(SUITE, case):
        gone = [document for ref, document in held.items() if ref not in state]
        changed = [document for ref, document in state.items() if held.get(ref) != document]
        if gone:
            lab.cluster.delete(*gone)
        lab.cluster.put(*changed)
        held = dict(state)
        expected = {
            Probe(lab.pod(probe.source), flow.destination, probe.protocol, probe.port): probe.allowed
            for probe, flow in flows(case, step, places(SUITE, state))
            if not probe.itself
        }
        assert lab.wrong(expected)[:5] == []
