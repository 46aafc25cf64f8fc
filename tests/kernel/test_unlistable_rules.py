"""Rules of another program in nfagent's table at which libnftables crashes: the agent goes on, and removes them."""

from __future__ import annotations

import os

import pytest

from nfagent.netlink.nft_messages import NFPROTO_INET
from tests.kernel.test_cli import AgentSite, site
from tests.kernel.test_exhausted_resources import rules
from tests.support.raw_rules import UNLISTABLE, add_rule

__all__ = ["site"]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]
CHAIN = "forward-ingress"


def add_unlistable() -> None:
    add_rule(NFPROTO_INET, "nfagent", CHAIN, *UNLISTABLE)


def test_a_running_agent_writes_the_table_anew_and_says_why(site: AgentSite) -> None:
    with site.agent() as agent:
        site.await_sync()
        before = rules()
        add_unlistable()
        assert site.await_drift()["drifts"] == 1
        assert rules() == before
        said = agent.stop()
    assert "`nft --json list table inet nfagent` was ended by SIGABRT" in said
    assert "the table is written anew" in said
    assert f"(process {os.getpid()}); repairing it" in said


def test_an_agent_that_starts_over_such_a_table_writes_it_anew(site: AgentSite) -> None:
    with site.agent() as agent:
        site.await_sync()
        before = rules()
        agent.stop()
    add_unlistable()
    with site.agent() as agent:
        site.await_sync()
        assert rules() == before
        assert "was ended by SIGABRT" in agent.stop()
