"""The agent's answers over its unix socket: what is asked, what comes back, who may ask."""

from __future__ import annotations

import asyncio
import io
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from nfagent.errors import HostError, KernelError, UsageError
from nfagent.explain.explanation import Explanation, explain
from nfagent.introspection import http_server
from nfagent.introspection.view_filter import ViewFilter
from nfagent.introspection.views import View
from nfagent.policy.evaluator import Flow
from nfagent.simulate.codec import MAX_REQUEST_BYTES, encode_request
from nfagent.simulate.job import SimulationPart, SimulationRequest, start_simulation
from nfagent.simulate.policy_files import PolicyFile, PolicyFiles
from nfagent.simulate.simulation import ObservedFlow, PolicySimulation
from tests.support.two_node_cluster import TwoNodeCluster, pod, policy

DEADLINE = 60.0
Answer = tuple[int, Any]


class Told:
    """Answers by the name of the view, and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ViewFilter]] = []
        self.view_of = TwoNodeCluster(pod("shop/web", "a", 10), pod("shop/db", "a", 20), policy("shop/all")).views["a"]

    async def view(self, name: str, scope: ViewFilter) -> View:
        self.asked.append((name, scope))
        match name:
            case "state":
                return {"node": "a", "note": "\N{GRINNING FACE}"}
            case "kernel":
                raise KernelError("netlink: Operation not permitted")
            case "ruleset":
                raise HostError("no libnftables; apt-get install python3-nftables")
        raise UsageError(f"there is no view {name!r}")

    async def explain(self, source: str, destination: str) -> Explanation:
        return explain(self.view_of.cluster, self.view_of.index, source, destination)

    def start_simulation(self, given: PolicyFiles, *, delete: bool) -> PolicySimulation:
        view = self.view_of
        return start_simulation(view.cluster, view.index, view.policy_options, given, delete=delete)


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[tuple[Told, Callable[..., Coroutine[Any, Any, Answer]]]]:
    told = Told()
    runner = await http_server.serve(path, told)
    try:
        connector = aiohttp.UnixConnector(str(path))
        async with asyncio.timeout(DEADLINE), aiohttp.ClientSession("http://agent", connector=connector) as session:

            async def ask(where: str, **query: str) -> Answer:
                async with session.get(where, params=query) as response:
                    is_json = response.content_type == "application/json"
                    return response.status, await (response.json() if is_json else response.text())

            yield told, ask
    finally:
        await runner.cleanup()


def answer(path: Path, where: str, **query: str) -> tuple[Answer, Told]:
    async def body() -> tuple[Answer, Told]:
        async with serving(path) as (told, ask):
            return await ask(where, **query), told

    return asyncio.run(body())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "nfagent" / "agent.sock"


def test_a_view_is_json(path: Path) -> None:
    found, told = answer(path, "/v1/dump/state")
    assert found == (200, {"node": "a", "note": "\N{GRINNING FACE}"})
    assert told.asked == [("state", ViewFilter())]


def test_namespace_and_pod_are_the_scope_of_a_view(path: Path) -> None:
    _, told = answer(path, "/v1/dump/state", namespace="shop", pod="shop/web")
    assert told.asked == [("state", ViewFilter("shop", "shop/web"))]


def test_an_explanation_has_its_verdict_and_its_words(path: Path) -> None:
    (status, found), _ = answer(path, "/v1/explain", source="shop/web", destination="shop/db:80/tcp")
    assert (status, found["allowed"], found["verdict"]) == (200, False, "denied")
    assert found["lines"][-1].startswith("to allow it: add an ingress rule to NetworkPolicy shop/all that allows ")


@pytest.mark.parametrize(
    ("where", "query", "status", "words"),
    [
        pytest.param("/v1/dump/none", {}, 400, "there is no view 'none'", id="an unknown view"),
        pytest.param("/v1/dump/%2e%2e", {}, 404, "", id="a path that goes up"),
        pytest.param("/v1/explain", {}, 400, "'' is neither NAMESPACE/POD nor an address", id="no question"),
        pytest.param(
            "/v1/explain",
            {"source": "shop/web", "destination": f"shop/db:{'9' * 5000}"},
            400,
            "is not a port number",
            id="a number without end",
        ),
        pytest.param("/v1/dump/kernel", {}, 503, "netlink: Operation not permitted", id="a kernel that refuses"),
        pytest.param("/v1/dump/ruleset", {}, 503, "no libnftables; apt-get", id="a machine that lacks something"),
    ],
)
def test_what_can_not_be_answered_says_why(
    path: Path, where: str, query: dict[str, str], status: int, words: str
) -> None:
    (found, content), _ = answer(path, where, **query)
    assert found == status
    assert words in (content["error"] if isinstance(content, dict) else content)


OPEN = PolicyFile(
    "open.yaml",
    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: all},"
    " spec: {ingress: [{ports: [{port: 80}]}]}}",
)


async def posted(path: Path, body: bytes) -> Answer:
    connector = aiohttp.UnixConnector(str(path))
    async with (
        asyncio.timeout(DEADLINE),
        aiohttp.ClientSession("http://agent", connector=connector) as session,
        session.post("/v1/try", data=io.BytesIO(body)) as response,
    ):
        return response.status, await response.read()


def tried(path: Path, body: bytes) -> Answer:
    async def ask() -> Answer:
        async with serving(path):
            return await posted(path, body)

    return asyncio.run(ask())


def test_a_trial_is_answered_line_by_line(path: Path) -> None:
    flows = [
        ObservedFlow(
            TwoNodeCluster(pod("shop/web", "a", 10), pod("shop/db", "a", 20)).flow("shop/web", "shop/db", "80/tcp"), 2
        )
    ]
    status, body = tried(path, encode_request(SimulationRequest((OPEN,)), flows))
    parts = [msgspec.json.decode(line, type=SimulationPart) for line in body.splitlines()]
    assert (status, parts[0].total) == (200, 1)
    assert [(change.source, change.after) for part in parts for change in part.changes] == [
        ("shop/web (10.64.0.10)", "allowed")
    ]
    assert [part.outcome is None for part in parts] == [True] * (len(parts) - 1) + [False]


def test_a_trial_may_be_about_many_flows(path: Path) -> None:
    flows = [
        ObservedFlow(Flow(f"198.51.{number >> 8}.{number & 255}", "2001:db8::1", "tcp", 80), 1)
        for number in range(20_000)
    ]
    body = encode_request(SimulationRequest((OPEN,)), flows)
    assert len(body) > 2**20
    status, answered = tried(path, body)
    last = msgspec.json.decode(answered.splitlines()[-1], type=SimulationPart)
    assert (status, last.done) == (200, len(flows))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not a simulation request"),
        (b"[]", "not a simulation request"),
        (encode_request(SimulationRequest(()), []), "the files hold no policy"),
        (
            encode_request(SimulationRequest((PolicyFile("x", OPEN.text.replace("all", "al")),), delete=True), []),
            "did you mean shop/all?",
        ),
        (encode_request(SimulationRequest((OPEN,)), []) + b"\n[1]", "not a simulation request"),
        (b"x" * (MAX_REQUEST_BYTES + 1), "more than 32 MiB of connections; narrow them with --since or -n NS"),
    ],
    ids=["nothing", "something else", "no policy", "nothing to remove", "no flows behind it", "too much"],
)
def test_a_trial_that_can_not_be_made_says_why(path: Path, body: bytes, words: str) -> None:
    status, content = tried(path, body)
    assert status == 400
    assert words in msgspec.json.decode(content)["error"]


def test_a_client_that_disconnects_leaves_no_error(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = TwoNodeCluster(pod("shop/web", "a", 10), pod("shop/db", "a", 20))
    body = encode_request(
        SimulationRequest((OPEN,)),
        [ObservedFlow(scene.flow("shop/web", "shop/db", f"{port}/tcp"), 1) for port in range(5000)],
    )
    head = f"POST /v1/try HTTP/1.1\r\nHost: agent\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def ask() -> Answer:
        async with serving(path):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(head + body)
            await reader.readline()
            writer.close()
            return await posted(path, encode_request(SimulationRequest((OPEN,)), []))

    assert asyncio.run(ask())[0] == 200
    assert [record.message for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_and_socket_are_for_root_alone_and_the_socket_goes_at_the_end(path: Path) -> None:
    async def body() -> None:
        async with serving(path):
            assert [mode(path), mode(path.parent)] == [0o600, 0o700]

    asyncio.run(body())
    assert list(path.parent.iterdir()) == []


def test_a_socket_that_a_crash_left_behind_is_replaced(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    (status, _), _ = answer(path, "/v1/dump/state")
    assert status == 200


@pytest.mark.parametrize("obstacle", ["a folder", "a file", "a file for its folder", "a path too long"])
def test_a_socket_that_can_not_be_made_says_what_to_set_and_spares_what_is_there(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / "agent.sock"
    match obstacle:
        case "a folder":
            path.mkdir()
        case "a file":
            path.write_text("mine")
        case "a file for its folder":
            path.write_text("mine")
            path /= "agent.sock"
        case "a path too long":
            path = tmp_path / ("x" * 108) / "agent.sock"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(HostError, match=r"cannot listen at .*; set another runtime_dir"):
        asyncio.run(http_server.serve(path, Told()))
    assert set(before) <= set(tmp_path.iterdir())
