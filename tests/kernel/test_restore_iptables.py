"""`nfagent restore` where the backend is iptables: what is in the kernel of a network namespace afterwards."""

from __future__ import annotations

import os
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nfagent.checkpoint.ruleset_codec import XT_FORMAT, SavedHeader, encode_batches, encode_saved
from nfagent.checkpoint.ruleset_file import ruleset_path, write_saved
from nfagent.checkpoint.xt_ruleset_codec import Variant, encode_xt_ruleset
from nfagent.config import BootSection, Settings
from nfagent.desired.state import DesiredState
from nfagent.kernel.backend_switch import remove_xt_rules
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.xt_listing import XtKernel, XtReader
from nfagent.kernel.xt_programs import programs_of
from nfagent.nftables.boot_rulesets import after_boot
from nfagent.nftables.objects import Ruleset
from nfagent.policy.options import PolicyOptions
from nfagent.restore import restore
from nfagent.xtables.lowering import lower
from nfagent.xtables.names import chain_name
from nfagent.xtables.objects import XtRuleset
from nfagent.xtables.options import LoweringOptions
from tests.support.own_namespace import own_iptables
from tests.support.two_node_cluster import decoded, node, pod, policy

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]
OPTIONS = LoweringOptions()
HEADER = SavedHeader(
    version="0.1",
    node="a",
    boot_id="",
    written_at=0.0,
    pod_ranges=("10.64.0.0/24",),
    holds_unknown=False,
    format=XT_FORMAT,
)
DAY = 86400.0


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with own_iptables("xtrestore", tmp_path, monkeypatch):
        yield
        remove_xt_rules()


def desired(unknown_pods: str = "passed") -> DesiredState:
    made = DesiredState("a", policy_options=msgspec.convert({"unknown_pods": unknown_pods}, PolicyOptions))
    for document in (node("a"), pod("shop/web", "a", 10), policy("shop/closed")):
        made.put(decoded(document))
    return made


def settings(folder: Path, unknown_pods: str = "passed") -> Settings:
    return Settings(
        node="a",
        backend="iptables",
        state_dir=str(folder / "state"),
        runtime_dir=str(folder / "run"),
        policy=msgspec.convert({"unknown_pods": unknown_pods}, PolicyOptions),
        boot=BootSection(max_age_seconds=30 * DAY),
    )


def save(folder: Path, variant: Variant = "legacy", header: SavedHeader = HEADER, unknown_pods: str = "passed") -> Path:
    batches, content = encode_xt_ruleset(desired(unknown_pods).ruleset(), OPTIONS, variant)
    path = ruleset_path(str(folder / "state"))
    write_saved(path, encode_saved(msgspec.structs.replace(header, content=content), batches))
    return path


def in_kernel(known: XtRuleset, variant: Variant = "legacy") -> XtRuleset:
    kernel = XtKernel(programs_of(variant), (4, 6), IpSetSocket(), NfacctSocket())
    try:
        return XtReader(kernel).read(known).ruleset
    finally:
        kernel.close()


def written(ruleset: Ruleset) -> XtRuleset:
    return lower(after_boot(ruleset), OPTIONS)[0]


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_the_saved_ruleset_is_written_in_the_variant_that_it_was_in(tmp_path: Path, variant: Variant) -> None:
    save(tmp_path, variant)

    found = restore(settings(tmp_path), now=time.time())

    assert found.rules == "saved"
    wanted = written(desired().ruleset())
    assert in_kernel(wanted, variant) == wanted


def test_rules_that_are_there_are_never_touched(tmp_path: Path) -> None:
    save(tmp_path)
    ours = chain_name("x")
    subprocess.run(["iptables-legacy", "-t", "mangle", "-N", ours], check=True)

    assert restore(settings(tmp_path), now=time.time()).rules == "present"
    assert set(in_kernel(XtRuleset()).chains) == {(4, "mangle", ours)}


def test_a_chain_of_another_program_that_begins_as_ours_do_is_none_of_our_rules(tmp_path: Path) -> None:
    save(tmp_path)
    subprocess.run(["iptables-legacy", "-t", "mangle", "-N", "nfa-theirs"], check=True)

    assert restore(settings(tmp_path), now=time.time()).rules == "saved"


@pytest.mark.parametrize(
    ("header", "age", "reason"),
    [
        pytest.param(HEADER, 31 * DAY, "boot.max_age_seconds allows", id="too old"),
        pytest.param(msgspec.structs.replace(HEADER, node="b"), 0.0, "it is of node b", id="another node's"),
        pytest.param(msgspec.structs.replace(HEADER, layout=99), 0.0, "table layout 99", id="of a later layout"),
        pytest.param(msgspec.structs.replace(HEADER, format=1), 0.0, "rules of the other backend", id="of nftables"),
    ],
)
def test_a_ruleset_that_may_not_be_restored_leaves_the_node_as_it_is(
    tmp_path: Path, header: SavedHeader, age: float, reason: str
) -> None:
    save(tmp_path, header=header)

    found = restore(settings(tmp_path), now=time.time() + age)

    assert (found.rules, reason in found.reason) == ("none", True), found
    assert in_kernel(XtRuleset()) == XtRuleset()


def test_rules_of_nftables_that_were_saved_are_not_taken_for_those_of_iptables(tmp_path: Path) -> None:
    batches, _ = encode_batches(desired().ruleset())
    write_saved(ruleset_path(str(tmp_path / "state")), encode_saved(HEADER, batches))

    assert restore(settings(tmp_path), now=time.time()).rules == "none"
    assert in_kernel(XtRuleset()) == XtRuleset()


def test_where_the_settings_hold_unknown_pods_the_ranges_are_held_without_a_usable_ruleset(tmp_path: Path) -> None:
    save(tmp_path)  # it lets unknown Pods pass

    found = restore(settings(tmp_path, "held"), now=time.time())

    assert (found.rules, found.held) == ("hold", ("10.64.0.0/24",))
    chains = in_kernel(XtRuleset()).chains
    assert any(rule.target == ("-j", "DROP") for chain in chains.values() for rule in chain.rules)


def test_a_ruleset_that_holds_unknown_pods_is_restored_with_them(tmp_path: Path) -> None:
    save(tmp_path, header=msgspec.structs.replace(HEADER, holds_unknown=True), unknown_pods="held")

    found = restore(settings(tmp_path, "held"), now=time.time())

    assert (found.rules, found.held) == ("saved", ("10.64.0.0/24",))
    wanted = written(desired("held").ruleset())
    assert in_kernel(wanted) == wanted


def test_what_the_kernel_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path)
    program = tmp_path / "bin" / "ip6tables-legacy-restore"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\ngiven=$(cat)\ncase $given in *-A\\ nfa-*) echo refused >&2; exit 1;; esac\n"
        'printf \'%s\\n\' "$given" | exec /usr/sbin/ip6tables-legacy-restore "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    found = restore(settings(tmp_path), now=time.time())

    assert found.rules == "none"
    assert "it can't be loaded" in found.reason
    assert in_kernel(XtRuleset()) == XtRuleset()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param({"members": [["10.0.0.999", 32]]}, "can't be a member", id="an address that is none"),
        pytest.param({"members": [["10.0.0.0", -1]]}, "can't be a member", id="a prefix length below zero"),
        pytest.param({"timeout": -1}, "can't be decoded", id="a timeout below zero"),
        pytest.param({"size": 2**32}, "can't be decoded", id="more members than a set can have"),
        pytest.param({"type": "bitmap:port", "members": [65536]}, "can't be a member", id="a port that is none"),
    ],
)
def test_a_ruleset_with_values_that_no_set_can_have_leaves_the_ranges_held(
    tmp_path: Path, values: dict[str, object], reason: str
) -> None:
    """Its digest is right: it may be of another version, or of a disk and a memory that both fail."""
    batches, _ = encode_xt_ruleset(desired("held").ruleset(), OPTIONS, "legacy")
    content = msgspec.json.decode(zlib.decompress(batches[0]))
    chosen = next(number for number, item in enumerate(content["sets"]) if item["type"] == "hash:net")
    content["sets"][chosen] |= values
    header = msgspec.structs.replace(HEADER, holds_unknown=True)
    saved = encode_saved(header, [zlib.compress(msgspec.json.encode(content))])
    write_saved(ruleset_path(str(tmp_path / "state")), saved)

    found = restore(settings(tmp_path, "held"), now=time.time())

    assert (found.rules, found.held) == ("hold", ("10.64.0.0/24",)), found
    assert reason in found.reason
