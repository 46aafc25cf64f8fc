"""render, dump and explain on a folder of manifests, without an agent, without root."""

from __future__ import annotations

import io
import json
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfagent.verdicts.records import Disposition, Record, RecordConnection, RecordEndpoint, encode
from tests.unit.cli.called import Call


def test_render_writes_the_table_with_the_pods_behind_addresses(call: Call, manifests: Path) -> None:
    said = call("render", "--manifests", manifests, "--node", "node-a")
    assert said.code == 0
    assert said.err == ""
    assert said.out.startswith("table inet nfagent {\n")
    assert "10.0.0.1  # shop/web\n" in said.out


def test_render_for_nft_has_no_comments(call: Call, manifests: Path) -> None:
    said = call("render", "--manifests", manifests, "--node", "node-a", "-o", "nft")
    assert "10.0.0.1\n" in said.out
    assert "#" not in said.out


@pytest.mark.parametrize(("form", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_render_writes_the_objects(call: Call, manifests: Path, form: str, load: Callable[[str], Any]) -> None:
    said = call("render", "--manifests", manifests, "--node", "node-a", "-o", form)
    assert "ingress/shop/db" in load(said.out)["chains"]


IPTABLES = ("render", "--node", "node-a", "--backend", "iptables", "--manifests")


def test_render_for_iptables_has_the_input_of_each_program(call: Call, manifests: Path) -> None:
    forms = {form: call(*IPTABLES, manifests, "-o", form).out for form in ("ipset", "iptables", "ip6tables")}
    assert re.search(
        r"^# ingress4\ncreate nfa-ingress4-\w+ hash:ip family inet .*\nadd nfa-.* 10.0.0.2$",
        forms["ipset"],
        re.MULTILINE,
    )
    for form in ("iptables", "ip6tables"):
        assert forms[form].startswith(f"# {form}-restore --noflush\n")
        assert re.search(r"^-I FORWARD 1 -j nfa-mangle-for\S+$", forms[form], re.MULTILINE)
        assert re.search(
            r"^# ingress/shop/db\n(?:-A nfa-ingress-sh\S+ .*\n)*-A nfa-ingress-sh\S+ .*-m set --match-set nfa-peers",
            forms[form],
            re.MULTILINE,
        )
    text = call(*IPTABLES, manifests).out
    assert all(found in text for found in forms.values())


def test_render_for_iptables_has_the_mark_bits_of_the_settings(call: Call, manifests: Path, tmp_path: Path) -> None:
    config = tmp_path / "bits.toml"
    config.write_text('[iptables]\nmark_bit = "0x100000"\nroute_mark_bit = "0x200000"\n')
    text = call(*IPTABLES, manifests, "--config", config, "-o", "iptables").out
    assert "--set-xmark 0x100000/0x100000" in text
    assert "0x1000/0x1000" not in text


def test_render_for_iptables_names_every_counter_that_must_be_there_before(call: Call, manifests: Path) -> None:
    text = call(*IPTABLES, manifests, "-o", "iptables").out
    counters = set(re.findall(r"--nfacct-name (\S+)", text))
    assert counters
    assert set(re.findall(r"^# nfacct add (\S+)$", text, re.MULTILINE)) == counters


def test_render_for_iptables_writes_the_objects(call: Call, manifests: Path) -> None:
    found = json.loads(call(*IPTABLES, manifests, "-o", "json").out)
    assert {"origin": "ingress/shop/db", "family": 6, "table": "mangle"}.items() <= next(
        chain for chain in found["chains"] if chain["origin"] == "ingress/shop/db" and chain["family"] == 6
    ).items()
    assert any(item["members"] == ["10.0.0.1"] for item in found["sets"].values())
    assert {"family": 4, "table": "mangle", "hook": "FORWARD"} in [
        {key: hook[key] for key in ("family", "table", "hook")} for hook in found["hooks"]
    ]


@pytest.mark.parametrize(
    ("form", "backend"),
    [("nft", "iptables"), ("ipset", "nftables"), ("iptables", "auto")],
    ids=["nft", "ipset", "iptables"],
)
def test_a_form_of_the_other_backend_is_refused(call: Call, manifests: Path, form: str, backend: str) -> None:
    said = call("render", "--manifests", manifests, "--node", "node-a", "--backend", backend, "-o", form)
    assert said.code == 2
    assert f"-o {form} is for --backend" in said.err


def test_render_reports_refused_objects_by_file_and_line_and_shows_the_rest(call: Call, broken: Path) -> None:
    said = call("render", "--manifests", broken, "--node", "node-a")
    assert said.code == 1
    assert "10.0.0.1  # shop/web" in said.out
    lines = said.err.splitlines()
    assert any(line.startswith("warning: policy.yaml:2: NetworkPolicy shop/broken") for line in lines)
    assert any(line.startswith("warning: typo.yaml:2") for line in lines)


def test_render_for_an_unknown_node_lists_the_nodes_of_the_manifests(call: Call, manifests: Path) -> None:
    said = call("render", "--manifests", manifests, "--node", "node-z")
    assert said.code == 0
    assert "no Node node-z in the manifests (Nodes: node-a)" in said.err


def test_manifests_and_kubeconfig_exclude_each_other(call: Call) -> None:
    said = call("run", "--manifests", ".", "--kubeconfig", "admin.conf")
    assert (said.code, "--manifests and --kubeconfig exclude each other" in said.err) == (2, True)


@pytest.mark.parametrize("command", [["render"], ["dump"], ["explain", "shop/web", "shop/db"]], ids=" ".join)
def test_without_manifests_and_agent_the_error_names_the_options(call: Call, command: list[str]) -> None:
    said = call(*command)
    assert said.code == 2
    assert "give --manifests DIR, or set manifests in /etc/nfagent/nfagent.toml" in said.err


def test_the_folder_of_the_settings_answers_where_no_agent_runs(
    call: Call, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFAGENT_MANIFESTS", str(manifests))
    said = call("dump", "--node", "node-a")
    assert said.code == 0
    assert "1 policy" in said.out
    assert "no agent listens" in said.err


def test_a_stale_socket_is_no_agent(
    call: Call, tmp_path: Path, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "run" / "agent.sock"))
    monkeypatch.setenv("NFAGENT_MANIFESTS", str(manifests))
    assert call("dump", "--node", "node-a").code == 0


def test_state_lists_the_isolating_policies_of_pods(call: Call, manifests: Path) -> None:
    said = call("dump", "state", "--manifests", manifests, "--node", "node-a")
    rows = {line.split()[0]: line.split() for line in said.out.splitlines() if line.startswith("shop/")}
    assert rows["shop/db"][-2:] == ["shop/db", "-"]
    assert rows["shop/web"][-2:] == ["-", "-"]


@pytest.mark.parametrize(
    ("scope", "pods"),
    [(["-n", "shop"], ["db", "web"]), (["--pod", "shop/db"], ["db"])],
    ids=["a namespace", "a Pod"],
)
def test_state_can_be_filtered(call: Call, manifests: Path, scope: list[str], pods: list[str]) -> None:
    said = call("dump", "state", "--manifests", manifests, "--node", "node-a", "-o", "json", *scope)
    assert [pod["name"] for pod in json.loads(said.out)["pods"]] == pods


def test_policies_are_shown_with_their_rules(call: Call, manifests: Path) -> None:
    said = call("dump", "policies", "--manifests", manifests, "--node", "node-a")
    assert "shop/db\n  ingress from pods app=web in namespace shop on postgres/tcp\n" in said.out


def test_a_policy_that_can_not_be_compiled_is_shown_as_failing_closed(call: Call, broken: Path) -> None:
    said = call("dump", "policies", "--manifests", broken, "--node", "node-a")
    assert said.code == 0
    row = next(line for line in said.out.splitlines() if line.startswith("shop/broken "))
    assert row.endswith("FAILS CLOSED")
    assert "shop/broken  FAILS CLOSED: spec.ingress[0].from[0].ipBlock.cidr '10.0.0.0/33'" in said.out
    assert "typo.yaml:2" in said.out


def test_a_policy_that_selects_no_pod_is_not_shown_as_denying(call: Call, tmp_path: Path) -> None:
    spec = "{priority: 1, subject: {namespaces: {matchExpressions: [{key: a, operator: in}]}}, ingress: [{}]}"
    version = "policy.networking.k8s.io/v1alpha1"
    text = f"apiVersion: {version}\nkind: AdminNetworkPolicy\nmetadata: {{name: guard}}\nspec: {spec}\n"
    (tmp_path / "guard.yaml").write_text(text)
    said = call("dump", "policies", "--manifests", tmp_path, "--node", "node-a")
    row = next(line for line in said.out.splitlines() if line.startswith("AdminNetworkPolicy guard "))
    assert row.endswith("NOT ENFORCED")
    assert "AdminNetworkPolicy guard  NOT ENFORCED, it selects no Pod: spec.subject.namespaces" in said.out
    assert "denies everything" not in said.out


@pytest.mark.parametrize("view", ["state", "policies"])
@pytest.mark.parametrize(("form", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_views_of_broken_input_are_complete_in_json_and_yaml(
    call: Call, broken: Path, view: str, form: str, load: Callable[[str], Any]
) -> None:
    said = call("dump", view, "--manifests", broken, "--node", "node-a", "-o", form)
    assert said.code == 0
    assert len(load(said.out)["problems"]) == 2


def test_nft_text_exists_for_kernel_rulesets_only(call: Call, manifests: Path) -> None:
    said = call("dump", "state", "--manifests", manifests, "-o", "nft")
    assert said.code == 2
    assert "ruleset, kernel and diff" in said.err


def test_a_pod_is_written_with_its_namespace(call: Call, manifests: Path) -> None:
    said = call("dump", "state", "--manifests", manifests, "--pod", "db")
    assert said.code == 2
    assert "write NAMESPACE/NAME" in said.err


@pytest.mark.parametrize(
    ("ends", "code", "first"),
    [
        (["shop/web", "shop/db:postgres"], 0, "shop/web (10.0.0.1) -> shop/db (10.0.0.2):5432/tcp: ALLOWED"),
        (["shop/web", "shop/db:80/tcp"], 1, "shop/web (10.0.0.1) -> shop/db (10.0.0.2):80/tcp: DENIED"),
        (["shop/db", "shop/web"], 0, "shop/db (10.0.0.2) -> shop/web (10.0.0.1)/icmp: ALLOWED"),
        (["shop/db", "[2001:db8::9]:53/udp"], 0, "shop/db (2001:db8::2) -> [2001:db8::9]:53/udp: ALLOWED"),
    ],
    ids=["a rule allows it", "the port is another", "nothing isolates the ping", "an IPv6 address outside"],
)
def test_explain_has_the_verdict_in_exit_code_and_first_line(
    call: Call, manifests: Path, ends: list[str], code: int, first: str
) -> None:
    said = call("explain", *ends, "--manifests", manifests, "--node", "node-a")
    assert said.code == code
    assert said.out.splitlines()[0] == first


def test_explain_in_json_has_the_whole_verdict(call: Call, manifests: Path) -> None:
    said = call("explain", "shop/web", "shop/db:1/udp", "--manifests", manifests, "--node", "node-a", "-o", "json")
    found = json.loads(said.out)
    assert said.code == 1
    assert found["allowed"] is False
    (judged,) = found["judged"]
    assert judged["judgement"]["ingress"]["stages"][0]["rules"][0]["outcome"] == "port"  # codespell:ignore judgement
    assert [remedy["words"] for remedy in judged["remedies"]] == [
        "add 1/udp to ingress rule 1 of NetworkPolicy shop/db"
    ]


def test_explain_lists_every_deciding_rule_and_how_to_flip_the_verdict(call: Call, manifests: Path) -> None:
    said = call("explain", "shop/web", "shop/db:80", "--manifests", manifests, "--node", "node-a")
    assert said.out.splitlines() == [
        "shop/web (10.0.0.1) -> shop/db (10.0.0.2):80/tcp: DENIED",
        "egress at shop/web (10.0.0.1): allowed",
        "  default   no policy applies to its egress: allowed",
        "ingress at shop/db (10.0.0.2): denied",
        (
            "  network   NetworkPolicy shop/db isolates ingress; "
            "rule 1 of 1 allows from pods app=web in namespace shop on postgres/tcp: port doesn't match"
        ),
        "to allow it: add 80/tcp to ingress rule 1 of NetworkPolicy shop/db",
    ]


SERVICES = """
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: sql}
spec:
  clusterIP: 10.96.0.10
  selector: {app: db}
  ports: [{name: sql, port: 3306, targetPort: postgres, nodePort: 30306}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: all}
spec:
  clusterIP: 10.96.0.11
  selector: {kind: server}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: ghost}
spec:
  clusterIP: 10.96.0.12
  selector: {app: ghost}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: one, labels: {kind: server}}
spec: {nodeName: node-a}
status: {phase: Running, podIPs: [{ip: 10.0.0.11}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: two, labels: {kind: server, app: db}}
spec: {nodeName: node-a}
status: {phase: Running, podIPs: [{ip: 10.0.0.12}]}
"""


@pytest.mark.parametrize(
    ("destination", "code", "first"),
    [
        ("10.96.0.10:sql", 0, "Service shop/sql (10.96.0.10):3306/tcp: ALLOWED"),
        ("svc/shop/sql", 0, "Service shop/sql (10.96.0.10):3306/tcp: ALLOWED"),
        ("192.0.2.1:30306", 0, "node node-a (192.0.2.1):30306/tcp: ALLOWED"),
        ("10.96.0.11:80", 1, "Service shop/all (10.96.0.11):80/tcp: DENIED for 1 of 2 Pods"),
        ("10.96.0.12:80", 1, "Service shop/ghost (10.96.0.12):80/tcp: no Pod serves it"),
    ],
    ids=["by its address", "by its name", "by a node port", "some of its Pods deny", "no Pod behind it"],
)
def test_explain_of_a_service_is_about_the_pods_behind_it(
    call: Call, manifests: Path, destination: str, code: int, first: str
) -> None:
    (manifests / "services.yaml").write_text(SERVICES)
    said = call("explain", "shop/web", destination, "--manifests", manifests, "--node", "node-a")
    assert (said.code, said.out.splitlines()[0]) == (code, f"shop/web (10.0.0.1) -> {first}")


class Screen(io.StringIO):
    """Stands for stdout on a terminal."""

    def isatty(self) -> bool:
        return True


def test_explain_colours_verdicts_on_a_terminal(call: Call, manifests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", screen)
    (manifests / "services.yaml").write_text(SERVICES)
    call("explain", "shop/web", "10.96.0.11:80", "--manifests", manifests, "--node", "node-a")
    green, red, plain = "\x1b[32m", "\x1b[31m", "\x1b[0m"
    lines = screen.getvalue().splitlines()
    assert lines[0].endswith(f": {red}DENIED{plain} for 1 of 2 Pods")
    assert f"  egress at shop/web (10.0.0.1): {green}allowed{plain}" in lines
    assert f"  ingress at shop/two (10.0.0.12): {red}denied{plain}" in lines


def test_explain_of_an_unknown_pod_suggests_similar_names(call: Call, manifests: Path) -> None:
    said = call("explain", "shop/webb", "shop/db", "--manifests", manifests, "--node", "node-a")
    assert said.code == 2
    assert "did you mean shop/web?" in said.err


@pytest.mark.parametrize("arguments", [[], ["shop/web"], ["a", "b", "--from-log", "{}"]], ids=["none", "one", "both"])
def test_explain_requires_two_ends_or_a_record(call: Call, arguments: list[str]) -> None:
    said = call("explain", *arguments)
    assert said.code == 2
    assert "shop/web shop/db:5432/tcp" in said.err


def record(disposition: Disposition, port: int | None) -> str:
    item = Record(
        connection=RecordConnection(
            src_ip="10.0.0.1", dest_ip="10.0.0.2", src_port=4000, dest_port=port, protocol="tcp", direction="ingress"
        ),
        disposition=disposition,
        src=RecordEndpoint(instance="10.0.0.1"),
        dest=RecordEndpoint(instance="10.0.0.2"),
        count=1,
        timestamp="2026-01-02T03:04:05.000000000Z",
    )
    return encode(item).decode()


def test_explain_reads_a_record_of_the_log(call: Call, manifests: Path) -> None:
    said = call("explain", "--from-log", record("deny", 80), "--manifests", manifests, "--node", "node-a")
    assert said.code == 1
    assert said.out.startswith("shop/web (10.0.0.1) -> shop/db (10.0.0.2):80/tcp: DENIED\n")
    assert said.err == ""


def test_explain_reads_a_record_after_translation(call: Call, manifests: Path) -> None:
    (manifests / "services.yaml").write_text(SERVICES)
    hairpin = record("deny", 80).replace('10.0.0.1"', '10.0.0.2"')
    said = call("explain", "--from-log", hairpin, "--manifests", manifests, "--node", "node-a")
    assert said.out.startswith("shop/db (10.0.0.2) -> shop/db (10.0.0.2):80/tcp: DENIED\n")
    assert (said.code, said.err) == (1, "")
    unserved = record("allow", 80).replace('10.0.0.2"', '10.96.0.12"').replace("ingress", "egress")
    said = call("explain", "--from-log", unserved, "--manifests", manifests, "--node", "node-a")
    assert said.out.startswith("shop/web (10.0.0.1) -> 10.96.0.12:80/tcp: ALLOWED\n")
    assert (said.code, said.err) == (0, "")


def test_explain_reports_a_record_whose_verdict_has_changed(call: Call, manifests: Path) -> None:
    said = call("explain", "--from-log", record("deny", 5432), "--manifests", manifests, "--node", "node-a")
    assert said.code == 0
    assert (
        "the connection was denied at 2026-01-02T03:04:05.000000000Z; Pods or policies have changed since" in said.err
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{}", "not a verdict log record"), ("nonsense", "not a verdict log record"), (record("deny", None), "no port")],
    ids=["an object that is none", "no JSON", "a tcp record without a port"],
)
def test_explain_refuses_a_record_that_it_can_not_evaluate(call: Call, manifests: Path, text: str, reason: str) -> None:
    said = call("explain", "--from-log", text, "--manifests", manifests, "--node", "node-a")
    assert said.code == 2
    assert reason in said.err
