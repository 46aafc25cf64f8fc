"""nfagent check --cluster against scripted API servers, of versions and states that a real one doesn't have."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from nfagent.cli.check_cluster import ask_cluster
from nfagent.cli.check_result import Check
from nfagent.config import Settings
from nfagent.errors import UsageError
from nfagent.explain.explanation import Explanation
from nfagent.introspection import http_server
from nfagent.introspection.view_filter import ViewFilter
from nfagent.introspection.views import View, state_view
from nfagent.kube.client import ApiClient
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.served_versions import OPTIONAL
from nfagent.simulate.policy_files import PolicyFiles
from nfagent.simulate.simulation import PolicySimulation
from tests.support.two_node_cluster import Document, TwoNodeCluster, pod

DEADLINE = 60.0
ACCOUNT = "system:serviceaccount:net:agent"
NODE = {"metadata": {"name": "a"}}
ALL = frozenset((each.api_version, each.plural) for each in OPTIONAL)
TIERS, GKE = "policy.networking.k8s.io", "networking.gke.io"
Allowed = Callable[[dict[str, str]], bool]


class Script:
    """A scripted API server; without a script, an answer has no problem."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, object]] = {
            "/readyz": (200, "ok"),
            "/version": (200, {"major": "1", "minor": "34", "gitVersion": "v1.34.2"}),
            "/apis/authentication.k8s.io/v1/selfsubjectreviews": (201, {"status": {"userInfo": {"username": "jane"}}}),
            "/api/v1/nodes/a": (200, NODE),
            "/api/v1/nodes": (200, {"items": [NODE]}),
            "/api/v1/pods": (200, {"items": []}),
        }
        self.allowed: Allowed = lambda _attributes: True
        self.serve(ALL)

    def serve(self, kinds: frozenset[tuple[str, str]], *, aggregated: bool = True) -> None:
        groups: dict[str, dict[str, list[str]]] = {}
        for version, plural in sorted(kinds):
            group, _, last = version.rpartition("/")
            groups.setdefault(group, {}).setdefault(last, []).append(plural)
        if aggregated:
            listed = [_discovered(group, versions) for group, versions in groups.items()]
            self.answers["/apis"] = (200, {"kind": "APIGroupDiscoveryList", "items": listed})
            return
        self.answers["/apis"] = (200, {"kind": "APIGroupList", "groups": []})
        for group, versions in groups.items():
            self.answers[f"/apis/{group}"] = (200, {"versions": [{"version": version} for version in versions]})
            for version, plurals in versions.items():
                self.answers[f"/apis/{group}/{version}"] = (200, {"resources": [{"name": name} for name in plurals]})

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
            attributes = (await request.json())["spec"]["resourceAttributes"]
            status, said = 201, {"status": {"allowed": self.allowed(attributes)}}
            return web.json_response(said, status=status)
        found, body = self.answers.get(request.path, (404, {"kind": "Status", "code": 404, "reason": "NotFound"}))
        return web.Response(status=found, body=body if isinstance(body, str) else json.dumps(body))


def _discovered(group: str, versions: dict[str, list[str]]) -> Document:
    return {
        "metadata": {"name": group},
        "versions": [
            {"version": version, "resources": [{"resource": plural} for plural in plurals]}
            for version, plurals in versions.items()
        ],
    }


class Agent:
    """A fake agent with a given state."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._desired = TwoNodeCluster(
            pod("shop/web", "a", 10), pod("shop/db", "a", 20), pod("shop/far", "b", 10)
        ).views["a"]

    async def view(self, name: str, scope: ViewFilter) -> View:
        assert name == "state"
        return {**state_view(self._desired, scope, ()), **self._view}

    async def explain(self, source: str, destination: str) -> Explanation:
        raise UsageError(f"{source} to {destination}")

    def start_simulation(self, given: PolicyFiles, *, delete: bool) -> PolicySimulation:
        raise UsageError(f"{given} {delete}")


def ask(script: Script, runtime: Path, agent: Agent | None = None, **access: Any) -> list[Check]:  # noqa: ANN401 - fields of Access
    """Run the checks in a thread and a loop of their own, as the command does, beside what they ask."""

    async def asked(url: str) -> list[Check]:
        way = msgspec.convert({"server": url, "origin": "test", "auth_method": "token", **access}, ClientConfig)

        async def find() -> ClientConfig:
            return way

        server = ApiClient(find, environment={})
        try:
            return await ask_cluster(server, Settings(node="a", runtime_dir=str(runtime)))
        finally:
            await server.close()

    async def body() -> list[Check]:
        async with asyncio.timeout(DEADLINE), AsyncExitStack() as stack:
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", script.answer)
            runner = web.AppRunner(application)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            if agent is not None:
                serving = await http_server.serve(runtime / "agent.sock", agent)
                stack.push_async_callback(serving.cleanup)
            host, port = runner.addresses[0][:2]
            return await asyncio.to_thread(_run, lambda: asked(f"http://{host}:{port}"))

    return asyncio.run(body())


def _run(made: Callable[[], Awaitable[list[Check]]]) -> list[Check]:
    async def awaited() -> list[Check]:
        return await made()

    return asyncio.run(awaited())


def only(checks: list[Check], name: str) -> Check:
    (found,) = (each for each in checks if each.name == name)
    return found


@pytest.fixture
def script() -> Script:
    return Script()


def test_without_problems_every_check_is_ok(script: Script, tmp_path: Path) -> None:
    found = ask(script, tmp_path)
    assert [each.name for each in found] == [
        *("credentials", "API server", "identity", "version", "permissions"),
        *("own kinds", "tier kinds", "Service ranges", "node", "Pods"),
    ]
    assert {(each.result, each.fix) for each in found} == {("ok", "")}


def test_for_an_unready_api_server_the_failed_checks_are_named(script: Script, tmp_path: Path) -> None:
    script.answers["/readyz"] = (500, "[+]ping ok\n[-]etcd failed: reason withheld\n[-]informer-sync failed: x\n")
    found = only(ask(script, tmp_path), "API server")
    assert found.result == "warn"
    assert "isn't ready: etcd, informer-sync" in found.found


def test_refused_credentials_end_the_checks(script: Script, tmp_path: Path) -> None:
    for path in ("/readyz", "/version", "/apis/authentication.k8s.io/v1/selfsubjectreviews"):
        script.answers[path] = (401, {"reason": "Unauthorized"})
    *_, server, last = ask(script, tmp_path)
    assert (server.name, server.result) == ("API server", "ok")
    assert "ready" not in server.found
    assert (last.name, last.result) == ("identity", "FAIL")
    assert "401" in last.found


def test_an_api_server_without_self_review_is_checked_further(script: Script, tmp_path: Path) -> None:
    del script.answers["/apis/authentication.k8s.io/v1/selfsubjectreviews"]
    found = ask(script, tmp_path)
    assert only(found, "identity").result == "ok"
    assert only(found, "permissions").result == "ok"


@pytest.mark.parametrize(
    ("minor", "result", "words"),
    [
        ("22", "warn", "older than 1.23"),
        ("23", "ok", "supported from 1.23 on"),
        ("34", "ok", "tested up to 1.34"),
        ("35+", "ok", "newer than 1.34, the newest"),
    ],
)
def test_the_version_is_compared_with_the_supported_ones(
    script: Script, tmp_path: Path, minor: str, result: str, words: str
) -> None:
    script.answers["/version"] = (200, {"major": "1", "minor": minor, "gitVersion": f"v1.{minor}.0"})
    found = only(ask(script, tmp_path), "version")
    assert found.result == result
    assert words in found.found


def test_another_http_server_is_a_warning(script: Script, tmp_path: Path) -> None:
    script.answers["/version"] = (200, "<html>")
    assert only(ask(script, tmp_path), "version").result == "warn"


def jwt(seconds: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"iat": time.time() - 60, "exp": time.time() + seconds}).encode())
    return f"e30.{claims.decode().rstrip('=')}.c2ln"


@pytest.mark.parametrize(
    ("access", "result", "words"),
    [
        pytest.param({"authorization": "Bearer 0123"}, "ok", "test: token", id="a token without expiry"),
        pytest.param({"token_hours": 99}, "ok", "in 4 days", id="a token for days"),
        pytest.param({"token_hours": 5.5}, "warn", "in 5 hours", id="a token for hours"),
        pytest.param({"token_hours": -0.1}, "warn", "token ended", id="an expired token"),
        pytest.param({"expires": 4e9}, "ok", "then the exec plugin runs again", id="a plugin's"),
        pytest.param({"auth_method": ""}, "warn", "requests are anonymous", id="no credentials"),
    ],
)
def test_the_expiry_of_credentials_is_shown(
    script: Script, tmp_path: Path, access: dict[str, Any], result: str, words: str
) -> None:
    if "token_hours" in access:  # from now on, not from when the tests were collected
        access = {"authorization": f"Bearer {jwt(access['token_hours'] * 3600)}"}
    found = only(ask(script, tmp_path, **access), "credentials")
    assert found.result == result
    assert words in found.found


def test_a_token_file_that_is_replaced_in_time_may_be_short_lived(script: Script, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(jwt(3600))
    found = only(ask(script, tmp_path, token_file=str(tmp_path / "token")), "credentials")
    assert (found.result, found.fix) == ("ok", "")
    assert "token ends" in found.found


def denying(*denied: tuple[str, str]) -> Allowed:
    return lambda attributes: (attributes["verb"], attributes["resource"]) not in denied


@pytest.mark.parametrize(
    ("allowed", "result", "lines"),
    [
        pytest.param(
            denying(("list", "pods"), ("watch", "pods"), ("get", "pods"), ("patch", "events")),
            "FAIL",
            {
                "get, list, watch pods: nothing is enforced until they can be read": "FAIL",
                "patch events: objects with problems get no Events": "warn",
            },
            id="reading Pods, which is listed before lesser permissions",
        ),
        pytest.param(
            denying(("create", "events"), ("get", "nodes")),
            "warn",
            {
                "create events: objects with problems get no Events": "warn",
                "get nodes: they get no Events": "warn",
            },
            id="Events and conditions",
        ),
        pytest.param(
            denying(("list", "adminnetworkpolicies")),
            "FAIL",
            {f"list adminnetworkpolicies.{TIERS}: nothing is enforced until they can be read": "FAIL"},
            id="reading a kind of the tiers, also where it isn't served",
        ),
        pytest.param(
            denying(("create", "leases"), ("update", "leases")),
            "warn",
            {
                "create, update leases.coordination.k8s.io in nfagent: "
                "this agent is never elected to report what concerns the whole cluster": "warn"
            },
            id="the leader election",
        ),
    ],
)
def test_a_denied_permission_is_shown_with_its_consequence(
    script: Script, tmp_path: Path, allowed: Allowed, result: str, lines: dict[str, str]
) -> None:
    script.allowed = allowed
    found = ask(script, tmp_path)
    assert [(each.found, each.result) for each in found if each.name == "denied"] == [*lines.items()]
    assert only(found, "permissions").result == result


@pytest.mark.parametrize(
    ("username", "fix"),
    [
        ("system:serviceaccount:nfagent:nfagent", ["kubectl apply -k deploy"]),
        ("system:node:a", ["kubectl apply -k deploy", "kubectl apply -k deploy/node-credentials"]),
        (
            ACCOUNT,
            [
                "kubectl apply -k deploy",
                f"kubectl create clusterrolebinding nfagent-{ACCOUNT} --clusterrole=nfagent --serviceaccount=net:agent",
            ],
        ),
        (
            "jane doe",
            [
                "kubectl apply -k deploy",
                "kubectl create clusterrolebinding nfagent-jane-doe --clusterrole=nfagent '--user=jane doe'",
            ],
        ),
    ],
    ids=["nfagent's account", "a node", "another account", "a user"],
)
def test_the_fix_of_a_denial_depends_on_who_asks(script: Script, tmp_path: Path, username: str, fix: list[str]) -> None:
    script.answers["/apis/authentication.k8s.io/v1/selfsubjectreviews"] = (
        201,
        {"status": {"userInfo": {"username": username}}},
    )
    script.allowed = denying(("list", "pods"))
    assert only(ask(script, tmp_path), "denied").fix.splitlines() == fix


def test_a_role_of_a_namespace_is_bound_there(script: Script, tmp_path: Path) -> None:
    script.allowed = denying(("list", "configmaps"))
    *_, last = only(ask(script, tmp_path), "denied").fix.splitlines()
    assert last == "kubectl -n kube-system create rolebinding nfagent-jane --role=nfagent --user=jane"


def test_a_refused_access_review_is_reported(script: Script, tmp_path: Path) -> None:
    script.answers["/apis"] = (403, {"code": 403, "reason": "Forbidden"})
    for group in (TIERS, GKE, "networking.k8s.io"):
        script.answers[f"/apis/{group}"] = (403, {"code": 403, "reason": "Forbidden"})
    found = only(ask(script, tmp_path), "kinds")
    assert (found.result, found.fix) == ("FAIL", "see: kubectl api-resources")
    assert "403 Forbidden" in found.found


@pytest.mark.parametrize("aggregated", [True, False], ids=["all at once", "group by group"])
@pytest.mark.parametrize(
    ("served", "line", "result", "words"),
    [
        pytest.param(
            ALL - {(f"{GKE}/v1", "egressnatpolicies")},
            "own kinds",
            "warn",
            "NetworkGatewayGroup v1, NetworkLogging v1alpha1; not served: EgressNATPolicy",
            id="without one of nfagent's CRDs",
        ),
        pytest.param(
            frozenset(each for each in ALL if TIERS not in each[0]),
            "tier kinds",
            "ok",
            "not served: AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy; once their CRDs ",
            id="without admin tiers",
        ),
        pytest.param(
            ALL - {(f"{TIERS}/v1alpha2", "clusternetworkpolicies")} | {(f"{TIERS}/v1beta1", "clusternetworkpolicies")},
            "tier kinds",
            "warn",
            "ClusterNetworkPolicy served as v1beta1, but read as v1alpha2",
            id="with another version",
        ),
    ],
)
def test_served_and_missing_kinds_are_listed(
    script: Script,
    tmp_path: Path,
    *,
    served: frozenset[tuple[str, str]],
    line: str,
    result: str,
    words: str,
    aggregated: bool,
) -> None:
    script.serve(served, aggregated=aggregated)
    found = only(ask(script, tmp_path), line)
    assert found.result == result
    assert words in found.found
    assert bool(found.fix) == (result == "warn")


@pytest.mark.parametrize(("minor", "folder"), [("30", "crds-before-1.31"), ("31", "crds")])
def test_the_crds_to_apply_depend_on_the_server_version(
    script: Script, tmp_path: Path, minor: str, folder: str
) -> None:
    script.answers["/version"] = (200, {"major": "1", "minor": minor})
    script.serve(frozenset())
    assert only(ask(script, tmp_path), "own kinds").fix == f"kubectl apply -k deploy/{folder}"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no Node a; the cluster has no Nodes"),
        (["b"], "no Node a; there is b"),
        (["b", "c"], "no Node a; there are b, c"),
        (["aa", *(f"n{number}" for number in range(9))], "no Node a; there is aa"),
        ([f"n{number}" for number in range(9)], "no Node a; none of 9 Nodes has a similar name"),
    ],
    ids=["none", "one", "two", "many, one of them alike", "many others"],
)
def test_for_a_missing_node_similar_names_are_suggested(
    script: Script, tmp_path: Path, names: list[str], words: str
) -> None:
    del script.answers["/api/v1/nodes/a"]
    script.answers["/api/v1/nodes"] = (200, {"items": [{"metadata": {"name": name}} for name in names]})
    *_, last = ask(script, tmp_path)
    assert (last.name, last.result, last.found) == ("node", "FAIL", words)
    assert "--node NAME" in last.fix


def pods(*names: str, hosts: int = 0) -> tuple[int, Document]:
    own = [{"metadata": {"namespace": "shop", "name": name}, "spec": {}} for name in names]
    others = [
        {"metadata": {"namespace": "kube-system", "name": f"h{number}"}, "spec": {"hostNetwork": True}}
        for number in range(hosts)
    ]
    return 200, {"items": [*own, *others]}


FOLLOWING = {"agent": {"apiserver": {"synced": True, "resources": {}}}}
BEHIND = {"agent": {"apiserver": {"synced": False, "resources": {"Pod": {"trouble": "403"}, "Node": {"trouble": ""}}}}}


@pytest.mark.parametrize(
    ("there", "view", "result", "words"),
    [
        pytest.param(pods("web", "db"), FOLLOWING, "ok", "2 Pods of Node a; the agent knows all of them", id="all"),
        pytest.param(
            pods("web", "db", hosts=1), FOLLOWING, "ok", "3 Pods of Node a, 1 with the node's own network", id="hosts"
        ),
        pytest.param(
            pods("web", "db", "new"), FOLLOWING, "warn", "doesn't know 1 of them: shop/new", id="one that is new"
        ),
        pytest.param(pods("web"), FOLLOWING, "ok", "the agent knows all of them", id="one that is gone"),
        pytest.param(
            pods(*(f"p{number}" for number in range(9))), FOLLOWING, "warn", "shop/p4 and 4 more", id="many new ones"
        ),
        pytest.param(pods("web"), BEHIND, "warn", "hasn't synced yet: 403", id="before it has read all"),
        pytest.param(pods("web"), {**FOLLOWING, "node": "b"}, "warn", "is for Node b", id="of another node"),
        pytest.param(pods("web"), {"agent": {"files": {}}}, "ok", "reads a folder", id="from a folder"),
        pytest.param(pods("web"), None, "ok", "1 Pod of Node a; no agent runs here", id="no agent"),
    ],
)
def test_pods_of_this_node_are_compared_with_those_of_the_agent(
    script: Script, tmp_path: Path, *, there: tuple[int, Document], view: View | None, result: str, words: str
) -> None:
    script.answers["/api/v1/pods"] = there
    found = only(ask(script, tmp_path, Agent(view) if view is not None else None), "Pods")
    assert found.result == result
    assert words in found.found


def test_forbidden_nodes_and_pods_are_warnings(script: Script, tmp_path: Path) -> None:
    refused = (403, {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "no"})
    script.answers["/api/v1/pods"] = refused
    assert only(ask(script, tmp_path), "Pods").found == "can't be read: 403 Forbidden: no"
    script.answers["/api/v1/nodes/a"] = refused
    *_, last = ask(script, tmp_path)
    assert (last.name, last.result, last.found) == ("node", "warn", "Node a can't be read: 403 Forbidden: no")
