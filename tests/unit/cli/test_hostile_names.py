"""Names, labels and other text of objects stay text: in nft's language, on terminals, in the log and in Events."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfagent.decode.registry import DECODERS, find_decoder
from nfagent.desired.state import DesiredState
from nfagent.errors import ObjectError
from nfagent.nftables.render import table_text
from tests.unit.cli.called import Call
from tests.unit.cli.test_hostile_text import HOSTILE as UNPRINTABLE
from tests.unit.cli.test_hostile_text import assert_tame

SYNTAX = {
    "the end of a string of nft": 'x" ; flush ruleset ; #',
    "a block of nft": "x } flush ruleset {",
    "lines of nft": "x\nflush ruleset\n",
    "a variable and a command of a shell": "$IFS`reboot`$(reboot)",
    "a backslash at the end": "x\\",
    "HTML": "<script>alert(1)</script>&amp;'",
    "a field of the journal": "x\nPRIORITY=0\nMESSAGE=FORGED",
    "a label of metrics": 'x"} 1\nFORGED{a="',
    "a format": "%s %(name)s {0} {x!r}",
    "a path": "../../etc/shadow",
    "an option": "--config=/etc/shadow",
}
HOSTILE = {**UNPRINTABLE, **SYNTAX}
EVERY = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
OF_SYNTAX = pytest.mark.parametrize("text", SYNTAX.values(), ids=SYNTAX)
"""For commands: `test_hostile_text.py` has the others there."""
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}
NAME = re.compile(r"[a-z0-9][a-z0-9./_-]*", re.ASCII)
"""Names of nfagent's objects; `(` and such would need quotes in nft."""
QUOTED = re.compile(r'"[^"\n]*"')
"""A string of nft's language, which has no escapes: a backslash before its end is a character."""


def policies(text: str) -> list[dict[str, Any]]:
    """Return policies with a text in every field that may have any, and objects that it names."""
    meta = {"namespace": "shop", "name": "odd"}
    selector = {"matchExpressions": [{"key": "app", "operator": "In", "values": [text, "web"]}]}
    rule = {"name": text, "action": "Deny", "from": [{"pods": {"namespaceSelector": {}, "podSelector": selector}}]}
    return [
        NODE,
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": text}}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": "shop",
                "name": "web",
                "labels": {"app": text, "role": "web"},
                "ownerReferences": [{"kind": text, "name": text, "controller": True}],
            },
            "spec": {"nodeName": "node-a", "containers": [{"ports": [{"name": text, "containerPort": 80}]}]},
            "status": {"podIPs": [{"ip": "10.0.0.9"}], "phase": "Running"},
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {**meta, "annotations": {"nfagent.io/audit": text}},
            "spec": {
                "podSelector": {"matchLabels": {"role": "web"}},
                "ingress": [{"from": [{"podSelector": selector}], "ports": [{"port": text}, {"port": 80}]}],
            },
        },
        {
            "apiVersion": "policy.networking.k8s.io/v1alpha1",
            "kind": "AdminNetworkPolicy",
            "metadata": {"name": "guard"},
            "spec": {"priority": 1, "subject": {"namespaces": {}}, "ingress": [rule]},
        },
    ]


def decoded(documents: list[dict[str, Any]]) -> Iterator[Any]:
    for document in documents:
        decode = find_decoder(document)
        assert decode is not None
        try:
            yield decode(document)
        except ObjectError as error:
            assert_tame(str(error).encode("unicode_escape").decode())


@EVERY
def test_no_text_of_an_object_is_a_word_of_nft_s_language(text: str) -> None:
    desired = DesiredState("node-a")
    for item in decoded(policies(text)):
        desired.put(item)
    ruleset = desired.ruleset()
    names = [*ruleset.chains, *ruleset.sets, *ruleset.maps, *ruleset.counters]
    assert [name for name in names if NAME.fullmatch(name) is None] == []
    assert "ingress/" in "".join(names), "the Pod is isolated"
    bare = QUOTED.sub("", table_text(ruleset))
    assert '"' not in bare
    for word in ("flush", "FORGED", "reboot", "script", "shadow", "PRIORITY", "\x1b", "\\"):
        assert word not in bare


NAMED = [document for document in policies("x") if document["kind"] != "Node"]


@EVERY
@pytest.mark.parametrize("key", ["name", "namespace"])
@pytest.mark.parametrize("document", NAMED, ids=lambda document: document["kind"])
def test_an_object_with_such_a_name_is_refused(document: dict[str, Any], key: str, text: str) -> None:
    """So names of objects, which names of chains are made of, have none of these characters."""
    if key not in document["metadata"]:
        return
    decode = DECODERS[document["apiVersion"], document["kind"]]
    with pytest.raises(ObjectError, match="is not a valid"):
        decode({**document, "metadata": {**document["metadata"], key: text}})


@pytest.fixture
def folder(manifests: Path) -> Callable[[str], Path]:
    def fill(text: str) -> Path:
        (manifests / "hostile.json").write_text("".join(map(json.dumps, policies(text)[1:])))
        return manifests

    return fill


@OF_SYNTAX
@pytest.mark.parametrize(
    "command",
    [
        ("render", "-o", "nft"),
        ("dump", "state"),
        ("dump", "policies"),
        ("explain", "shop/web", "shop/db:5432"),
    ],
    ids=" ".join,
)
def test_what_a_command_writes_has_no_line_and_no_control_of_an_object_s(
    call: Call, folder: Callable[[str], Path], text: str, command: tuple[str, ...]
) -> None:
    said = call(*command, "--manifests", folder(text), "--node", "node-a")
    assert_tame(said.out, said.err)
    assert said.out


@OF_SYNTAX
@pytest.mark.parametrize("form", ["text", "json"])
def test_try_shows_policies_with_such_text_as_text(
    call: Call, folder: Callable[[str], Path], tmp_path: Path, text: str, form: str
) -> None:
    tried = tmp_path / "tried.yaml"
    tried.write_text(yaml.safe_dump({**policies(text)[3], "metadata": {"namespace": "shop", "name": "new"}}))
    said = call("try", "-f", tried, "--pods", "--manifests", folder(text), "--node", "node-a", "-o", form)
    assert_tame(said.out, said.err)
    assert said.out or said.err
