"""`nfagent restore` in a network namespace: what is in its kernel afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nfagent.checkpoint.ruleset_codec import LAYOUT, SavedHeader, encode_batches, encode_saved
from nfagent.checkpoint.ruleset_file import ruleset_path, write_saved
from nfagent.config import BootSection, Settings
from nfagent.desired.state import DesiredState
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.table_lock import acquire_table
from nfagent.nftables.boot_rulesets import after_boot
from nfagent.nftables.objects import Chain, Jump, NamedSet, Rule, Ruleset
from nfagent.nftables.unknown_pods import holds_unknown_pods
from nfagent.policy.options import PolicyOptions
from nfagent.restore import restore
from tests.support.own_namespace import own_namespace
from tests.support.two_node_cluster import decoded, node, pod, policy

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]
HEADER = SavedHeader(
    version="0.1", node="a", boot_id="", written_at=0.0, pod_ranges=("10.64.0.0/24",), holds_unknown=False
)
DAY = 86400.0


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with own_namespace("restore"):
        yield


def desired(unknown_pods: str = "passed") -> DesiredState:
    options = msgspec.convert({"unknown_pods": unknown_pods}, PolicyOptions)
    made = DesiredState("a", policy_options=options)
    for document in (node("a"), pod("shop/web", "a", 10), policy("shop/closed")):
        made.put(decoded(document))
    return made


def settings(folder: Path, unknown_pods: str = "passed", max_age: float = 30 * DAY) -> Settings:
    return Settings(
        node="a",
        state_dir=str(folder / "state"),
        runtime_dir=str(folder / "run"),
        policy=msgspec.convert({"unknown_pods": unknown_pods}, PolicyOptions),
        boot=BootSection(max_age_seconds=max_age),
    )


def save(folder: Path, ruleset: Ruleset | None = None, header: SavedHeader = HEADER) -> Path:
    batches, content = encode_batches(desired().ruleset() if ruleset is None else ruleset)
    path = ruleset_path(str(folder / "state"))
    write_saved(path, encode_saved(msgspec.structs.replace(header, content=content), batches))
    return path


def in_kernel() -> Ruleset:
    client = NftClient()
    try:
        return client.read_now()
    finally:
        client.close()


def tables() -> str:
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout


def test_the_saved_ruleset_is_in_the_kernel_as_an_agent_would_write_it(tmp_path: Path) -> None:
    wanted = desired().ruleset()
    save(tmp_path)
    assert str(restore(settings(tmp_path))).startswith("the saved ruleset of 20")
    found = in_kernel()
    assert msgspec.structs.replace(found, foreign=frozenset()) == after_boot(wanted)
    assert sorted(tables().splitlines()) == ["table bridge nfagent", "table inet nfagent"]


def test_where_unknown_pods_are_held_the_restored_ruleset_knows_none(tmp_path: Path) -> None:
    save(tmp_path, desired("held").ruleset(), msgspec.structs.replace(HEADER, holds_unknown=True))
    result = restore(settings(tmp_path, "held"))
    assert (result.rules, result.held) == ("saved", ("10.64.0.0/24",))
    found = in_kernel()
    assert found == after_boot(desired("held").ruleset())
    assert holds_unknown_pods(found)
    assert found.sets["knownpods4"].elements == frozenset()


def test_a_setting_that_was_switched_on_since_holds_too(tmp_path: Path) -> None:
    save(tmp_path)
    assert restore(settings(tmp_path, "held")).held == ("10.64.0.0/24",)
    found = in_kernel()
    assert {"forward-hold", "unknown-pods", "forward-egress"} <= found.chains.keys()
    assert found.maps["ingress4"].elements == desired().ruleset().maps["ingress4"].elements


def test_a_setting_that_was_switched_off_since_holds_nothing(tmp_path: Path) -> None:
    save(tmp_path, desired("held").ruleset(), msgspec.structs.replace(HEADER, holds_unknown=True))
    assert restore(settings(tmp_path)).held == ()
    assert not holds_unknown_pods(in_kernel())


def refused_by_the_kernel() -> Ruleset:
    """Return rules with a jump to itself, which only the kernel notices."""
    whole = desired().ruleset()
    loop = Chain((Rule(verdict=Jump("deny/loop")),))
    forward = whole.chains["forward-ingress"]
    reached = msgspec.structs.replace(forward, rules=(Rule(verdict=Jump("deny/loop")), *forward.rules))
    # Many elements: the chains are in a later batch than these, which the kernel takes.
    many = NamedSet("address", 4, frozenset(f"10.1.{number // 250}.{number % 250}" for number in range(12_000)))
    chains = {**whole.chains, "deny/loop": loop, "forward-ingress": reached}
    return msgspec.structs.replace(whole, chains=chains, sets={**whole.sets, "many4": many})


@pytest.mark.parametrize("unknown_pods", ["passed", "held"])
def test_a_ruleset_of_before_saving_was_switched_off_is_not_restored(tmp_path: Path, unknown_pods: str) -> None:
    save(tmp_path)
    switched_off = msgspec.structs.replace(settings(tmp_path, unknown_pods), boot=BootSection(save_ruleset=False))
    result = restore(switched_off)
    assert result.rules == ("hold" if unknown_pods == "held" else "none")
    assert result.reason == "boot.save_ruleset is false"
    assert not in_kernel().maps


def test_a_boot_without_saving_is_no_failure_of_the_early_unit(tmp_path: Path) -> None:
    save(tmp_path)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("NFAGENT_")},
        "NFAGENT_STATE_DIR": str(tmp_path / "state"),
        "NFAGENT_RUNTIME_DIR": str(tmp_path / "run"),
        "NFAGENT_BOOT_SAVE_RULESET": "false",
    }
    command = [sys.executable, "-m", "nfagent", "restore", "--node", "a"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "enforced until the agent has read the cluster: nothing: Pods are open\n"
    assert "the saved ruleset is not restored: boot.save_ruleset is false" in done.stderr


UNUSABLE = {
    "another node's": (HEADER.node + "b", LAYOUT, 0.0, "it is of node ab, and this is node a"),
    "too old": ("a", LAYOUT, 31 * DAY, "it was in force 31.0 days ago"),
    "a later layout": ("a", LAYOUT + 1, 0.0, "wrote it with table layout 2"),
}


@pytest.mark.parametrize(("name", "layout", "age", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_is_refused_is_said_and_nothing_is_loaded(
    tmp_path: Path, name: str, layout: int, age: float, reason: str
) -> None:
    save(tmp_path, header=msgspec.structs.replace(HEADER, node=name, layout=layout))
    result = restore(settings(tmp_path), time.time() + age)
    assert (result.rules, str(result)) == ("none", "nothing: Pods are open")
    assert reason in result.reason
    assert "inet" not in tables()


def test_without_a_usable_ruleset_every_pod_of_the_remembered_ranges_is_held(tmp_path: Path) -> None:
    save(tmp_path)
    result = restore(settings(tmp_path, "held"), time.time() + 31 * DAY)
    assert str(result) == "no policy; unknown Pods of 10.64.0.0/24 are held"
    assert holds_unknown_pods(in_kernel())


def test_of_a_ruleset_that_the_kernel_refuses_nothing_is_left(tmp_path: Path) -> None:
    save(tmp_path, refused_by_the_kernel())
    result = restore(settings(tmp_path))
    assert result.rules == "none"
    assert "it can't be loaded" in result.reason
    assert "inet" not in tables()
    assert restore(settings(tmp_path, "held")).rules == "hold"


@pytest.mark.parametrize("content", [b"", b"\0" * 5000], ids=["empty", "zeros"])
def test_a_damaged_file_is_said_to_be_one(tmp_path: Path, content: bytes) -> None:
    path = save(tmp_path)
    path.write_bytes(content)
    result = restore(settings(tmp_path, "held"))
    assert result.rules == "none"
    assert f"{path} is not used" in result.reason


def test_without_a_file_there_is_nothing_to_restore(tmp_path: Path) -> None:
    result = restore(settings(tmp_path, "held"))
    assert (result.rules, result.reason) == ("none", f"there is no saved ruleset in {tmp_path / 'state'}")


def test_a_clock_before_the_ruleset_was_in_force_is_told_and_refuses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path)
    assert restore(settings(tmp_path), now=3600.0).rules == "saved"
    assert "the clock stands at 1970-01-01T01:00:00Z, before the saved ruleset was in force" in caplog.text


def test_a_table_that_exists_is_never_touched(tmp_path: Path) -> None:
    save(tmp_path)
    subprocess.run(["nft", "add table inet nfagent; add chain inet nfagent own"], check=True)
    assert restore(settings(tmp_path)).rules == "present"
    assert in_kernel().chains.keys() == {"own"}


def test_beside_a_running_agent_nothing_is_restored(tmp_path: Path) -> None:
    save(tmp_path)
    lock = acquire_table()
    try:
        result = restore(settings(tmp_path))
    finally:
        lock.close()
    assert str(result) == "what the agent that runs enforces; nothing is restored"
    assert result.rules == "running"
    assert "inet" not in tables()
