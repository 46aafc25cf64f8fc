"""Another program removes all rules of an agent, of either backend; the agent isn't told."""

from __future__ import annotations

import subprocess

from nfagent.lab.cluster.agents import LabAgent
from tests.support.packet_labs import ManifestLab

_TABLES = ("raw", "mangle", "nat")


def remove_rules(lab: ManifestLab, agent: LabAgent) -> None:
    """Remove the rules on an agent's node; of iptables all that are there, which are the agent's alone in a lab."""
    if agent.backend == "nftables":
        agent.nft("delete", "table", "inet", "nfagent")
        return
    flushed = "".join(f"*{table}\nCOMMIT\n" for table in _TABLES)
    for program in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
        argv = lab.topology.command(lab.topology.node_namespace(agent.node), [program, "-w", "5"])
        subprocess.run(argv, input=flushed, text=True, check=True, capture_output=True, timeout=60)
