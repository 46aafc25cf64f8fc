"""A restart of an agent that follows an API server: what can't be read any more stays in force."""

from __future__ import annotations

import pytest

from nfagent.lab.probes.probe import Probe
from tests.apiserver.lab.conftest import OUTSIDE
from tests.support.apiserver_labs import ApiLab
from tests.support.packet_labs import Document, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver, pytest.mark.usefixtures("tidy")]


def config_map(config: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
        "data": {"config": config},
    }


@pytest.mark.parametrize("stopped", [False, True], ids=["while the agent runs", "while it is stopped"])
def test_a_masquerade_list_that_breaks_stays_in_force_over_a_restart(lab: ApiLab, *, stopped: bool) -> None:
    def sources() -> set[str | None]:
        probe = Probe(lab.pod("x/a"), OUTSIDE[0].addresses[0], "tcp", 443)
        return {outcome.seen_from for outcome in lab.ask([probe], 3.0).values()}

    agent, pod = lab.cluster.agent("a"), lab.topology.pods["x", "a"].addresses[0]
    lab.cluster.put(config_map('nonMasqueradeCIDRs: ["198.51.100.0/24"]'))
    assert sources() == {pod}
    if stopped:
        agent.stop()
    lab.cluster.put(config_map('nonMasqueradeCIDRs: ["198.51.100.0/33"]'))
    agent.stop()
    agent.start()
    lab.cluster.wait_for_recheck()
    assert sources() == {pod}, "without a list, it would be masqueraded"
    [problem] = agent.ask("/v1/dump/state")["problems"]
    assert problem["reason"].startswith("is not a CIDR")
    lab.cluster.delete(config_map(""))
    agent.stop()
    agent.start()
    wait_until(lambda: sources() == {lab.topology.nodes["a"].addresses[0]})
    assert sources() == {lab.topology.nodes["a"].addresses[0]}
