"""`nfagent check` and `nfagent cleanup` about the backend, as commands in a network namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nfagent.kernel.xt_programs import programs_of
from nfagent.xtables.names import chain_name
from tests.support.own_namespace import own_iptables

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

OURS = chain_name("x")
CHAIN = f"*mangle\n:{OURS} - [0:0]\n-A {OURS} -j DROP\n-I FORWARD 1 -j {OURS}\nCOMMIT\n"


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; folders and the lock of iptables are this test's own."""
    for key in ("RUNTIME_DIR", "LOG_DIR", "STATE_DIR"):
        monkeypatch.setenv(f"NFAGENT_{key}", str(tmp_path / key))
    with own_iptables("backend", tmp_path, monkeypatch):
        yield


def nfagent(*arguments: str, path: str | None = None) -> Any:  # noqa: ANN401 - a command's JSON
    environment = {**os.environ, **({} if path is None else {"PATH": path})}
    command = [sys.executable, "-m", "nfagent", *arguments, "-o", "json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)


def check(*arguments: str, path: str | None = None) -> dict[str, tuple[str, str, str]]:
    return {
        item["name"]: (item["result"], item["found"], item["fix"])
        for item in nfagent("check", *arguments, path=path)["checks"]
    }


def test_a_kernel_with_nf_tables_has_nftables() -> None:
    assert check()["backend"] == ("ok", "nftables, as the kernel has nf_tables", "")


def test_iptables_is_checked_where_it_is_asked_for() -> None:
    programs_of("legacy").restore(4, CHAIN)

    found = check("--backend", "iptables")

    assert found["backend"] == ("ok", "iptables (legacy: nfagent's rules are there), as the settings say so", "")
    assert found["iptables-legacy"][:1] == ("ok",)
    assert "libnftables" not in found


def test_without_its_programs_the_package_is_named(tmp_path: Path) -> None:
    found = check("--backend", "iptables", path=str(tmp_path))

    assert found["backend"] == (
        "FAIL",
        "iptables-restore is missing: rules can't be written",
        "apt-get install iptables",
    )


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_cleanup_removes_the_rules_and_the_sets(variant: str) -> None:
    subprocess.run(["ipset", "create", "nfa-s", "hash:ip"], check=True)
    programs_of("legacy" if variant == "legacy" else "nft").restore(4, CHAIN)

    removed = nfagent("cleanup")

    assert removed["iptables"] == {"chains": 1, "rules": 1, "sets": 1, "left": []}
    saved = subprocess.run([f"iptables-{variant}-save"], capture_output=True, text=True, check=True).stdout
    assert "nfa-" not in saved


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_cleanup_removes_chains_whose_sets_another_program_has_destroyed(variant: str) -> None:
    programs_of("legacy" if variant == "legacy" else "nft").restore(4, CHAIN)

    assert nfagent("cleanup")["iptables"] == {"chains": 1, "rules": 1, "sets": 0, "left": []}
    saved = subprocess.run([f"iptables-{variant}-save"], capture_output=True, text=True, check=True).stdout
    assert "nfa-" not in saved


def test_cleanup_without_rules_in_iptables_says_nothing_of_it() -> None:
    assert nfagent("cleanup")["iptables"] is None
