"""The backend of labs' agents, and tables that text and bytes write side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from nfagent.lab.cluster.agents import BACKEND_VARIABLE
from tests.support.twin_tables import TwinTables

BACKENDS = ("nftables", "iptables")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that are marked `both_backends` with both; others, and all if the environment names one, with one."""
    if "backend" not in metafunc.fixturenames:
        return
    named = os.environ.get(BACKEND_VARIABLE)
    if named is None and metafunc.definition.get_closest_marker("both_backends"):
        metafunc.parametrize("backend", BACKENDS, indirect=True, scope="module")
    else:
        default = named or BACKENDS[0]
        metafunc.parametrize("backend", [default], indirect=True, scope="module", ids=[pytest.HIDDEN_PARAM])


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> str:
    """Return the backend of the agents in a module's lab."""
    return str(request.param)


@pytest.fixture(scope="module")
def made_twins() -> Iterator[TwinTables]:
    """Two network namespaces, made once for a module; tests that draw many examples clear them themselves."""
    with TwinTables() as twins:
        yield twins


@pytest.fixture
def twins(made_twins: TwinTables) -> TwinTables:
    """Two network namespaces without tables."""
    made_twins.clear()
    return made_twins
