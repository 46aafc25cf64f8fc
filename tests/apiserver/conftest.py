"""One kube-apiserver for the whole run, emptied for each test that requests it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.errors import HostError
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import LabApiClient
from nfagent.lab.machine.binaries import ControlPlaneBinaries, find


@pytest.fixture(scope="session")
def binaries() -> ControlPlaneBinaries:
    """Return etcd and kube-apiserver; waits for their build, where one is under way."""
    try:
        return find()
    except HostError as lack:
        pytest.skip(str(lack))


@pytest.fixture(scope="session")
def control_plane(binaries: ControlPlaneBinaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Return an API server on loopback; its limitranges have no cache, so that `compact` ends old watches of them."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), uncached=("limitranges",), binaries=binaries) as plane:
        yield plane


@pytest.fixture
def clean(control_plane: ControlPlane) -> Iterator[LabApiClient]:
    """Return the administrator's client; objects that the test created are deleted after it."""
    with control_plane.client() as client:
        before = client.inventory()
        yield client
        # A test that fails may leave it killed.
        if not control_plane.is_running:
            control_plane.start()
        client.remove(client.inventory() - before)
