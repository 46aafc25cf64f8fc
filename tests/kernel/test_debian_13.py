"""Debian 13's nftables lists the rulesets that nfagent writes, as text and as bytes, as the same objects.

The folder is `build/debian-13`. `make trixie` makes it by debootstrap (a minute, 270 MB; it sets NFAGENT_DEBIAN_13);
with it these tests take seconds, in every run; without it they are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from uuid import uuid4

import pytest

from nfagent.desired.node_interfaces import NodeInterfaces
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE, NFPROTO_INET, table_of
from nfagent.nftables.bridge_table import BRIDGE_TABLE, FRAMES, REPLACEMENT, TABLE_TEXT, parse_bridge_table
from nfagent.nftables.diff import diff
from nfagent.nftables.matches import Match, UnknownExpr
from nfagent.nftables.objects import ABSENT, Ruleset, SetKind, Verdict
from nfagent.nftables.parse import parse_ruleset
from nfagent.nftables.transaction import transaction_text
from tests.kernel.test_ruleset_round_trip import DB, FLOOR, GOLDENS, GUARD, RULES, WEB, golden
from tests.support.debootstrap import debootstrap
from tests.support.nft_forms import EVERY_FORM, EVERY_FRAME
from tests.support.packet_labs import logging_document
from tests.support.twin_tables import TwinTables, listed_objects
from tests.support.two_node_cluster import TwoNodeCluster, labelled, policy

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot and network namespaces"),
]

BUILD = Path(__file__).parents[2] / "build"
ROOT = BUILD / "debian-13"
SECONDS = 280
LOGGED = logging_document(allow=True, deny=True)
MANY_PORTS = policy("shop/many", labelled(app="db"), ingress=[{"ports": [{"port": 2 * n + 1} for n in range(9)]}])
TO_PORTS = MasqueradeSettings(to_ports=((1024, 29_999), (32_768, 65_535)))
VIEW = TwoNodeCluster(
    *(WEB, DB, policy("shop/p", labelled(app="web"), **RULES), MANY_PORTS, GUARD, FLOOR, LOGGED), masquerade=TO_PORTS
).views["a"]
VIEW.recheck_all()
VIEW.follow_links(NodeInterfaces(frozenset({"cbr0"}), bridged=True))
SCENE = VIEW.ruleset()
INSIDE = """
import sys, nftables
opened = nftables.Nftables()
opened.set_json_output(True)
for command in (sys.stdin.read(), sys.argv[1]):
    code, output, error = opened.cmd(command)
    if code:
        sys.exit(error)
print(output)
"""


@pytest.fixture(scope="module")
def root() -> Path:
    if not (ROOT / "usr/bin/python3").exists() and os.environ.get("NFAGENT_DEBIAN_13") != "build":
        pytest.skip("there is no build/debian-13; make it with: make trixie")
    return ROOT if (ROOT / "usr/bin/python3").exists() else built()


def built() -> Path:
    """Create the folder."""
    debootstrap("trixie", ROOT, SECONDS, "nftables,python3-nftables").rename(ROOT)
    return ROOT


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"nfagent-debian-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def answered(root: Path, namespace: str, text: str, question: str) -> str:
    """Load text by Debian 13's library, and give its answer to a question."""
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, "chroot", str(root), "python3", "-c", INSIDE, question],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(root: Path, namespace: str, ruleset: Ruleset) -> Ruleset:
    """Load a ruleset by Debian 13's library, and read what that lists."""
    text = transaction_text(diff(ABSENT, ruleset))
    return parse_ruleset(json.loads(answered(root, namespace, text, "list table inet nfagent")))


@pytest.mark.parametrize("manifests", GOLDENS, ids=lambda path: path.stem)
def test_a_golden_is_read_back_as_it_was_loaded(root: Path, namespace: str, manifests: Path) -> None:
    ruleset = golden(manifests)
    found = listed(root, namespace, ruleset)
    assert found == ruleset
    assert diff(found, ruleset) == ()


@pytest.mark.parametrize("manifests", GOLDENS, ids=lambda path: path.stem)
def test_a_golden_that_this_nft_has_loaded_is_read_alike(root: Path, namespace: str, manifests: Path) -> None:
    """An upgrade of the distribution finds the table of before."""
    ruleset = golden(manifests)
    text = transaction_text(diff(ABSENT, ruleset))
    subprocess.run(["ip", "netns", "exec", namespace, "nft", "-f", "-"], input=text, text=True, check=True)
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, "chroot", str(root), "nft", "-j", "list", "table", "inet", "nfagent"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert parse_ruleset(json.loads(done.stdout)) == ruleset


def test_every_form_that_we_write_is_among_them() -> None:
    rules = [
        rule
        for ruleset in (SCENE, FRAMES, *map(golden, GOLDENS))
        for chain in ruleset.chains.values()
        for rule in chain.rules
    ]
    assert {type(match) for rule in rules for match in rule.matches} == {*get_args(Match)} - {UnknownExpr}
    assert {type(rule.verdict) for rule in rules if rule.verdict is not None} == {*get_args(Verdict)}
    assert any(rule.counter for rule in rules)
    assert {item.kind for item in SCENE.sets.values()} == {*get_args(SetKind)}


def test_all_forms_together_are_read_back(root: Path, namespace: str) -> None:
    assert listed(root, namespace, SCENE) == SCENE


def run_debian(root: Path, namespace: str, *arguments: str, text: str = "") -> str:
    """Run Debian 13's nft."""
    command = ["ip", "netns", "exec", namespace, "chroot", str(root), "nft", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("ruleset", [SCENE, *map(golden, GOLDENS)], ids=["all forms", *(path.stem for path in GOLDENS)])
def test_what_our_bytes_wrote_is_read_back(root: Path, twins: TwinTables, ruleset: Ruleset) -> None:
    twins.commit(diff(ABSENT, ruleset))
    listing = run_debian(root, twins.by_bytes, "-j", "list", "table", "inet", "nfagent")
    assert parse_ruleset(json.loads(listing)) == ruleset


def test_the_table_of_the_bridge_family_that_our_bytes_wrote_is_read_back(root: Path, twins: TwinTables) -> None:
    twins.commit(REPLACEMENT, family=NFPROTO_BRIDGE)
    listing = run_debian(root, twins.by_bytes, "-j", "list", "table", *BRIDGE_TABLE.split())
    assert parse_bridge_table(listing).ruleset == FRAMES


@pytest.mark.parametrize(
    ("family", "ruleset"),
    [
        *((NFPROTO_INET, ruleset) for ruleset in (EVERY_FORM, SCENE, *map(golden, GOLDENS))),
        (NFPROTO_BRIDGE, EVERY_FRAME),
    ],
    ids=["every form", "all forms together", *(path.stem for path in GOLDENS), "the bridge family"],
)
def test_our_bytes_are_listed_as_the_text_that_debian_13_has_loaded(
    root: Path, twins: TwinTables, family: int, ruleset: Ruleset
) -> None:
    """By listing alone: this nft writes user data and some expressions otherwise than 1.0.6 does."""
    transaction = diff(ABSENT, ruleset)
    run_debian(root, twins.by_text, "-f", "-", text=transaction_text(transaction, table_of(family)))
    twins.commit(transaction, family=family)
    by_text, by_bytes = (
        listed_objects(run_debian(root, name, "-j", "list", "ruleset")) for name in (twins.by_text, twins.by_bytes)
    )
    assert by_bytes == by_text
    assert by_bytes


def test_the_table_of_the_bridge_family_is_read_back(root: Path, namespace: str) -> None:
    assert parse_bridge_table(answered(root, namespace, TABLE_TEXT, f"list table {BRIDGE_TABLE}")).ruleset == FRAMES
