"""The backend of labs' agents, and tables that text and bytes write side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from nfagent.lab.cluster.agents import BACKEND_VARIABLE
from tests.support.twin_tables import TwinTables

BACKENDS = ("nftables", "iptables")
ASKED_VARIABLE = "NFAGENT_TEST_BACKENDS"
"""`both`: what is marked so runs with both; set by `make test BACKENDS=both`."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that are marked `both_backends` with both; others, and all if the environment names one, with one.

    Those marked `both_backends(asked=True)` take long: they run with both where the environment asks for it.
    """
    if "backend" not in metafunc.fixturenames:
        return
    named = os.environ.get(BACKEND_VARIABLE)
    marker = metafunc.definition.get_closest_marker("both_backends")
    asked = os.environ.get(ASKED_VARIABLE) == "both"
    if named is None and marker is not None and (asked or not marker.kwargs.get("asked")):
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
