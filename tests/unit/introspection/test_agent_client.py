"""The client of the agent's socket: against the real server, and against other servers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from nfagent.cli.backends import AgentBackend
from nfagent.errors import HostError, KernelError, UsageError
from nfagent.explain.explanation import Explanation, explain
from nfagent.introspection.agent_client import NoAgentError, get_json, is_listening, post_lines
from nfagent.introspection.view_filter import ViewFilter
from nfagent.introspection.views import View
from nfagent.policy.options import PolicyOptions
from nfagent.simulate.codec import encode_request
from nfagent.simulate.job import SimulationPart, SimulationRequest, start_simulation
from nfagent.simulate.policy_files import PolicyFile, PolicyFiles
from nfagent.simulate.simulation import PolicySimulation
from nfagent.state.cluster import ClusterState
from nfagent.state.policy_index import PolicyIndex
from tests.unit.cli.agents import running


class Echo:
    """A fake agent that returns the request."""

    async def view(self, name: str, scope: ViewFilter) -> View:
        if name == "broken":
            raise KernelError("the kernel said no")
        return {"name": name, "namespace": scope.namespace, "pod": scope.pod}

    async def explain(self, source: str, destination: str) -> Explanation:
        cluster = ClusterState("node-a")
        return explain(cluster, PolicyIndex(cluster), source, destination)

    def start_simulation(self, given: PolicyFiles, *, delete: bool) -> PolicySimulation:
        cluster = ClusterState("node-a")
        return start_simulation(cluster, PolicyIndex(cluster), PolicyOptions(), given, delete=delete)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


def test_request_and_answer_arrive_complete(path: Path) -> None:
    with running(Echo(), path):
        assert is_listening(path)
        assert get_json(path, "/v1/dump/state", {"namespace": "a&b=c", "pod": "ä/ö"}) == {
            "name": "state",
            "namespace": "a&b=c",
            "pod": "ä/ö",
        }


@pytest.mark.parametrize(
    ("question", "parameters", "words"),
    [
        ("/v1/explain", {"source": "shop/web", "destination": "10.0.0.1"}, "there is no Pod shop/web"),
        ("/v1/dump/broken", {}, "the kernel said no"),
    ],
    ids=["a Pod that isn't there", "a kernel that refuses"],
)
def test_the_error_of_the_agent_is_raised_with_its_message(
    path: Path, question: str, parameters: dict[str, str], words: str
) -> None:
    with running(Echo(), path), pytest.raises(UsageError, match=words):
        get_json(path, question, parameters)


WALL = PolicyFile(
    "wall.yaml",
    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: wall}, spec: {}}",
)


def test_an_agent_that_did_not_answer_in_time_is_not_waited_for_again_and_is_heard_once_it_does(path: Path) -> None:
    """A command that asks several times, as check does, isn't held by each question."""
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(str(path))
        stopped.listen()
        with pytest.raises(HostError, match=r"does not answer \(timed out\); see: systemctl status nfagent"):
            get_json(path, "/v1/status", {}, seconds=0.1)
        began = time.monotonic()
        with pytest.raises(HostError, match="does not answer"):
            get_json(path, "/v1/status", {}, seconds=60)
        assert time.monotonic() - began < 30
    path.unlink()
    with running(Echo(), path):
        assert get_json(path, "/v1/dump/state", {})["name"] == "state"


def test_a_streamed_answer_arrives_line_by_line(path: Path) -> None:
    with running(Echo(), path):
        lines = list(post_lines(path, "/v1/try", encode_request(SimulationRequest((WALL,)), [])))
    parts = [msgspec.json.decode(line, type=SimulationPart) for line in lines]
    assert parts[-1].outcome is not None
    assert parts[-1].outcome.policies == ("NetworkPolicy shop/wall",)


@pytest.mark.parametrize(
    ("where", "body", "words"),
    [
        (
            "/v1/try",
            encode_request(SimulationRequest((WALL,), delete=True), []),
            "there is no NetworkPolicy shop/wall to remove",
        ),
        ("/v1/later", b"", "the running agent is older than this command; systemctl restart nfagent"),
    ],
    ids=["a policy that isn't there", "an agent that doesn't know the question"],
)
def test_a_refused_request_raises_instead_of_streaming(path: Path, where: str, body: bytes, words: str) -> None:
    with running(Echo(), path), pytest.raises(UsageError, match=words):
        list(post_lines(path, where, body))


def test_without_a_socket_no_agent_listens(path: Path) -> None:
    assert not is_listening(path)
    with pytest.raises(NoAgentError, match=str(path)):
        get_json(path, "/v1/dump/state", {})


def test_behind_a_stale_socket_no_agent_listens(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert not is_listening(path)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nno json",
        b"HTTP/1.0 200 OK\r\n\r\n[1]",
        b"HTTP/1.0 500 No\r\n\r\n\xff",
        b"HTTP/1.0 200 OK\r\n\r\n" + b'{"a":' * 100_000,
        b'HTTP/1.0 200 OK\r\n\r\n{"complete": true}',
    ],
    ids=["hangs up", "no HTTP", "no JSON", "no object", "no text", "too deep", "another object"],
)
@pytest.mark.parametrize(
    "question_of",
    [
        lambda path: AgentBackend(path).explain("shop/web", "shop/db:80/tcp"),
        lambda path: list(AgentBackend(path).simulate(SimulationRequest((WALL,)), [])),
    ],
    ids=["an explanation", "a trial"],
)
def test_another_server_at_the_socket_is_an_error(
    path: Path, reply: bytes, question_of: Callable[[Path], object]
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with pytest.raises(HostError, match=rf"{path}|another format than this command reads"):
                question_of(path)
        finally:
            thread.join()
