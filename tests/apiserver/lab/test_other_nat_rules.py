"""A masquerade rule of another program on a node: one Event on that Node, also when the rule comes again."""

from __future__ import annotations

import subprocess

import pytest

from nfagent.lab.topology import netns
from tests.support.apiserver_labs import ApiLab
from tests.support.packet_labs import Document, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver, pytest.mark.usefixtures("tidy")]

SPREAD_SECONDS = 30.0
THEIRS = """table ip theirs {
  chain post { type nat hook postrouting priority 100; ip saddr 10.64.0.0/16 masquerade; }
}"""


def load(lab: ApiLab, text: str) -> None:
    """Load nft text on node a."""
    namespace = lab.topology.node_namespace("a")
    netns.inside(namespace, lambda: subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True))


def events(lab: ApiLab) -> list[Document]:
    return [one for one in lab.client.list("v1", "Event", "default") if one["reason"] == "ForeignNatRule"]


def conflicts(lab: ApiLab) -> int:
    return len(lab.cluster.agent("a").ask("/v1/dump/state")["agent"]["nat"]["conflicts"])


def test_a_masquerade_rule_of_another_program_is_one_event_on_its_node(lab: ApiLab) -> None:
    load(lab, THEIRS)
    try:
        wait_until(lambda: bool(events(lab)), SPREAD_SECONDS)
        [event] = events(lab)
        assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("Node", "a")
        assert event["message"].startswith(
            "table ip theirs, chain post: rule `ip saddr 10.64.0.0/16 masquerade` translates traffic of Pods to "
        )
        load(lab, "delete table ip theirs")
        wait_until(lambda: not conflicts(lab))
        load(lab, THEIRS)
        wait_until(lambda: bool(conflicts(lab)))
        assert conflicts(lab) == 1
        load(lab, THEIRS.replace("theirs", "others"))
        wait_until(lambda: len(events(lab)) > 1, SPREAD_SECONDS)
        assert sorted((one["message"].split(",")[0], one["count"]) for one in events(lab)) == [
            ("table ip others", 1),
            ("table ip theirs", 1),
        ]
    finally:
        for name in ("theirs", "others"):
            load(lab, f"add table ip {name}\ndelete table ip {name}")
