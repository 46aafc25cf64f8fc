"""Control characters in names and values are escaped in every output and in the log."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfagent.cli.output import emit, write_problems
from nfagent.errors import ValidationIssue
from nfagent.verdicts.log_file import RotatingFile
from nfagent.verdicts.records import PolicyName, Record, RecordConnection, RecordEndpoint, decode, encode, timestamp
from tests.unit.cli.called import Call

HOSTILE = {
    "a new line": "x\nFORGED",
    "a carriage return": "x\rFORGED",
    "an escape sequence": "x\x1b[2J\x1b]0;FORGED\a",
    "a colour": "\x1b[32mallow\x1b[0m",
    "a control sequence of one character": "x\x9b2J",
    "the other direction": "x\u202edegrof\u202c\u2067",
    "a separator of lines": "x\u2028FORGED\u2029\x85FORGED",
    "delete": "x\x7f",
    "what can't be seen": "x\U000e0041\ufeff",
}
EVERY = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


def assert_tame(*outputs: str) -> None:
    for output in outputs:
        for line in output.split("\n"):
            assert not line.startswith("FORGED")
            bad = [one for one in line.replace("\t", "") if unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
            assert not bad, (line, bad)


def objects(text: str) -> list[dict[str, Any]]:
    meta = {"namespace": "shop", "name": "odd"}
    core = {"apiVersion": "v1", "kind": "Pod"}
    return [
        {**core, "metadata": {"namespace": "shop", "name": text}},
        {**core, "metadata": {"namespace": text, "name": "a"}},
        {
            **core,
            "metadata": {
                **meta,
                "labels": {"app": text, text: "x"},
                "ownerReferences": [{"kind": text, "name": text, "controller": True}],
            },
            "spec": {"nodeName": "node-a", "containers": [{"ports": [{"name": text, "containerPort": 1}]}]},
            "status": {"podIPs": [{"ip": "10.0.0.9"}], "phase": text},
        },
        {"apiVersion": text, "kind": text, "metadata": {"name": text}},
        {"apiVersion": "networking.k8s.io/v1", "kind": text, "metadata": {"name": "x"}},
        {
            "apiVersion": "policy.networking.k8s.io/v1alpha1",
            "kind": "AdminNetworkPolicy",
            "metadata": {"name": "guard"},
            "spec": {
                "priority": 1,
                "subject": {"namespaces": {}},
                "ingress": [
                    {"name": text, "action": "Deny", "from": [{"namespaces": {"matchLabels": {"a": "b"}}}]},
                    {"name": text, "action": text, "from": [{"namespaces": {}}]},
                ],
            },
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": meta,
            "spec": {"podSelector": {"matchLabels": {"app": text}}, text: text, "ingress": [{"from": [{text: {}}]}]},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
            "data": {"config": json.dumps({text: text, "nonMasqueradeCIDRs": [text]})},
        },
        {text: text},
    ]


@pytest.fixture
def hostile(manifests: Path) -> Callable[[str], Path]:
    """Return a function that writes manifests with a text in every field that takes text."""

    def fill(text: str) -> Path:
        (manifests / f"{text}.json").write_text("".join(map(json.dumps, objects(text))))
        (manifests / f"{text}.yaml").write_text("a: [")
        return manifests

    return fill


COMMANDS = (
    *(("render", "-o", form) for form in ("text", "nft", "json", "yaml")),
    *(("dump", view, "-o", form) for view in ("state", "policies") for form in ("text", "json", "yaml")),
    ("explain", "shop/web", "shop/odd:80"),
    ("explain", "shop/web", "shop/odd:80", "-o", "json"),
)


@EVERY
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_output_has_control_characters(
    call: Call, hostile: Callable[[str], Path], text: str, command: tuple[str, ...]
) -> None:
    said = call(*command, "--manifests", hostile(text), "--node", "node-a")
    assert_tame(said.out, said.err)
    assert said.out


@EVERY
def test_json_and_yaml_keep_the_exact_value(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for form, load in (("json", json.loads), ("yaml", yaml.safe_load)):
        emit({"name": text, text: [text]}, form)
        out = capsys.readouterr().out
        assert_tame(out)
        assert load(out) == {"name": text, text: [text]}


@EVERY
def test_arguments_are_escaped_in_errors(call: Call, manifests: Path, text: str) -> None:
    asked: list[list[str]] = [
        ["explain", text, "shop/db", "--manifests", str(manifests), "--node", "node-a"],
        [text],
        ["dump", text],
        ["dump", f"--{text}"],
    ]
    for arguments in asked:
        said = call(*arguments)
        assert said.code == 2
        assert_tame(said.out, said.err)


@EVERY
def test_a_record_is_one_escaped_line_that_decodes_to_itself(call: Call, tmp_path: Path, text: str) -> None:
    pod = RecordEndpoint(pod_name=text, workload_kind=text, workload_name=text, pod_namespace=text, namespace=text)
    record = Record(
        connection=RecordConnection(
            src_ip="10.0.0.1", dest_ip="10.0.0.2", src_port=1, dest_port=80, protocol="tcp", direction="ingress"
        ),
        disposition="allow",
        policies=(PolicyName(text, text, text),),
        src=pod,
        dest=pod,
        count=1,
        node_name=text,
        timestamp=timestamp(time.time_ns()),
    )
    line = encode(record)
    assert decode(line) == record
    assert_tame(line.decode().removesuffix("\n"))
    assert line.count(b"\n") == 1
    log = tmp_path / "log" / "policy_action.log"
    writer = RotatingFile(log)
    writer.write([line])
    writer.close()
    for form in ("text", "json"):
        said = call("logs", "-o", form)
        assert (said.code, said.err) == (0, "")
        assert_tame(said.out)
        assert len(said.out.splitlines()) == (2 if form == "text" else 1)


def test_a_problem_is_one_line_of_a_remark(capsys: pytest.CaptureFixture[str]) -> None:
    for text in HOSTILE.values():
        write_problems([ValidationIssue(place=text, object=text, field=text, value=text, reason=text)])
        captured = capsys.readouterr()
        assert_tame(captured.err)
        assert len(captured.err.splitlines()) == 1
