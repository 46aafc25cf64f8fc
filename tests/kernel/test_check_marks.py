"""`nfagent check` names the rules of other programs that use the bits of the packet mark."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nfagent.cli.check_marks import mark_checks
from nfagent.cli.check_result import Check
from nfagent.config import Settings
from nfagent.kernel import iptables_save
from nfagent.kernel.nft_client import NftClient
from nfagent.nftables.gateway_chains import GATEWAYS_CHAIN
from nfagent.nftables.objects import TABLE, TABLE_FAMILY
from tests.support.own_namespace import own_namespace

pytestmark = pytest.mark.kernel

OWN = f"table {TABLE_FAMILY} {TABLE} {{ chain {GATEWAYS_CHAIN} {{ type filter hook prerouting priority -90; }}\n}}"
THEIRS = (
    "table ip theirs { chain pre { type filter hook prerouting priority -150;\n"
    "meta mark set meta mark | 0x00400000\nmeta mark set meta mark | 0x4000; }\n}"
)


def load(*texts: str) -> None:
    subprocess.run(["nft", "-f", "-"], input="\n".join(texts), text=True, check=True)


def checked() -> list[Check]:
    return list(mark_checks(Settings(), root=True))


def test_other_rules_that_use_the_bits_are_named_where_gateways_are_in_use() -> None:
    with own_namespace("marks"):
        assert [item.result for item in checked()] == ["ok"]
        load(THEIRS)
        [idle] = checked()
        assert (idle.result, "1 rule of other programs, first table ip theirs" in idle.found) == ("ok", True)
        load(OWN)
        kernel = NftClient()
        try:
            assert GATEWAYS_CHAIN in kernel.read_now().chains
        finally:
            kernel.close()
        [used] = checked()
        assert (used.result, used.fix.split(":")[0]) == ("warn", "choose eight bits that no other program uses")
        assert used.found.startswith(
            "table ip theirs, chain pre: `handle 2` sets the bits 0x00400000, of which nfagent"
        )


def test_rules_of_iptables_and_of_routing_are_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The programs of iptables may be missing here: these print what those print.
    for name, mark in (("iptables-legacy", "0x100000"), ("iptables-nft", "0x4000"), ("ip6tables-nft", "0x200000")):
        program = tmp_path / f"{name}-save"
        rule = f"-A PREROUTING -j MARK --set-xmark {mark}/{mark}"
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' '*mangle' ':PREROUTING ACCEPT [0:0]' '{rule}' COMMIT\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with own_namespace("marks"):
        load(OWN)
        subprocess.run(["ip", "rule", "add", "fwmark", "0x800000/0x800000", "lookup", "77"], check=True)
        subprocess.run(["ip", "rule", "add", "fwmark", "0x80/0x80", "lookup", "77"], check=True)
        places = [item.found.split(":")[0] for item in checked()]
        assert places == [
            "`ip rule`",
            "ip6tables-nft, table mangle, chain PREROUTING",
            "iptables-legacy, table mangle, chain PREROUTING",
        ]


@pytest.mark.parametrize(
    ("tables", "result"),
    [
        pytest.param("mangle\n", "warn", id="its rules are unknown where the kernel names a table"),
        pytest.param("", "ok", id="there are none where the kernel names no table"),
    ],
)
def test_iptables_legacy_that_may_not_read_its_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: str, result: str
) -> None:
    """As in a container with NET_ADMIN alone: iptables-legacy-save opens a raw socket."""
    program, names = tmp_path / "iptables-legacy-save", tmp_path / "names"
    program.write_text("#!/bin/sh\necho 'Cannot initialize: Permission denied (you must be root)' >&2; exit 1\n")
    program.chmod(0o755)
    names.write_text(tables)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setitem(iptables_save._LEGACY_TABLES, "iptables-legacy", names)  # noqa: SLF001 - a file of the kernel's
    with own_namespace("marks"):
        [found] = checked()
        assert (found.result, "Permission denied" in found.found) == (result, result != "ok")
