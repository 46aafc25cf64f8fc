"""Lists of a kube-apiserver without initial events: from its watch cache, and by pages without a cache."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.credentials import ADMIN
from nfagent.lab.apiserver.kube_client import Document, LabApiClient
from nfagent.lab.machine.binaries import ControlPlaneBinaries
from nfagent.lab.topology.plan import NodePlan
from nfagent.model.gvk import RESOURCES
from tests.support.http_follower import HttpFollower
from tests.support.packet_labs import node_document, wait_until

pytestmark = pytest.mark.apiserver

NODE = NodePlan("n1", ("192.0.2.1", "2001:db8:ffff::1"), ("10.244.1.0/24",))
_COUNTED = re.compile(r'apiserver_storage_list_total\{[^}]*resource="([^"]+)"[^}]*\} (\d+)')
_CACHED = {resource.plural for resource in RESOURCES} - {"configmaps"}


@pytest.fixture(scope="module")
def plane(binaries: ControlPlaneBinaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    scratch, flags = tmp_path_factory.mktemp("unstreamed"), ("--feature-gates=WatchList=false",)
    with ControlPlane(scratch, flags=flags, uncached=("configmaps",), binaries=binaries) as started:
        yield started


def settings(number: int) -> Document:
    """Return the ConfigMap that is watched, or another one."""
    meta = {"namespace": "kube-system", "name": f"other-{number}" if number else "ip-masq-agent"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"config": ""}}


def lists_of_etcd(client: LabApiClient) -> dict[str, int]:
    """Count the lists that the server had to ask etcd for, by resource."""
    metrics = client.ask_retrying("GET", "/metrics").text
    return {name: int(count) for name, count in _COUNTED.findall(metrics)}


def test_the_lists_of_an_agent_cost_etcd_none_but_of_what_has_no_cache(plane: ControlPlane) -> None:
    with plane.client() as client:
        client.put_all([node_document(NODE), *(settings(number) for number in range(3))])
        with HttpFollower(plane, plane.token_for(ADMIN), NODE.name) as first:  # the server lists, to fill its cache
            assert first.whole.is_set()
        before = lists_of_etcd(client)
        with HttpFollower(plane, plane.token_for(ADMIN), NODE.name) as follower:
            assert follower.whole.is_set()
            # The cache may be a moment behind; the watch has the rest then.
            wait_until(lambda: list(follower.desired.cluster.nodes) == [NODE.name])
            wait_until(lambda: len(follower.desired.egress.objects) == 1)  # its list is of etcd, by pages
        after = lists_of_etcd(client)
    cached = after.keys() & _CACHED
    assert {name: after[name] - before.get(name, 0) for name in cached} == dict.fromkeys(cached, 0)
    assert after["configmaps"] > before["configmaps"]
