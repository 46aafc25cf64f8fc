"""iptables' programs in a real kernel: which variant is used, and how refusals and a held lock read."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nfagent.errors import HostError, KernelError
from nfagent.kernel import xt_programs
from nfagent.kernel.iptables_save import legacy_tables
from nfagent.kernel.xt_errors import LockHeldError, RestoreRefusedError
from nfagent.kernel.xt_programs import Variant, XtPrograms, find_programs, programs_of
from nfagent.model.netaddr import Family
from nfagent.xtables.names import chain_name
from nfagent.xtables.saved import parse_saved
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

CHAIN = "*mangle\n:nfa-x - [0:0]\n-A nfa-x -s 10.0.0.1/32 -j DROP\nCOMMIT\n"
VARIANTS: list[Variant] = ["legacy", "nft"]


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread."""
    with own_namespace("xt"):
        yield


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a lock of this test's own, which its programs take."""
    path = tmp_path / "xtables.lock"
    path.touch()
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
    return path


def run(*command: str, text: str = "") -> None:
    """Run another program."""
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)


@pytest.fixture(params=VARIANTS)
def programs(request: pytest.FixtureRequest) -> XtPrograms:
    return programs_of(request.param)


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_restored_is_saved(programs: XtPrograms, family: Family) -> None:
    text = CHAIN if family == 4 else CHAIN.replace("10.0.0.1/32", "fd00::/8")

    programs.restore(family, text)

    (chain,) = parse_saved(programs.save(family, "mangle"), family)["mangle"].chains.values()
    assert [rule.target for rule in chain.rules] == [("-j", "DROP")]


def test_a_table_that_is_absent_has_no_rules_and_is_not_made(programs: XtPrograms) -> None:
    saved = parse_saved(programs.save(4, "nat"), 4)

    assert [table for table in saved.values() if table.chains or table.hooks] == []
    assert legacy_tables("iptables-legacy") == frozenset()
    assert "nat" not in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout


def test_rules_of_other_programs_stay(programs: XtPrograms) -> None:
    run(f"iptables-{programs.variant}", "-t", "mangle", "-A", "FORWARD", "-s", "10.9.9.9", "-j", "ACCEPT")

    programs.restore(4, CHAIN)

    assert "-A FORWARD -s 10.9.9.9/32 -j ACCEPT" in programs.save(4, "mangle")


REFUSALS = {
    "a match that there is none of": (
        "-A nfa-x -m nothing --such 1 -j DROP",
        r", line 3 `-A nfa-x -m nothing --such 1 -j DROP`: \S+ lacks the match `nothing`; apt-get install iptables$",
    ),
    "a set that is absent": (
        "-A nfa-x -m set --match-set nfa-s src -j DROP",
        r", line 3 `-A nfa-x -m set .*`: there is no set nfa-s$",
    ),
    "an option that there is none of": ("-A nfa-x --such 1", r', line 3 `-A nfa-x --such 1`: unknown option "--such"'),
    "an address that is none": ("-A nfa-x -s 10.0.0.300 -j DROP", r", line 3 `-A nfa-x -s 10.0.0.300 -j DROP`: host/"),
}


@pytest.mark.parametrize(("line", "message"), REFUSALS.values(), ids=list(REFUSALS))
def test_a_refusal_names_the_line_and_the_reason(programs: XtPrograms, line: str, message: str) -> None:
    with pytest.raises(RestoreRefusedError, match=message) as refused:
        programs.restore(4, f"*mangle\n:nfa-x - [0:0]\n{line}\nCOMMIT\n")

    assert refused.value.line == 3


def test_a_chain_that_is_absent_is_named(programs: XtPrograms) -> None:
    with pytest.raises(RestoreRefusedError, match="nfa-nowhere"):
        programs.restore(4, "*mangle\n:nfa-x - [0:0]\n-A nfa-x -j nfa-nowhere\nCOMMIT\n")


def test_what_only_the_kernel_refuses_is_named_too(programs: XtPrograms) -> None:
    with pytest.raises(RestoreRefusedError, match=r"(table mangle: a rule that it can't take|RULE_APPEND failed)"):
        programs.restore(4, "*mangle\n:nfa-x - [0:0]\n-A nfa-x -m nfacct --nfacct-name absent\nCOMMIT\n")


def test_after_a_refusal_nothing_of_the_table_is_changed(programs: XtPrograms) -> None:
    with pytest.raises(KernelError):
        programs.restore(4, CHAIN.replace("COMMIT", "-A nfa-x -m nfacct --nfacct-name absent\nCOMMIT"))

    assert "nfa-x" not in programs.save(4, "mangle")


def test_the_program_that_holds_the_lock_is_named(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xt_programs, "LOCK_SECONDS", 1)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockHeldError, match=rf"held for 1 s by \S.* \(process {os.getpid()}\); no rule is changed"):
            programs_of("legacy").restore(4, CHAIN)


def test_a_refusal_behind_a_wait_for_the_lock_is_none_of_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "iptables-legacy-restore"
    program = tmp_path / name
    waits = "echo 'Another app is currently holding the xtables lock; still 4s 0us time ahead' >&2"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] || {waits}\nexec {shutil.which(name)} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(RestoreRefusedError, match=r"no chain nfa-b$"):
        programs_of("legacy").restore(4, "*mangle\n:nfa-a - [0:0]\n-A nfa-a -j nfa-b\nCOMMIT\n")


OURS = CHAIN.replace("nfa-x", chain_name("x"))


def test_the_variant_that_has_our_rules_is_used() -> None:
    programs_of("legacy").restore(4, OURS)
    run("iptables-nft", "-A", "FORWARD", "-j", "ACCEPT")
    run("iptables-nft", "-A", "FORWARD", "-j", "ACCEPT")

    found = find_programs(nf_tables=True)

    assert (found.variant, found.reason, found.other) == ("legacy", "nfagent's rules are there", "")


def test_a_chain_of_another_program_that_begins_as_ours_do_is_none_of_ours() -> None:
    run("iptables-nft", "-t", "mangle", "-N", "nfa-foreign")
    run("iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")

    found = find_programs(nf_tables=True)

    assert (found.variant, found.reason, found.other) == ("legacy", "kubelet uses it", "")


def test_rules_of_ours_in_the_other_variant_are_found() -> None:
    programs_of("legacy").restore(4, OURS)
    programs_of("nft").restore(4, OURS)
    run("iptables-nft", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")

    found = find_programs(nf_tables=True)

    assert (found.variant, found.reason, found.other) == ("nft", "kubelet uses it", "legacy")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variant_with_most_rules_is_used_where_neither_has_ours(variant: Variant) -> None:
    run(f"iptables-{variant}", "-A", "FORWARD", "-j", "ACCEPT")

    found = find_programs(nf_tables=True)

    assert (found.variant, found.reason) == (variant, "it has most rules on this node: 1")


def test_a_kernel_without_nf_tables_has_the_legacy_variant_only() -> None:
    run("iptables-nft", "-A", "FORWARD", "-j", "ACCEPT")

    assert find_programs(nf_tables=False).variant == "legacy"


def only(*names: str) -> Callable[[str], str | None]:
    return lambda name: shutil.which(name) if name.startswith(names) else None


def test_without_the_programs_the_package_is_named() -> None:
    with pytest.raises(
        HostError, match="iptables-restore is missing: rules can't be written; apt-get install iptables"
    ):
        find_programs(nf_tables=True, which=only("nothing"))


def test_programs_of_ipv4_alone_leave_ipv6_out() -> None:
    found = find_programs(nf_tables=True, which=only("iptables"))

    with pytest.raises(HostError, match="ip6tables-restore is missing; apt-get install iptables"):
        found.restore(6, CHAIN)


def test_a_program_of_the_plain_name_is_used_by_its_version() -> None:
    found = find_programs(nf_tables=True, which=only("iptables-restore", "iptables-save"))

    assert found.variant == "nft"
    assert found.program(4).name == "iptables-restore"
