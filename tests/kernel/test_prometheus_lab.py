"""A real Prometheus scrapes a real agent with the shipped configuration: samples, alerts, the dashboard's queries."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.probes.listeners import pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import grid
from tests.support.packet_labs import (
    ManifestLab,
    held,
    holds_within,
    logging_document,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)
from tests.support.prometheus import METRICS_PORT, Labels, RunningPrometheus, prometheus_binary, running_prometheus
from tests.support.promql import read_expression
from tests.unit.test_monitoring import GRAPHS, expressions, queries

pytestmark = pytest.mark.kernel

NODES, PODS, _ = grid(nodes=1)
NODE = NODES[0].name
SUBJECT = {"matchLabels": {"pod": "a"}}
FROM_Y = policy_document(
    "x", "from-y", podSelector=SUBJECT, ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}]
)
UNREADABLE = policy_document(
    "z", "typo", podSelector=SUBJECT, ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]
)
CORRECTED = policy_document("z", "typo", podSelector=SUBJECT, ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])
LISTENING = {"NFAGENT_METRICS_LISTEN": f"127.0.0.1:{METRICS_PORT}"}
# No series is left out, no connection is translated.
WITHOUT_CAUSE = {
    "nfagent_metrics_omitted_series",
    "nfagent_nat_ports_used_ratio",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    prometheus_binary("prometheus")
    documents = [*(namespace_document(name) for name in "xyz"), *map(pod_document, PODS)]
    documents += [FROM_Y, logging_document(allow=True, deny=True)]
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, documents=documents) as running:
        running.servers.listen(pod_endpoints(running.topology, [("tcp", 80)]))
        agent = running.cluster.agent(NODE)
        agent.stop()
        agent.start(LISTENING)
        yield running


@pytest.fixture(scope="module")
def prometheus(lab: ManifestLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPrometheus]:
    """Prometheus in the node's namespace, after some scrapes."""
    folder = tmp_path_factory.mktemp("prometheus") / "prometheus"
    with running_prometheus(folder, lab.topology.node_namespace(NODE), NODE) as running:
        wait_until(lambda: running.targets() == {NODE: "up"})
        wait_until(lambda: seen(running, "count_over_time(up[5m]) > 5"))
        yield running


def seen(prometheus: RunningPrometheus, expression: str) -> bool:
    return bool(prometheus.query(expression))


def fires(prometheus: RunningPrometheus, alert: str) -> bool:
    return alert in [name for name, _ in prometheus.firing()]


def agent(lab: ManifestLab) -> LabAgent:
    return lab.cluster.agent(NODE)


def test_an_agent_that_is_well_fires_no_alert(prometheus: RunningPrometheus) -> None:
    wait_until(lambda: prometheus.firing() == [])


def test_metrics_of_alerts_and_dashboard_have_samples_unless_they_have_no_cause_here(
    prometheus: RunningPrometheus,
) -> None:
    named = {name for text in expressions().values() for name in read_expression(text).metrics}
    # Also a sample of before: after a scrape that took too long an instant query finds none.
    wait_until(lambda: {name for name in named if not seen(prometheus, f"last_over_time({name}[5m])")} == WITHOUT_CAUSE)


def probe(lab: ManifestLab) -> None:
    """Send x/a a packet that its policy allows, and one that it denies."""
    lab.ask([Probe(lab.pod(source), lab.address("x/a", 4), "tcp", 80) for source in ("y/b", "z/b")])


def counted(prometheus: RunningPrometheus, verdict: str) -> float:
    """Return the packets of x/a with a verdict, as scraped last; 0 while there is no sample."""
    pod = f'policy_enforced_namespace="x", policy_enforced_pod="a", direction="ingress", verdict="{verdict}"'
    return sum(value for _, value in prometheus.query(f"last_over_time(policy_event_count{{{pod}}}[5m])"))


def counts_grow(lab: ManifestLab, prometheus: RunningPrometheus) -> bool:
    """Return whether both counts of x/a grow with packets that are sent now."""
    before = {verdict: counted(prometheus, verdict) for verdict in ("allow", "deny")}

    def grown() -> bool:
        probe(lab)
        return all(counted(prometheus, verdict) > packets for verdict, packets in before.items())

    return holds_within(grown)


def test_counts_of_a_pod_never_fall_while_the_table_is_deleted_and_the_agent_killed(
    lab: ManifestLab, prometheus: RunningPrometheus
) -> None:
    assert counts_grow(lab, prometheus)
    agent(lab).nft("delete", "table", "inet", "nfagent")  # the kernel's counters begin again
    assert counts_grow(lab, prometheus)
    agent(lab).stop(kill=True)
    agent(lab).start(LISTENING)
    assert counts_grow(lab, prometheus)
    for name in ("policy_event_count", "nfagent_policy_packets_total"):
        assert seen(prometheus, f"sum_over_time({name}[5m]) > 0")
        assert prometheus.query(f"resets({name}[5m]) > 0") == []


@pytest.mark.parametrize("panel", GRAPHS, ids=lambda panel: panel["title"])
def test_prometheus_answers_the_queries_of_the_panel(prometheus: RunningPrometheus, panel: dict[str, object]) -> None:
    def answered() -> bool:
        found = [prometheus.query(text) for text in queries(panel)]
        return panel["type"] != "stat" or [len(values) for values in found] == [1]

    wait_until(answered)


def test_a_policy_that_fails_closed_fires_until_it_is_corrected(
    lab: ManifestLab, prometheus: RunningPrometheus
) -> None:
    lab.apply("typo", UNREADABLE)
    alert = "NfagentPolicyFailsClosed"
    labels: list[Labels] = []

    def has_fired() -> bool:
        labels[:] = [found for name, found in prometheus.firing() if name == alert]
        return bool(labels)

    wait_until(has_fired)
    assert [(found["kind"], found["severity"]) for found in labels] == [("NetworkPolicy", "warning")]
    lab.apply("typo", CORRECTED)
    # By a scrape after the correction: without any the alert ends, too.
    corrected = 'nfagent_policies_failing_closed{kind="NetworkPolicy"} == 0'
    wait_until(lambda: seen(prometheus, corrected) and not fires(prometheus, alert))


def repaired(prometheus: RunningPrometheus, times: int) -> bool:
    return seen(prometheus, f"nfagent_drift_repairs_total >= {times} and nfagent_in_sync == 1")


def test_a_table_that_is_flushed_again_and_again_fires(lab: ManifestLab, prometheus: RunningPrometheus) -> None:
    for times in range(1, 5):
        agent(lab).nft("flush", "table", "inet", "nfagent")
        wait_until(partial(repaired, prometheus, times))
    wait_until(lambda: fires(prometheus, "NfagentTableChangedByOthers"))


def test_an_agent_that_does_not_answer_fires_and_nothing_else_does_for_it(
    lab: ManifestLab, prometheus: RunningPrometheus
) -> None:
    with held(agent(lab)):
        wait_until(lambda: fires(prometheus, "NfagentDown"))
        assert [(name, labels["instance"]) for name, labels in prometheus.firing() if name == "NfagentDown"] == [
            ("NfagentDown", NODE)
        ]
    wait_until(lambda: not fires(prometheus, "NfagentDown"))
