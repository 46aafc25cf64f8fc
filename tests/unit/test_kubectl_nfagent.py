"""kubectl nfagent: which programs it runs with which arguments, what it prints of several nodes, how it ends."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nfagent.verdicts.records import Record, RecordConnection, RecordEndpoint, encode
from tests.support.packet_labs import wait_until

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "deploy" / "kubectl-nfagent"

PROGRAM = f"""#!{sys.executable} -IS
# Plays kubectl and ssh: notes its arguments; `get` prints a list, anything else runs what the test wrote for the node.
import os, sys
name, arguments, folder = os.path.basename(sys.argv[0]), sys.argv[1:], os.path.dirname(os.path.dirname(sys.argv[0]))
with open(os.path.join(folder, "calls"), "a") as calls:
    calls.write(repr([name, *arguments]) + chr(10))
if "get" in arguments:
    kind = arguments[arguments.index("get") + 1]
    path = os.path.join(folder, kind + ".json")
    if not os.path.exists(path):
        sys.exit("The connection to the server was refused")
    print(open(path).read())
    sys.exit()
if name == "ssh":
    node = arguments[arguments.index("--") + 1]
else:
    node = next(word for word in arguments if word.startswith("nfagent-")).removeprefix("nfagent-")
open(os.path.join(folder, f"pid-{{node}}"), "w").write(str(os.getpid()))
os.execv("/bin/sh", ["sh", "-c", open(os.path.join(folder, "node-" + node)).read()])
"""


class Cluster:
    """Nodes whose agents are scripts of the test, behind programs named kubectl and ssh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugin = PLUGIN
        (folder / "bin").mkdir()
        for name in ("kubectl", "ssh"):
            (folder / "bin" / name).write_text(PROGRAM)
            (folder / "bin" / name).chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}

    def has(self, **scripts: str) -> None:
        """Make nodes of these names; each script runs where the node's agent is asked."""
        pods = [pod(node) for node in scripts]
        (self.folder / "pods.json").write_text(json.dumps({"items": pods}))
        (self.folder / "nodes.json").write_text(json.dumps({"items": [{"metadata": {"name": n}} for n in scripts]}))
        for node, script in scripts.items():
            (self.folder / f"node-{node}").write_text(script)

    def hold(self, seconds: float) -> None:
        """Have the program hold a followed line for so many seconds, for those of other nodes."""
        text, changed = PLUGIN.read_text(), f"\nFOLLOW_SECONDS = {seconds}\n"
        self.plugin = self.folder / "kubectl-nfagent"
        self.plugin.write_text(re.sub(r"\nFOLLOW_SECONDS = .*\n", changed, text))
        assert changed in self.plugin.read_text()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.plugin), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with self.start(*arguments) as started:
            out, err = started.communicate(timeout=60)
            return started.returncode, out, err

    def calls(self) -> list[list[str]]:
        return [ast.literal_eval(line) for line in (self.folder / "calls").read_text().splitlines()]

    def pid(self, node: str) -> int:
        """Return the process that asks a node, once it runs."""
        return int(when_there(self.folder / f"pid-{node}"))


def when_there(path: Path) -> str:
    wait_until(lambda: path.exists() and bool(path.read_text()), 30)
    return path.read_text()


def pod(node: str, phase: str = "Running", *, name: str = "", ready: str = "True") -> dict[str, Any]:
    return {
        "metadata": {"name": name or f"nfagent-{node}"},
        "spec": {"nodeName": node},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
    }


def kubectl_ends(code: int) -> str:
    """Return what kubectl exec does where the command in the Pod ends with a code."""
    return f"echo 'command terminated with exit code {code}' >&2; exit {code}" if code else "exit 0"


def says(*lines: str, code: int = 0) -> str:
    return f"printf '%s\\n' {shlex.join(lines)}; {kubectl_ends(code)}"


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    yield Cluster(tmp_path)
    for path in tmp_path.glob("pid-*"):
        if not ended(int(path.read_text())):
            os.kill(int(path.read_text()), signal.SIGKILL)


def test_each_node_is_asked_in_its_pod_and_named_before_its_lines(cluster: Cluster) -> None:
    cluster.has(a=says("health    ok"), longer=says("health    ok", "drift     no repairs"))
    code, out, err = cluster.run("status")
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == ["a       health    ok", "longer  drift     no repairs", "longer  health    ok"]
    asked = ["kubectl", "exec", "-n", "nfagent", "nfagent-a", "-c", "nfagent", "--", "nfagent", "status"]
    assert asked in cluster.calls()


def test_arguments_reach_the_node_as_they_were_written(cluster: Cluster) -> None:
    cluster.has(a=says("x"))
    hostile = ["logs", "--from", "app in (web, 'api')", '$(reboot); "x"', "--last", "5", "-n", "shop"]
    cluster.run("--context", "prod", "--kubeconfig", "/x y", "-n", "kube-system", *hostile)
    assert cluster.calls()[-1] == [
        *("kubectl", "--context=prod", "--kubeconfig=/x y", "exec", "-n", "kube-system"),
        *("nfagent-a", "-c", "nfagent", "--", "nfagent", *hostile),
    ]
    cluster.run("--ssh", "root", "--sudo", "--node", "a", *hostile)
    ssh = cluster.calls()[-1]
    assert ssh[:5] == ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30"]
    assert ssh[5:9] == ["-l", "root", "--", "a"]
    assert shlex.split(ssh[9]) == ["sudo", "-n", "nfagent", *hostile]
    assert len(ssh) == 10


def test_by_ssh_named_nodes_need_no_kubectl(cluster: Cluster) -> None:
    cluster.has(a=says("one"), b=says("two"))
    code, out, _ = cluster.run("--ssh", "root", "--node", "b", "status")
    assert (code, out) == (0, "b  two\n")
    assert [call[0] for call in cluster.calls()] == ["ssh"]


@pytest.mark.parametrize(("codes", "worst"), [((0, 0), 0), ((0, 1), 1), ((1, 2), 2), ((0, 137), 2)], ids=str)
def test_the_exit_code_is_the_worst_of_the_nodes(cluster: Cluster, codes: tuple[int, ...], worst: int) -> None:
    cluster.has(**{f"n{number}": says("x", code=code) for number, code in enumerate(codes)})
    assert cluster.run("status")[0] == worst


def test_a_failure_of_kubectl_is_no_answer_of_the_node(cluster: Cluster) -> None:
    refused = "echo 'error: unable to upgrade connection' >&2; exit 1"
    cluster.has(a=says("health    ok"), b=refused)
    code, out, err = cluster.run("status")
    assert (code, out) == (2, "a  health    ok\n")
    assert "error: b gave no answer: error: unable to upgrade connection" in err
    assert cluster.run("--ssh", "root", "--node", "b", "status")[0] == 1, "ssh passes the command's own code on"
    cluster.has(b="echo 'ssh: connect to host b port 22: No route to host' >&2; exit 255")
    code, _, err = cluster.run("--ssh", "root", "status")
    assert code == 2
    assert "error: b gave no answer: ssh: connect to host b port 22: No route to host" in err


def test_nodes_without_a_running_pod_are_named(cluster: Cluster) -> None:
    cluster.has(a=says("x"))
    unscheduled = pod("", "Pending", name="nfagent-q")
    match = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c"]}]}
    terms = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [match]}}
    unscheduled["spec"] = {"affinity": {"nodeAffinity": terms}}
    older = pod("a", "Failed", name="nfagent-older", ready="False")
    (cluster.folder / "pods.json").write_text(json.dumps({"items": [pod("a"), older, unscheduled]}))
    code, out, err = cluster.run("status")
    assert (code, out) == (2, "a  x\n")
    assert err == "error: c gave no answer: its Pod nfagent-q is Pending\n"
    code, _, err = cluster.run("--node", "z", "status")
    assert (code, err) == (2, "error: z gave no answer: no Pod of nfagent is there\n")


def test_without_pods_or_without_a_cluster_it_says_what_to_do(cluster: Cluster) -> None:
    cluster.has()
    code, _, err = cluster.run("status")
    assert code == 2
    assert "namespace nfagent has no Pods app.kubernetes.io/name=nfagent; see -n and -l, or --ssh for services" in err
    (cluster.folder / "pods.json").unlink()
    assert cluster.run("status")[0] == 2
    assert "kubectl get pods: The connection to the server was refused" in cluster.run("status")[2]
    cluster.environment["PATH"] = str(cluster.folder)
    assert "kubectl can't be run: No such file or directory" in cluster.run("status")[2]


def at(second: float, text: str) -> str:
    return f"2026-01-31T10:00:{second:06.3f}Z  {text}"


HEADER = "TIME                      VERDICT  CONNECTION"


def test_logs_are_merged_by_time_with_one_header(cluster: Cluster) -> None:
    cluster.has(
        a=says(HEADER, at(1, "deny one"), at(3, "deny three"), "  a line without a time", at(5, "deny five")),
        b=says(HEADER, at(2, "deny two"), at(4, "deny four")),
    )
    code, out, err = cluster.run("logs", "--last", "3")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"NODE  {HEADER}"
    assert [line.rpartition(" ")[2] for line in out.splitlines()[1:]] == ["one", "two", "three", "time", "four", "five"]
    assert out.splitlines()[1].startswith("a     2026"), "the columns are below their names"


def test_records_in_json_are_merged_and_unchanged(cluster: Cluster) -> None:
    one, two, three = (encode(record("ab"[second % 2 == 0], second)).decode().strip() for second in (1, 2, 3))
    cluster.has(a=says(one, three), b=says(two))
    _, out, _ = cluster.run("logs", "-o", "json")
    assert out.splitlines() == [one, two, three]


@pytest.mark.parametrize("option", ["-ojson", "-4ojson", "-6o json", "--output json", "--output=json"])
def test_json_is_known_by_each_form_of_its_option(cluster: Cluster, option: str) -> None:
    one = encode(record("a", 1)).decode().strip()
    cluster.has(a=says(one))
    assert cluster.run("logs", *option.split())[1].splitlines() == [one]


def test_the_real_logs_of_two_nodes_are_merged(cluster: Cluster) -> None:
    for node, seconds in {"a": (1, 4), "b": (2, 3)}.items():
        lines = (encode(record(node, second)) for second in seconds)
        (cluster.folder / f"{node}.log").write_bytes(b"".join(lines))
    command = f"exec {sys.executable} -m nfagent logs --file {cluster.folder}"
    cluster.has(a=f"{command}/a.log", b=f"{command}/b.log")
    code, out, err = cluster.run("logs")
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["NODE", "TIME"],
        *([node, f"2026-01-31T10:00:0{second}.000Z"] for node, second in (("a", 1), ("b", 2), ("b", 3), ("a", 4))),
    ]


def record(node: str, second: int) -> Record:
    connection = RecordConnection(
        src_ip="10.0.0.1", dest_ip="10.0.0.2", src_port=4711, dest_port=80, protocol="tcp", direction="ingress"
    )
    return Record(
        connection=connection,
        disposition="allow",
        src=RecordEndpoint(instance="10.0.0.1"),
        dest=RecordEndpoint(instance="10.0.0.2"),
        count=1,
        node_name=node,
        timestamp=f"2026-01-31T10:00:0{second}.000000000Z",
    )


def test_a_node_that_hangs_does_not_hold_the_lines_of_others(cluster: Cluster) -> None:
    cluster.has(a=says(at(1, "one"), at(2, "two")), hung="exec sleep 600")
    with cluster.start("logs") as started:
        assert started.stdout is not None
        assert [started.stdout.readline().split()[-1] for _ in range(2)] == ["one", "two"]
        pid = cluster.pid("hung")
        started.send_signal(signal.SIGTERM)
        assert started.wait(30) == 130
    assert ended(pid)


def test_a_node_that_gives_no_answer_in_time_is_named(cluster: Cluster) -> None:
    cluster.has(a=says("health    ok"), hung="sleep 600 & wait")
    code, out, err = cluster.run("--timeout", "4", "status")
    assert (code, out) == (2, "a     health    ok\n")
    assert "error: hung gave no answer: nothing came within 4 s; see --timeout" in err
    assert ended(cluster.pid("hung"))


def test_followed_lines_of_nodes_come_in_the_order_of_time(cluster: Cluster) -> None:
    script = f"printf '%s\\n' {shlex.quote(at(2, 'later'))}; exec sleep 600"
    slow = f"sleep 0.3; printf '%s\\n' {shlex.quote(at(1, 'earlier'))} {shlex.quote(at(3, 'last'))}; exec sleep 600"
    cluster.has(a=script, b=slow)
    cluster.hold(600.0)  # a second may pass before a busy machine starts the other program
    with cluster.start("logs", "-f") as started:
        assert started.stdout is not None
        assert [started.stdout.readline().split()[-1] for _ in range(2)] == ["earlier", "later"]
        pids = [cluster.pid(node) for node in "ab"]
        started.send_signal(signal.SIGINT)
        assert started.wait(30) == 130
        assert started.stderr is not None
        assert started.stderr.read() == ""
    assert all(map(ended, pids))


def test_a_followed_line_is_held_for_a_moment_where_other_nodes_say_nothing(cluster: Cluster) -> None:
    cluster.has(a=f"printf '%s\\n' {shlex.quote(at(1, 'one'))}; exec sleep 600", b="exec sleep 600")
    with cluster.start("logs", "-f") as started:
        assert started.stdout is not None
        assert started.stdout.readline().split()[-1] == "one"
        started.send_signal(signal.SIGINT)
        assert started.wait(30) == 130


def test_a_closed_pipe_ends_every_child(cluster: Cluster) -> None:
    cluster.has(a=f"while :; do printf '%s\\n' {shlex.quote(at(1, 'again'))}; done")
    with cluster.start("logs") as started:
        assert started.stdout is not None
        started.stdout.readline()
        started.stdout.close()
        assert started.wait(30) == 130
        assert started.stderr is not None
        assert started.stderr.read() == ""
    assert ended(cluster.pid("a"))


def test_answers_in_json_are_a_line_for_each_node(cluster: Cluster) -> None:
    cluster.has(a=says("{", '"health": "ok"', "}"), b=says('{"health": "degraded"}', code=1), c=kubectl_ends(2))
    code, out, _ = cluster.run("status", "-o", "json")
    found = {value["node"]: value for value in map(json.loads, out.splitlines())}
    assert code == 2
    assert found["a"] == {"node": "a", "exit_code": 0, "answer": {"health": "ok"}}
    assert found["b"] == {"node": "b", "exit_code": 1, "answer": {"health": "degraded"}}
    assert found["c"]["answer"] is None


def test_sums_of_the_log_are_not_merged(cluster: Cluster) -> None:
    cluster.has(a=says(at(9, "a"), at(1, "b")))
    assert cluster.run("logs", "--top")[1].splitlines() == [f"a  {at(9, 'a')}", f"a  {at(1, 'b')}"]


def test_what_a_node_says_cannot_control_the_terminal(cluster: Cluster) -> None:
    cluster.has(a="printf '\\033]0;title\\007\\033[31mred\\033[0m\\n'; printf '\\033[2J\\n' >&2; exit 0")
    _, out, err = cluster.run("status")
    assert out == "a  \\x1b]0;title\\x07\x1b[31mred\x1b[0m\n"
    assert err == "a  \\x1b[2J\n"


def test_help_has_an_example_and_other_commands_are_refused(cluster: Cluster) -> None:
    code, out, _ = cluster.run("--help")
    assert code == 0
    assert "kubectl nfagent logs -f --verdict deny --to shop/db" in out
    code, _, err = cluster.run("cleanup")
    assert code == 2
    assert "invalid choice: 'cleanup'" in err


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0", "soon"])
def test_a_time_that_cannot_be_waited_for_is_refused(cluster: Cluster, seconds: str) -> None:
    cluster.has(a="exit 0")
    code, out, err = cluster.run("--timeout", seconds, "status")
    assert (code, out) == (2, "")
    assert f"argument --timeout: '{seconds}' is no number from 1 to 86400" in err


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_about_logs_is_printed_as_other_answers_are(cluster: Cluster, option: str) -> None:
    cluster.has(a="echo Usage; echo; echo TIME is a time")
    assert cluster.run("logs", option)[1].splitlines() == ["a  Usage", "a", "a  TIME is a time"]


def test_kubectl_completes_commands_and_options(cluster: Cluster) -> None:
    link = cluster.folder / "kubectl_complete-nfagent"
    link.symlink_to(PLUGIN)

    def completed(*words: str) -> list[str]:
        return subprocess.run(
            [str(link), *words], env=cluster.environment, capture_output=True, text=True, check=True
        ).stdout.split()

    assert completed("st") == ["status", ":4"]
    assert completed("--node", "a", "--ss") == ["--ssh", ":4"]
    assert completed("logs", "") == [":4"]


def test_the_manual_page_has_every_option() -> None:
    page = (ROOT / "packaging/deb/kubectl-nfagent.1").read_text().replace("\\-", "-").replace("\\fB", "")
    shown = subprocess.run([str(PLUGIN), "--help"], capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"--[a-z]+", shown.partition("commands:")[0])) - {"--help"}
    assert {option for option in options if option not in page} == set()


def test_a_full_disk_is_named(cluster: Cluster) -> None:
    cluster.has(a=says("health    ok"))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, str(PLUGIN), "status"],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, "error: the output can't be written: No space left on device\n")
