"""Twenty typical policies, each beside the nft text that node `a` gets for it.

`NFAGENT_REGOLD=1 pytest tests/golden` writes the texts anew: read each against its policy before it is committed.
"""

from __future__ import annotations

import os
from difflib import unified_diff
from pathlib import Path

import pytest
import yaml

from nfagent.desired.state import DesiredState
from nfagent.introspection.views.xtables import xtables_text
from nfagent.nftables.render import table_text
from nfagent.xtables.lowering import lower
from nfagent.xtables.options import LoweringOptions
from tests.support.two_node_cluster import DECODERS

FOLDER = Path(__file__).parent
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
XTABLES = ("named-port-ingress",)
"""Policies that have a text for iptables and ipset too: names end in digests, so there it is the form that is read."""
REGOLD = os.environ.get("NFAGENT_REGOLD") == "1"


def loaded(manifests: Path, node: str = "a") -> DesiredState:
    desired = DesiredState(node)
    for document in yaml.safe_load_all(manifests.read_text()):
        item = DECODERS[document["kind"]](document)
        assert item is not None
        assert getattr(item, "problem", None) is None
        desired.put(item)
    return desired


def annotated_text(desired: DesiredState) -> str:
    """Write the table as `nfagent render` does, with the Pods' names behind their addresses."""

    def pod(address: str) -> str:
        holder = desired.cluster.holder(address)
        return holder.ref.path if holder is not None else ""

    return table_text(desired.ruleset(), pod)


@pytest.mark.parametrize("manifests", MANIFESTS, ids=lambda path: path.stem)
def test_golden(manifests: Path) -> None:
    text = annotated_text(loaded(manifests))
    golden = manifests.with_suffix(".nft")
    if REGOLD:
        golden.write_text(text)
    expected = golden.read_text()
    assert text == expected, "\n" + "\n".join(
        unified_diff(expected.splitlines(), text.splitlines(), golden.name, "now", lineterm="")
    )


@pytest.mark.parametrize("name", XTABLES)
def test_golden_of_iptables(name: str) -> None:
    text = xtables_text(*lower(loaded(FOLDER / f"{name}.yaml").ruleset(), LoweringOptions()))
    golden = FOLDER / f"{name}.xtables"
    if REGOLD:
        golden.write_text(text)
    expected = golden.read_text()
    assert text == expected, "\n" + "\n".join(
        unified_diff(expected.splitlines(), text.splitlines(), golden.name, "now", lineterm="")
    )


def test_there_are_twenty_and_each_text_has_its_manifests() -> None:
    assert len(MANIFESTS) == 20
    assert [path.stem for path in MANIFESTS] == sorted(path.stem for path in FOLDER.glob("*.nft"))
