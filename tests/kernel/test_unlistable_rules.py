"""Rules of other programs at which libnftables crashes: the agent goes on, and removes those in its own tables."""

from __future__ import annotations

import os
import re
from contextlib import closing
from pathlib import Path

import pytest

from nfagent.errors import UnlistableError
from nfagent.kernel.nft_listing import NftListing
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE, NFPROTO_INET
from nfagent.nftables.objects import TABLE_FAMILY
from tests.kernel.test_cli import AgentSite, nft, site
from tests.kernel.test_exhausted_resources import rules
from tests.kernel.test_purged_rules import remove_rules
from tests.support.own_namespace import own_namespace
from tests.support.packet_labs import wait_until
from tests.support.programs import unstartable
from tests.support.raw_rules import UNLISTABLE, UNREADABLE, add_hidden_map, add_rule

__all__ = ["site"]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]
CHAIN = "forward-ingress"
IP, UDP = 20, 8  # bytes of headers


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
    assert re.search(r"table inet nfagent changed by \S.* \(process \d+\); repairing it", said)


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


def denied(site: AgentSite) -> dict[str, int]:
    """Return what the counter of denied packets says, as `dump` reads it from the agent."""
    [found] = [each for each in site.ask("dump", "counters")["counters"] if each["verdict"] == "deny"]
    return {"packets": found["packets"], "bytes": found["bytes"]}


def test_counters_are_read_beside_another_table_with_such_a_rule(site: AgentSite) -> None:
    nft("add table inet theirs; add chain inet theirs odd")
    with site.agent() as agent:
        site.await_sync()
        add_rule(NFPROTO_INET, "theirs", "odd", *UNREADABLE)
        site.drop_a_packet()
        wait_until(lambda: denied(site) == {"packets": 1, "bytes": IP + UDP + 1})
        agent.stop()
    assert site.ask("dump", "counters", *site.from_files)["counters"]


def frames() -> str:
    return nft("-s", "list", "table", "bridge", "nfagent")


def reported(site: AgentSite) -> dict[str, object]:
    """Return what the agent says of the table of frames."""
    found: dict[str, object] = site.ask("dump", "state")["agent"]["frames"]
    return found


def add_unlistable_frames() -> None:
    add_rule(NFPROTO_BRIDGE, "nfagent", "prerouting-frames", *UNLISTABLE)


def test_the_table_of_frames_is_written_anew_as_well(site: AgentSite) -> None:
    with site.agent() as agent:
        wait_until(lambda: reported(site)["state"] == "dropped")
        before = frames()
        add_unlistable_frames()
        wait_until(lambda: frames() == before)
        said = agent.stop()
    assert "`nft --json list table bridge nfagent` was ended by SIGABRT" in said
    add_unlistable_frames()
    with site.agent():
        wait_until(lambda: reported(site)["state"] == "dropped")
        assert frames() == before


def leave_unlistable_tables(site: AgentSite) -> None:
    """Have both tables, of an agent that has ended, with a rule at which nft crashes."""
    with site.agent() as agent:
        wait_until(lambda: reported(site)["state"] == "dropped")
        agent.stop()
    add_unlistable()
    add_unlistable_frames()


def test_cleanup_removes_such_tables_and_says_that_their_objects_are_not_known(site: AgentSite) -> None:
    leave_unlistable_tables(site)
    done = site.nfagent("cleanup")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["removed table inet nfagent", "removed table bridge nfagent"]
    assert "warning: `nft --json list table inet nfagent` was ended by SIGABRT" in " ".join(done.stderr.split())
    assert nft("list", "tables") == ""
    leave_unlistable_tables(site)
    removed = site.ask("cleanup")
    assert (removed["table"], removed["frames"]) == ({}, True)
    assert nft("list", "tables") == ""


def test_a_purge_removes_such_tables(site: AgentSite) -> None:
    leave_unlistable_tables(site)
    add_rule(NFPROTO_INET, "nfagent", CHAIN, *UNREADABLE)
    assert remove_rules().splitlines() == [f"nfagent: removed table {each} nfagent" for each in ("inet", "bridge")]
    assert nft("list", "tables") == ""
    assert remove_rules() == ""


def test_an_object_that_nft_leaves_out_of_its_listing_holds_no_change_up(site: AgentSite) -> None:
    cluster = site.manifests / "cluster.yaml"
    with site.agent() as agent:
        site.await_sync()
        [chain] = [line.split()[1] for line in rules() if line.startswith("\tchain egress/")]
        add_hidden_map("nfagent", "theirs", chain)  # so that the kernel refuses to delete the chain
        content = cluster.read_text("utf-8")
        policy = "metadata: {namespace: shop, name: web}\nspec:\n  podSelector"
        assert policy in content
        cluster.write_text(content.replace(policy, policy.replace("name: web", "name: other")), "utf-8")
        wait_until(lambda: f"\tchain {chain} {{" not in rules())
        site.await_sync()
        said = agent.stop()
    assert "`nft --json list table inet nfagent` lists a part only: netlink: Error: Unknown data type" in said


@pytest.mark.parametrize("program", [True, False], ids=["by the program nft", "in the process itself"])
def test_a_listing_that_lacks_an_object_is_none(
    *, program: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with own_namespace("hidden"), closing(NftListing()) as listing, monkeypatch.context() as patched:
        nft("add table inet nfagent; add chain inet nfagent kept")
        if not program:
            patched.setenv("PATH", unstartable(tmp_path))
        assert "kept" in (listing.table(TABLE_FAMILY) or "")
        add_hidden_map("nfagent", "theirs", "kept")
        with pytest.raises(UnlistableError, match="lists a part only: netlink: Error: Unknown data type"):
            listing.table(TABLE_FAMILY)


def test_the_program_is_found_where_the_path_is_that_of_an_ordinary_user(site: AgentSite) -> None:
    nft("add table inet nfagent; add chain inet nfagent forward-ingress")
    add_unlistable()
    site.environment["PATH"] = "/usr/bin:/bin"  # as a shell of `su` has it, and cron
    done = site.nfagent("dump", "kernel")
    assert done.returncode == 2
    assert "was ended by SIGABRT" in done.stderr
