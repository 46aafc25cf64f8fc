"""Both notations of probes give the same values; the objects of a case are those of its steps so far."""

from __future__ import annotations

import pytest

from nfagent.lab.probes.listeners import ProbeProtocol
from nfagent.model.objects import ObjectRef
from tests.conformance import small
from tests.conformance.cover import cover, marks
from tests.conformance.suites import NAMES, Place, Probe, flows, places, read, recorded, states

SMALL = read("small", small.content())
DENY = ObjectRef("NetworkPolicy", "x", "deny")


def test_a_table_has_a_row_for_each_source_and_a_column_for_each_destination() -> None:
    first, second = SMALL.cases[0].steps
    assert first.probes == (
        Probe("x/a", "x/a", "tcp", 80, allowed=True),
        Probe("x/a", "x/b", "tcp", 80, allowed=False),
        Probe("x/b", "x/a", "tcp", 80, allowed=True),
        # The table says 0; Kubernetes says that a Pod can't block access to itself.
        Probe("x/b", "x/b", "tcp", 80, allowed=True),
    )
    assert Probe("x/c", "x/a", "tcp", 80, allowed=True) in second.probes
    assert ("x/a", "x/c") not in {(probe.source, probe.destination) for probe in second.probes}, "unknown: not asked"


def test_a_named_port_may_be_another_number_at_each_destination() -> None:
    content = small.content()
    probe = {"protocol": "UDP", "port_name": "web", "port_of": {"x/a": 80, "x/b": 8080}, "rows": ["11", "11"]}
    content["cases"][0]["steps"][0]["probes"] = [probe]
    probes = read("small", content).cases[0].steps[0].probes
    assert [(probe.destination, probe.port) for probe in probes] == [("x/a", 80), ("x/b", 8080)] * 2


def test_a_probe_by_name_is_the_same_probe() -> None:
    case = SMALL.cases[1]
    assert case.steps[0].probes == (Probe("x/a", "x/b", "tcp", 80, allowed=True),)
    assert (case.title, case.support, case.families) == ("NothingIsolates", "core", (4,))


def test_steps_are_cumulative_and_every_case_begins_at_the_suites_own_objects() -> None:
    (_, first), (_, second) = states(SMALL, SMALL.cases[0])
    assert first.keys() == {*SMALL.base, DENY}
    assert second.keys() == {*SMALL.base, ObjectRef("Pod", "x", "c")}
    assert [state.keys() for _, state in states(SMALL, SMALL.cases[1])] == [SMALL.base.keys()]


def test_a_probe_is_a_connection_in_each_family_of_the_case() -> None:
    (step, state), _ = states(SMALL, SMALL.cases[0])
    found = {(flow.source, flow.destination) for _, flow in flows(SMALL.cases[0], step, places(SMALL, state))}
    assert {("10.64.0.11", "10.64.1.11"), ("2001:db8:0:a::b", "2001:db8:0:b::b")} <= found
    assert len(found) == 8


def test_a_host_network_pod_has_its_nodes_addresses_and_serves_what_the_suite_says() -> None:
    content = small.content()
    content["pods"][1] |= {"hostNetwork": True, "ips": ["192.0.2.2", "2001:db8:ffff::2"], "listens": ["SCTP/9003"]}
    suite = read("small", content)
    listens: tuple[tuple[ProbeProtocol, int], ...] = (("tcp", 80), ("sctp", 9003))
    expected = Place("x", "b", "b", ("192.0.2.2", "2001:db8:ffff::2"), host=True, listens=listens)
    assert places(suite, suite.base)["x/b"] == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_cover_bears_every_tag_and_support_level(name: str) -> None:
    cases = recorded(name).cases
    few = cover(cases)
    assert len(few) <= 20
    assert frozenset().union(*map(marks, few)) == frozenset().union(*map(marks, cases))


def test_all_suites_have_the_same_nodes_so_that_one_lab_serves_them_all() -> None:
    assert {recorded(name).nodes for name in NAMES} == {SMALL.nodes}
