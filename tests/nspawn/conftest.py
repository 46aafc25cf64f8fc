"""One machine for all tests of this folder: three Pods in network namespaces, and the service as it is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.nspawn_machine import NspawnMachine, debian_12
from tests.support.nspawn_service import MANIFESTS, PODS, NspawnService


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NspawnMachine]:
    if os.geteuid() != 0:
        pytest.skip("needs root: systemd-nspawn")
    with NspawnMachine(debian_12(), tmp_path_factory.mktemp("nspawn")) as booted:
        booted.run("echo 1 >/proc/sys/net/ipv4/ip_forward; ip link set lo up")
        for pod, address in PODS.items():
            booted.run(
                f"ip netns add {pod} && ip link add {pod} type veth peer name eth0 netns {pod} && "
                f"ip addr add 10.0.0.254/32 dev {pod} && ip link set {pod} up && "
                f"ip route add {address}/32 dev {pod} && "
                f"ip -n {pod} addr add {address}/32 dev eth0 && ip -n {pod} link set eth0 up && "
                f"ip -n {pod} route add 10.0.0.254/32 dev eth0 && ip -n {pod} route add default via 10.0.0.254"
            )
        booted.write("/etc/manifests/cluster.yaml", MANIFESTS)
        yield booted


@pytest.fixture(scope="session")
def installed(machine: NspawnMachine) -> NspawnService:
    return NspawnService(machine)


@pytest.fixture
def service(installed: NspawnService) -> NspawnService:
    """Run the service with its own settings and without drop-ins, whatever the test before did to it."""
    installed.ensure()
    return installed
