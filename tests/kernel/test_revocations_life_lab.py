"""Issue 5, live connections: revocations around a Pod's, an agent's and a table's life, and on the ways through a node.

Pods share a bridge here; the kinds of changes are in test_revocations_lab.py, on routed Pods.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
import pytest

from nfagent.cluster.address import FAMILIES, Family, family_of
from nfagent.lab.cluster import LabAgent
from nfagent.lab.counter import Counter
from nfagent.lab.plan import PodPlan
from nfagent.lab.talk import Line, Talks
from tests.kube_proxy import Service, proxying
from tests.labs import Document, Lab, namespace_document, pod_document, policy_document, wait_until
from tests.revocations import (
    PODS,
    PORT,
    Watch,
    connections,
    entries_at,
    every_kind,
    line,
    present,
    revocation_lab,
    suspected_at,
    watching,
    world,
)

pytestmark = pytest.mark.kernel

WEST = {"namespaceSelector": {"matchLabels": {"ns": "west"}}}
CALLERS = {"podSelector": {"matchLabels": {"app": "caller"}}, "namespaceSelector": {}}
SERVICE: dict[Family, str] = {4: "10.96.0.10", 6: "2001:db8:96::10"}
SERVICE_PORT = 80


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with revocation_lab(tmp_path_factory.mktemp("lab"), "bridge") as running:
        yield running


@pytest.fixture
def agent(lab: Lab) -> Iterator[LabAgent]:
    """Give the agent of the db's node; it runs afterwards, whatever became of it."""
    found = lab.cluster.agent("n1")
    yield found
    if not found.runs:
        found.start()


def isolating(*peers: Document, app: str = "db") -> Document:
    return policy_document(
        "shop", app, podSelector={"matchLabels": {"app": app}}, ingress=[{"from": list(peers)}] if peers else []
    )


def from_east(lab: Lab) -> dict[Line, str]:
    """Plan connections of all kinds to the db, from its own node and from the other one; its agent is to end them."""
    ends = [("east/near > shop/db", 4), ("east/far > shop/db", 6)]
    return {planned: "n1" for words, first in ends for planned in every_kind(lab, words, 4 if first == 4 else 6)}


def from_west(lab: Lab) -> list[Line]:
    return [
        line(lab, "west/ally > shop/db", "udp", "server", 4),
        line(lab, "west/pal > shop/db", "udp", "client", 6),
        line(lab, "west/ally > shop/db", "tcp", "server", 6),
    ]


def faults(watch: Watch, lab: Lab) -> list[str]:
    return [*watch.late, *watch.lossy, *watch.mistracked(lab)]


def test_32_pods_on_one_bridge(lab: Lab) -> None:
    present(lab, world(), [])
    with watching(from_east(lab), from_west(lab)) as watch:
        watch.through(lab, lambda: present(lab, world(), [isolating(WEST)]))
        assert faults(watch, lab) == []


def test_32_a_call_to_a_service_ends_like_one_to_its_pod(lab: Lab) -> None:
    present(lab, world(), [])
    services = [
        Service(address, SERVICE_PORT, protocol, ((lab.address("shop/db", family), PORT),))
        for family, address in SERVICE.items()
        for protocol in ("tcp", "udp")
    ]

    def through_it(planned: Line) -> Line:
        address = SERVICE[family_of(planned.address)]
        return msgspec.structs.replace(planned, address=address, port=SERVICE_PORT, listens=PORT)

    with proxying(lab.fabric, services):
        ended = {through_it(planned): node for planned, node in from_east(lab).items()}
        with watching(ended, map(through_it, from_west(lab))) as watch:
            watch.through(lab, lambda: present(lab, world(), [isolating(WEST)]))
            assert faults(watch, lab) == []


def test_32_an_agent_that_starts_ends_what_was_revoked_while_none_ran(lab: Lab, agent: LabAgent) -> None:
    present(lab, world(), [])
    lab.cluster.calm()
    with watching(from_east(lab), from_west(lab)) as watch:
        agent.stop()
        present(lab, world(), [isolating(WEST)])
        watch.through(lab, agent.start)
        assert faults(watch, lab) == []


def test_32_what_was_opened_while_the_table_was_gone_ends_with_the_reload(lab: Lab, agent: LabAgent) -> None:
    present(lab, world(), [isolating(WEST)])
    lab.cluster.calm()
    agent.nft("delete", "table", "inet", "nfagent")
    with watching(from_east(lab), from_west(lab)) as watch:
        watch.through(lab, agent.reload)
        assert faults(watch, lab) == []


def test_32_an_agent_killed_before_it_could_delete_entries_leaves_the_way_closed(lab: Lab, agent: LabAgent) -> None:
    for _attempt in range(5):
        present(lab, world(), [])
        lab.cluster.calm()
        with watching(from_east(lab), from_west(lab)) as watch:
            watch.wait_for(10)
            # A round about others, after which it rests for a while.
            present(lab, world(), [isolating(WEST, app="nobody"), policy_document("west", "open", podSelector={}, ingress=[{}])])
            before = suspected_at(agent)
            present(lab, world(), [isolating(WEST)])
            watch.committed = {"n1": suspected_at(agent)}
            agent.stop(kill=True)
            if watch.committed["n1"] > before and not any(found.startswith("gone") for found in watch.mistracked(lab)) and len([1 for found in watch.mistracked(lab) if found.startswith("left")]) == len(watch.ended):
                watch.watch_on()
                assert [*watch.late, *watch.lossy] == []
                agent.start()
                lab.cluster.calm()
                watch.watch_on()
                assert faults(watch, lab) == []
                return
        agent.start()
    pytest.fail("the agent was never caught between commit and deletion")
