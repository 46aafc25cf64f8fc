"""The traffic program transfers the reported amounts, over both families, and ends with its block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nfagent.errors import HostError, KernelError
from nfagent.lab.latency.traffic_rates import SOURCE, Traffic
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import grid


@pytest.fixture(scope="module")
def topology() -> Iterator[NetnsTopology]:
    nodes, pods, _ = grid(nodes=1)
    with NetnsTopology(nodes, pods[:2], tag="ttraffic") as built:
        yield built


@pytest.fixture(scope="module")
def traffic() -> Iterator[Traffic]:
    try:
        with Traffic() as compiled:
            yield compiled
    except HostError as lack:
        pytest.skip(str(lack))


@pytest.mark.kernel
@pytest.mark.parametrize("family", [4, 6])
def test_streams_connections_and_datagrams_arrive(topology: NetnsTopology, traffic: Traffic, family: int) -> None:
    client_pod, server_pod = topology.pods
    [address] = [one for one in topology.pods[server_pod].addresses if (":" in one) == (family == 6)]
    ends = topology.pod_namespace(*client_pod), topology.pod_namespace(*server_pod)
    with traffic.pair(*ends, address) as client:
        for _turn in range(2):
            assert client.stream(0.02) > 0
            assert client.connections(0.02) > 0
        client.send_datagrams(0.1, 1000)
        count, nanoseconds = client.answer()
        assert 0 < count <= 100
        assert nanoseconds >= 1e8
    assert [name for name in running() if name == SOURCE.stem] == []


@pytest.mark.kernel
def test_a_client_that_stands_still_for_the_whole_time_sends_something(
    topology: NetnsTopology, traffic: Traffic
) -> None:
    client_pod, server_pod = topology.pods
    ends = topology.pod_namespace(*client_pod), topology.pod_namespace(*server_pod)
    with traffic.pair(*ends, topology.pods[server_pod].addresses[0]) as client:
        assert client.stream(0.0) > 0
        assert client.connections(0.0) > 0
        # Due when the time is over.
        client.send_datagrams(0.001, 1000)
        assert client.answer()[0] == 1
        client.send_datagrams(0.001, 100)
        assert client.answer()[0] == 0


@pytest.mark.kernel
def test_a_server_that_can_t_listen_is_an_error(topology: NetnsTopology, traffic: Traffic) -> None:
    client_pod, server_pod = topology.pods
    ends = topology.pod_namespace(*client_pod), topology.pod_namespace(*server_pod)
    with (
        pytest.raises(KernelError, match=r"no server on 203\.0\.113\.1 .*bind: Cannot assign requested address"),
        traffic.pair(*ends, "203.0.113.1"),
    ):
        pass


def test_without_a_compiler_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="apt-get install gcc"), Traffic():
        pass


def running() -> list[str]:
    """Return the names of this process's children."""
    pids: list[str] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError):  # a thread that has ended since they were listed
            pids += path.read_text("ascii").split()
    return [Path(f"/proc/{pid}/comm").read_text("utf-8").strip() for pid in pids]
