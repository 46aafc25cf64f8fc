"""An upgrade of the agent writes nothing to a table that its predecessor left in force.

`NFAGENT_UPGRADE_FROM=CHECKOUT` names a checkout of an earlier version, with its own `.venv`: its agent writes the
table, and this one takes over, for every golden. Without it the predecessor is this version, for three goldens.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nfagent.kernel.table_queries import generation
from tests.kernel.test_cli import AgentSite, site

__all__ = ["site"]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

GOLDENS = sorted((Path(__file__).parents[1] / "golden").glob("*.yaml"))
EARLIER = os.environ.get("NFAGENT_UPGRADE_FROM", "")
TABLES = GOLDENS if EARLIER else [GOLDENS[0], GOLDENS[3], GOLDENS[-1]]


@pytest.mark.parametrize("manifests", TABLES, ids=lambda path: path.stem)
def test_the_next_agent_commits_nothing(site: AgentSite, manifests: Path) -> None:
    (site.manifests / "cluster.yaml").unlink()
    shutil.copy(manifests, site.manifests)
    site.node = "a"
    with site.agent(EARLIER):
        site.await_judged()
        table = site.said("dump", "kernel")
    before = generation()
    with site.agent() as agent:
        site.await_sync()
        assert generation() == before
        assert site.said("dump", "kernel") == table
        agent.stop()


def test_a_change_is_seen_as_commits(site: AgentSite) -> None:
    """Assert that the test above can fail: one more policy is one more generation."""
    with site.agent(EARLIER):
        site.await_judged()
    (site.manifests / "more.yaml").write_text(GOLDENS[0].read_text().replace("nodeName: a", "nodeName: node-a"))
    before = generation()
    with site.agent():
        site.await_sync()
        assert generation() > before
