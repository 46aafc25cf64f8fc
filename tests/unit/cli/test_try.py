"""nfagent try: from a log and manifests to a table, a sentence and an exit code."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

import pytest

from nfagent.config import load_settings
from nfagent.errors import UsageError
from nfagent.explain.explanation import Explanation
from nfagent.introspection.view_filter import ViewFilter
from nfagent.introspection.views import View
from nfagent.manifests.snapshot import read_state
from nfagent.simulate import job
from nfagent.simulate.job import start_simulation
from nfagent.simulate.policy_files import PolicyFiles
from nfagent.simulate.simulation import PolicySimulation
from nfagent.simulate.translations import EgressInputs
from nfagent.verdicts.log_file import RotatingFile
from nfagent.verdicts.records import Disposition, Record, RecordConnection, RecordEndpoint, encode, timestamp
from tests.unit.cli.agents import running
from tests.unit.cli.called import Call, Said

WALL = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: wall}
spec: {podSelector: {}}
"""
HTTP_TOO = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: http}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}
"""
INSTEAD = HTTP_TOO.replace("name: http", "name: db")
BROKEN = HTTP_TOO.replace("port: 80", "port: 80000")
OTHER_KINDS = f"{WALL}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}\n"
NOBODYS = WALL.replace("namespace: shop", "namespace: shopp")
THE_SAME = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: postgres}]}]
"""
THE_OTHER = WALL.replace("podSelector: {}", "podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]")
PARTNER = """
apiVersion: networking.gke.io/v1
kind: EgressNATPolicy
metadata: {name: partner}
spec:
  action: NoSNAT
  destinations: [{cidr: 203.0.113.0/24}]
  sources: [{podSelector: {matchLabels: {app: web}}}]
"""
WEB = ("10.0.0.1", "shop/web")
DB = ("10.0.0.2", "shop/db")
ELSEWHERE = ("203.0.113.7", "")


def end(path: str, address: str) -> RecordEndpoint:
    if not path:
        return RecordEndpoint(instance=address)
    namespace, _, name = path.partition("/")
    return RecordEndpoint(
        pod_name=name, workload_kind="Pod", workload_name=name, pod_namespace=namespace, namespace=namespace
    )


def record(
    source: tuple[str, str],
    destination: tuple[str, str],
    port: int | None,
    disposition: Disposition = "allow",
    *,
    age: int = 0,
    count: int = 1,
) -> Record:
    return Record(
        connection=RecordConnection(
            src_ip=source[0], dest_ip=destination[0], src_port=4000, dest_port=port, protocol="tcp", direction="ingress"
        ),
        disposition=disposition,
        src=end(source[1], source[0]),
        dest=end(destination[1], destination[0]),
        count=count,
        timestamp=timestamp(time.time_ns() - age * 1_000_000_000),
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log" / "policy_action.log"
    write(
        path,
        record(WEB, DB, 5432, age=7200),
        record(WEB, DB, 5432, count=2),
        record(WEB, DB, 80, "deny"),
        record(ELSEWHERE, DB, 80, "deny", count=4),
        record(ELSEWHERE, WEB, 443),
    )
    return path


@pytest.fixture(autouse=True)
def _in_the_folder(tmp_path: Path, manifests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    assert manifests.parent == tmp_path


def write(path: Path, *records: Record) -> None:
    writer = RotatingFile(path)
    writer.write([encode(item) for item in records])
    writer.close()


def tried(call: Call, text: str, *options: str | Path) -> Said:
    Path("given.yaml").write_text(text)
    return call("try", "-f", "given.yaml", "--manifests", "manifests", "--node", "node-a", *options)


def test_what_would_be_denied_is_shown_with_its_count_and_its_reason(call: Call, log: Path) -> None:
    said = tried(call, WALL)
    assert log.exists()
    assert said.code == 1
    header, row, _, sentence = said.out.splitlines()
    assert header.split() == ["FLOW", "TRAFFIC", "COUNT", "BEFORE", "AFTER", "WHY"]
    assert row[: header.index("WHY")].split() == ["203.0.113.7", "->", "shop/web", "443/tcp", "1", "allowed", "denied"]
    assert row[header.index("WHY") :] == (
        "ingress at shop/web: NetworkPolicy shop/wall isolates it; it has no rules (before: no policy applies to it)"
    )
    assert sentence == (
        "1 of 4 flows of the log would be denied that is allowed now; none would be allowed that are denied now"
    )


@pytest.mark.usefixtures("log")
def test_denied_flows_come_first_and_similar_flows_share_a_row(call: Call) -> None:
    said = tried(call, INSTEAD)
    assert said.code == 1
    header, *rows, _, sentence = said.out.splitlines()
    assert [row[: header.index("BEFORE")].split() for row in rows] == [
        ["shop/web", "->", "shop/db", "5432/tcp", "3"],
        ["203.0.113.7", "->", "shop/db", "80/tcp", "4"],
        ["shop/web", "->", "shop/db", "80/tcp", "1"],
    ]
    assert sentence.startswith("1 of 4 flows of the log would be denied that is allowed now; 2 would be allowed")


@pytest.mark.usefixtures("log")
def test_exit_code_0_where_nothing_would_be_denied(call: Call) -> None:
    said = tried(call, HTTP_TOO)
    assert said.code == 0
    assert said.out.endswith(
        "none of 4 flows of the log would be denied that are allowed now; 2 would be allowed that are denied now\n"
    )


@pytest.mark.usefixtures("log")
def test_nothing_changes_for_an_existing_policy(call: Call) -> None:
    said = tried(call, THE_SAME)
    assert (said.code, said.out) == (0, "none of 4 flows of the log would change\n")
    assert "note: NetworkPolicy shop/db is unchanged by the files\n" in said.err


@pytest.mark.usefixtures("log")
def test_delete_removes_the_named_policies(call: Call) -> None:
    said = tried(call, INSTEAD, "--delete")
    assert said.code == 0
    assert "(before: NetworkPolicy shop/db isolates it; rule 1 of 1 has other ports)" in said.out
    assert "2 would be allowed" in said.out
    assert "can't have all connections" not in said.err, "its Pods are judged already, and on this node"


def test_flows_of_the_log_have_a_row_each(call: Call, log: Path) -> None:
    write(log, record(("203.0.113.8", ""), WEB, 443, count=2))
    header, *rows, _, _ = tried(call, WALL).out.splitlines()
    assert [row[: header.index("BEFORE")].split() for row in rows] == [
        ["203.0.113.8", "->", "shop/web", "443/tcp", "2"],
        ["203.0.113.7", "->", "shop/web", "443/tcp", "1"],
    ]


def test_pods_that_would_be_seen_under_another_address_are_shown_without_a_log(call: Call) -> None:
    said = tried(call, PARTNER)
    assert (said.code, said.err) == (0, "")
    header, row, _, sentence = said.out.splitlines()
    places = [header.index(word) for word in ("PODS", "DESTINATIONS", "SEEN", "THEN", "DECIDED")]
    assert [row[first:last].strip() for first, last in zip(places, [*places[1:], None], strict=True)] == [
        "shop/web",
        "203.0.113.0/24",
        "its node",
        "the Pod",
        "EgressNATPolicy partner (before: nothing has it)",
    ]
    assert sentence == "1 Pod would be seen under another address outside"


def test_ties_that_arise_and_end_are_told(call: Call) -> None:
    Path("manifests/partner.yaml").write_text(PARTNER)
    tie = PARTNER.replace("name: partner", "name: hide").replace("NoSNAT", "SNAT")
    lines = tried(call, tie).out.splitlines()
    assert [line.split() for line in lines if line.startswith(("TIE", "created"))] == [
        ["TIE", "EGRESSNATPOLICIES", "DESTINATIONS"],
        ["created", "hide", "and", "partner", "203.0.113.0/24"],
    ]
    assert lines[-1] == "1 pair of policies would disagree: neither applies there, and it is masqueraded"
    Path("manifests/hide.yaml").write_text(tie)
    said = tried(call, tie, "--delete", "-o", "json")
    assert json.loads(said.out)["egress"]["ties"] == {
        "created": [],
        "removed": [{"policies": ["hide", "partner"], "destinations": ["203.0.113.0/24"]}],
    }
    assert tried(call, tie, "--delete").out.splitlines()[-1] == "1 pair of policies would no longer disagree"


@pytest.mark.usefixtures("log")
def test_egress_objects_and_policies_are_tried_together(call: Call) -> None:
    said = tried(call, f"{WALL}---{PARTNER}", "-o", "json")
    found = json.loads(said.out)
    assert said.code == 1
    assert found["policies"] == ["NetworkPolicy shop/wall", "EgressNATPolicy partner"]
    assert [change["names"] for change in found["egress"]["changes"]] == [["shop/web"]]
    assert found["log"]["denied"] == 1


def test_an_egress_object_that_stays_changes_nothing(call: Call) -> None:
    Path("manifests/partner.yaml").write_text(PARTNER)
    said = tried(call, PARTNER)
    assert (said.code, said.out) == (0, "no Pod would be seen under another address outside\n")
    assert said.err == "note: EgressNATPolicy partner is unchanged by the files\n"


def test_a_deleted_egress_object_gives_its_destinations_back(call: Call) -> None:
    Path("manifests/partner.yaml").write_text(PARTNER)
    said = tried(call, PARTNER, "--delete")
    assert "nothing has it (before: EgressNATPolicy partner)" in said.out
    assert tried(call, PARTNER.replace("name: partner", "name: other"), "--delete").code == 2


@pytest.mark.usefixtures("log", "broken")
def test_problems_of_the_manifests_are_reported(call: Call) -> None:
    assert "warning: policy.yaml:2: NetworkPolicy shop/broken" in tried(call, WALL).err


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (HTTP_TOO, ["--delete"], "there is no NetworkPolicy shop/http to remove"),
        (INSTEAD.replace("name: db", "name: dbs"), ["--delete"], "did you mean shop/db?"),
        (OTHER_KINDS, [], "only policies can be tried, and the files hold other objects too: Namespace shop"),
        ("kind: [}", [], "given.yaml:1: is not valid YAML"),
        (WALL, ["--since", "5"], "is no time span"),
        (WALL, ["-f", "nowhere.yaml"], "nowhere.yaml can't be read"),
        (WALL, ["--log", "manifests"], "manifests can't be read: Is a directory"),
    ],
    ids=["not there", "misspelt", "other kinds", "no YAML", "no time span", "no such file", "a folder for a log"],
)
@pytest.mark.usefixtures("log")
def test_invalid_requests_are_usage_errors(call: Call, text: str, options: list[str], words: str) -> None:
    said = tried(call, text, *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.err


@pytest.mark.usefixtures("log")
def test_an_invalid_policy_is_evaluated_as_failing_closed_and_reported(call: Call) -> None:
    said = tried(call, BROKEN)
    assert said.code == 0
    assert "none of 4 flows" in said.out
    assert "warning: given.yaml:2: NetworkPolicy shop/http: spec.ingress[0].ports[0].port '80000'" in said.err
    closed = tried(call, BROKEN.replace("app: db", "app: web"))
    assert closed.code == 1
    assert "NetworkPolicy shop/http can't be read: it fails closed" in closed.out


def test_files_folders_and_standard_input_can_be_combined(
    call: Call, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("more").mkdir()
    Path("more/http.yaml").write_text(HTTP_TOO)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(WALL.encode())))
    said = call("try", "-f", "-", "-f", "more", "--manifests", "manifests", "--node", "node-a", "-o", "json")
    assert log.exists()
    assert json.loads(said.out)["policies"] == ["NetworkPolicy shop/wall", "NetworkPolicy shop/http"]


@pytest.mark.parametrize(
    ("options", "records", "judged"),
    [([], 7, 6), (["--since", "1h"], 5, 5), (["-n", "shop"], 6, 5), (["--since", "1h", "-n", "shop"], 4, 4)],
    ids=["all", "the last hour's", "a namespace's", "both"],
)
def test_json_has_the_evaluated_flows(call: Call, log: Path, options: list[str], records: int, judged: int) -> None:
    write(log, record(ELSEWHERE, ("10.0.0.9", "ops/probe"), 80), record(DB, WEB, 80, "deny", age=7200))
    found = json.loads(tried(call, THE_OTHER, "-o", "json", *options).out)
    assert (found["log"]["records"], found["log"]["judged"], found["log"]["unchanged"]) == (records, judged, judged - 1)
    assert found["pods"] is None
    [change] = found["changes"]
    assert change["flow"] == {
        "source": "203.0.113.7",
        "destination": "10.0.0.1",
        "protocol": "tcp",
        "port": 443,
        "translated": False,
    }
    assert (change["destination"], change["before"], change["after"]) == ("shop/web (10.0.0.1)", "allowed", "denied")
    assert [turned["direction"] for turned in change["turned"]] == ["ingress"]


def test_the_evaluated_part_of_the_log_is_reported(call: Call, log: Path) -> None:
    write(log, record(WEB, DB, None), record(WEB, ("10.0.0.1", "shop/was"), 80))
    with log.open("ab") as file:
        file.write(b"nonsense\n")
    said = tried(call, WALL)
    notes = said.err.splitlines()
    assert notes[0].startswith("note: evaluated 5 flows of 7 records, ")
    assert notes[1:] == [
        "note: left out 1 record without a port",
        "warning: skipped 1 invalid line of the log",
        (
            "note: these policies select 2 Pods; this log can't have all connections of 1 (on other nodes, or "
            "selected by no policy yet): --pods evaluates all pairs of Pods"
        ),
        "note: 1 flow of Pods that are gone: evaluated with the current holders of their addresses",
    ]


def test_a_log_without_allowed_connections_can_not_show_what_would_be_denied(call: Call, tmp_path: Path) -> None:
    write(tmp_path / "log" / "policy_action.log", record(WEB, DB, 80, "deny"))
    said = tried(call, WALL)
    assert said.code == 0
    assert "warning: the log has no allowed connections, so none of them can turn out denied" in said.err


@pytest.mark.usefixtures("log")
def test_policies_that_select_no_pod_are_a_warning(call: Call) -> None:
    said = tried(call, NOBODYS)
    assert (said.code, said.out) == (0, "none of 4 flows of the log would change\n")
    assert "warning: these policies select no Pod with an address: nothing can change" in said.err


@pytest.mark.parametrize(
    ("records", "options", "words"),
    [
        ((), [], "no verdict log yet; the NetworkLogging object `default` switches logging on"),
        ((record(WEB, DB, 80, age=90),), ["--since", "1m"], "none of 1 record of"),
        ((record(WEB, DB, 80),), ["-n", "elsewhere"], "none of 1 record of"),
    ],
    ids=["no log", "nothing since then", "nothing of that namespace"],
)
def test_without_flows_there_is_an_error(
    call: Call, tmp_path: Path, records: tuple[Record, ...], options: list[str], words: str
) -> None:
    if records:
        write(tmp_path / "log" / "policy_action.log", *records)
    said = tried(call, WALL, *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert "or evaluate all pairs of Pods with --pods" in said.err


def test_pairs_of_pods_need_no_log(call: Call) -> None:
    said = tried(call, WALL, "--pods")
    assert said.code == 1
    header, row, _, sentence = said.out.splitlines()
    assert row[: header.index("BEFORE")].split() == [
        *("shop/db", "->", "shop/web"),
        *("other", "ports,", "icmp"),
        "-",
    ]
    assert sentence.startswith("2 of 5 flows between Pods would be denied that are allowed now; none would be allowed")
    assert "no verdict log yet" in said.err


def test_pairs_that_differ_in_one_end_alone_are_one_row(call: Call, manifests: Path) -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: job-{0}}}\nspec: {{nodeName: node-a}}\n"
    pod += "status: {{phase: Running, podIPs: [{{ip: 10.0.0.1{0}}}]}}\n"
    (manifests / "jobs.yaml").write_text("---\n".join(pod.format(number) for number in range(5)))
    said = tried(call, THE_OTHER, "--pods")
    header, *rows, _, sentence = said.out.splitlines()
    assert [row[: header.index("COUNT")].split("  ")[0] for row in rows] == [
        "shop/db, shop no labels (5 Pods) -> shop/web"
    ]
    assert sentence.startswith("12 of 18 flows between Pods would be denied that are allowed now")
    assert len(json.loads(tried(call, THE_OTHER, "--pods", "-o", "json").out)["changes"]) == 4


@pytest.mark.usefixtures("log")
def test_log_and_pairs_are_evaluated_together_and_counted_separately(call: Call) -> None:
    said = tried(call, HTTP_TOO, "--pods")
    assert said.code == 0
    assert said.out.splitlines()[-2:] == [
        "none of 4 flows of the log would be denied that are allowed now; 2 would be allowed that are denied now",
        "none of 4 flows between Pods would be denied that are allowed now; 1 would be allowed that is denied now",
    ]


def test_pairs_can_be_narrowed_to_a_namespace(call: Call) -> None:
    said = tried(call, WALL, "--pods", "-n", "elsewhere")
    assert (said.code, said.out) == (2, "")
    assert "there is no namespace elsewhere, and no flow with an end in it" in said.err


def test_too_many_pairs_are_refused_with_a_hint(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "MAX_POD_FLOWS", 3)
    said = tried(call, WALL, "--pods")
    assert (said.code, said.out) == (2, "")
    assert "more than 3 connections between Pods that policies tell apart; narrow them with -n NS" in said.err


class FolderAgent:
    """Answers as an agent of that folder would; stands for one."""

    def __init__(self, folder: Path) -> None:
        settings = load_settings()
        self.desired, _ = read_state(folder, "node-a", settings.masquerade_settings(), settings.logging.group)

    async def view(self, name: str, scope: ViewFilter) -> View:
        raise UsageError(f"no view {name} of {scope}")

    async def explain(self, source: str, destination: str) -> Explanation:
        raise UsageError(f"{source} {destination}")

    def start_simulation(self, given: PolicyFiles, *, delete: bool) -> PolicySimulation:
        desired = self.desired
        egress = EgressInputs(desired.egress, desired.masquerade_settings, desired.cluster_ranges)
        return start_simulation(
            desired.cluster, desired.index, desired.policy_options, given, delete=delete, egress=egress
        )


@pytest.mark.parametrize(
    ("text", "options"),
    [(WALL, []), (INSTEAD, ["--pods"]), (INSTEAD, ["--delete", "-n", "shop"]), (BROKEN, ["--pods"]), (PARTNER, [])],
    ids=[
        "a deny-all policy",
        "another policy instead",
        "a policy is removed",
        "one that fails closed",
        "an EgressNATPolicy",
    ],
)
@pytest.mark.usefixtures("log")
def test_a_running_agent_answers_as_the_folder_does(call: Call, text: str, options: list[str]) -> None:
    from_files = tried(call, text, *options, "-o", "json")
    with running(FolderAgent(Path("manifests"))):
        from_agent = call("try", "-f", "given.yaml", *options, "-o", "json")
    assert json.loads(from_agent.out) == json.loads(from_files.out)
    assert (from_agent.code, from_agent.err) == (from_files.code, from_files.err)


@pytest.mark.usefixtures("log")
def test_without_agent_and_manifests_the_error_names_the_options(call: Call) -> None:
    Path("given.yaml").write_text(WALL)
    said = call("try", "-f", "given.yaml")
    assert said.code == 2
    assert "give --manifests DIR" in said.err


class Screen(io.StringIO):
    """Stands for a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("log")
def test_verdicts_are_coloured_on_a_terminal(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", screen)
    tried(call, WALL)
    assert "\x1b[32mallowed\x1b[0m  \x1b[31mdenied\x1b[0m" in screen.getvalue()


def test_a_long_simulation_shows_its_progress_on_a_terminal(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = range(1, 5001)
    write(tmp_path / "log" / "policy_action.log", *(record(WEB, DB, port, "deny") for port in ports))
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    tried(call, HTTP_TOO)
    assert "evaluating" in screen.getvalue()
    assert "100%" in screen.getvalue()
