"""A purge of the Debian package removes the rules without nfagent: what its postrm does to the kernel."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.kernel.test_xt_agent import _node, agent

__all__ = ["_node"]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

POSTRM = Path(__file__).parents[2] / "packaging" / "deb" / "nfagent.postrm"
FOREIGN = "-A FORWARD -s 192.0.2.1/32 -m comment --comment nfa-not-ours -j ACCEPT"


def remove_rules() -> str:
    """Run the function of the postrm that removes rules, where no temporary file can be made.

    The rest of it removes files of this machine.
    """
    functions = re.findall(r"^\w+\(\) \{\n.*?^\}\n", POSTRM.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    script = "".join(functions) + "remove_rules"
    environment = os.environ | {"TMPDIR": "/nowhere"}
    done = subprocess.run(
        ["sh", "-e", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout


def saved() -> str:
    return "".join(
        subprocess.run([program], capture_output=True, text=True, check=True, timeout=60).stdout
        for program in ("iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save")
    )


def sets() -> str:
    return subprocess.run(["ipset", "list", "-name"], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("written_by", ["iptables", "nftables"])
def test_a_purge_removes_the_rules_of_each_backend_and_none_of_others(written_by: str) -> None:
    async def enforce() -> None:
        async with agent(written_by):
            pass

    subprocess.run(["iptables", *FOREIGN.split()], check=True, timeout=60)
    subprocess.run(["ipset", "create", "others", "hash:ip"], check=True, timeout=60)
    asyncio.run(enforce())
    assert (":nfa-" in saved()) == ("nfa-" in sets()) == (written_by == "iptables")
    remove_rules()
    assert re.findall(r"^:nfa-.*|^-A .*-[jg] nfa-.*", saved(), re.MULTILINE) == []
    assert FOREIGN in saved()
    assert sets() == "others\n"
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "nfagent" not in listed
