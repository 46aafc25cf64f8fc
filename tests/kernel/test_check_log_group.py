"""`nfagent check` names the rules of other programs that log to the verdict log's NFLOG group."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nfagent.cli.check_log_group import log_group_checks
from nfagent.cli.check_result import Check
from nfagent.config import Settings
from nfagent.kernel.table_queries import log_rules
from nfagent.netlink.nft_log_rules import LogRule
from tests.support.own_namespace import own_namespace

pytestmark = pytest.mark.kernel

THEIRS = """
table inet theirs {
  chain c { log prefix "a" group 100 drop; log group 99; log prefix "group 100"; counter accept; }
}
table bridge theirs { chain c { log group 100 snaplen 20; }
}
table inet nfagent { chain deny { log prefix "deny ingress shop/db" group 100 drop; }
}
"""


def load(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def checked() -> list[Check]:
    return list(log_group_checks(Settings(), root=True))


def test_rules_of_every_family_are_named_and_neither_our_own_nor_those_of_other_groups() -> None:
    with own_namespace("groups"):
        [free] = checked()
        assert (free.result, free.found) == ("ok", "no other program logs to group 100")
        load(THEIRS)
        assert [item.result for item in checked()] == ["warn", "warn"]
        assert [item.found for item in checked()] == [
            "table bridge theirs, chain c, `handle 2` logs to group 100 too",
            "table inet theirs, chain c, `handle 2` logs to group 100 too",
        ]
        assert checked()[0].fix.startswith("set another group")
        assert {rule.group for rule in log_rules()} == {99, 100}


def test_the_rules_of_a_large_ruleset_are_counted() -> None:
    with own_namespace("groups"):
        rules = "\n".join(f'log prefix "drop {number}" group 100' for number in range(3_000))
        load(f"table ip theirs {{ chain c {{ {rules}\n}}\n}}")
        assert len(log_rules()) == 3_000
        assert log_rules()[-1] == LogRule("ip", "theirs", "c", 3_001, 100)
        assert (len(checked()), checked()[-1].found) == (6, "2995 more rules of other programs log to group 100")


def test_rules_of_iptables_legacy_are_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The programs of iptables may be missing here: this prints what it prints.
    program = tmp_path / "ip6tables-legacy-save"
    rule = "-A INPUT -j NFLOG --nflog-group 100"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' '*filter' ':INPUT ACCEPT [0:0]' '{rule}' COMMIT\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with own_namespace("groups"):
        [found] = checked()
        assert found.found == f"ip6tables-legacy, table filter, chain INPUT, `{rule}` logs to group 100 too"
