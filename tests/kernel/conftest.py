"""Tables that text and bytes write side by side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.twin_tables import TwinTables


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
