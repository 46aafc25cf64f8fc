"""Asking an agent over its unix socket: the real server, and sockets that are something else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfagent.cli.client import NoAgentError, ask, listening
from nfagent.cluster.state import ClusterState
from nfagent.edge import api
from nfagent.errors import KernelError, MachineError, UsageError
from nfagent.policy.explain import Explanation, explain
from nfagent.policy.index import PolicyIndex
from nfagent.ruleset.views import Scope, View


class Echo:
    """Answers with the question; stands for an agent."""

    async def view(self, name: str, scope: Scope) -> View:
        if name == "broken":
            raise KernelError("the kernel said no")
        return {"name": name, "namespace": scope.namespace, "pod": scope.pod}

    def explain(self, source: str, destination: str) -> Explanation:
        cluster = ClusterState("node-a")
        return explain(cluster, PolicyIndex(cluster), source, destination)


@contextmanager
def served(path: Path) -> Iterator[None]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        runner = asyncio.run_coroutine_threadsafe(api.serve(path, Echo()), loop).result(30)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


def test_an_answer_comes_whole_and_the_question_arrives_whole(path: Path) -> None:
    with served(path):
        assert listening(path)
        assert ask(path, "/v1/dump/state", {"namespace": "a&b=c", "pod": "ä/ö"}) == {
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
def test_what_the_agent_refuses_is_said_in_its_own_words(
    path: Path, question: str, parameters: dict[str, str], words: str
) -> None:
    with served(path), pytest.raises(UsageError, match=words):
        ask(path, question, parameters)


def test_without_a_socket_there_is_no_agent(path: Path) -> None:
    assert not listening(path)
    with pytest.raises(NoAgentError, match=str(path)):
        ask(path, "/v1/dump/state", {})


def test_a_socket_left_behind_is_no_agent(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert not listening(path)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nno json",
        b"HTTP/1.0 200 OK\r\n\r\n[1]",
        b"HTTP/1.0 500 No\r\n\r\n\xff",
    ],
    ids=["hangs up", "no HTTP", "no JSON", "no object", "no text"],
)
def test_something_else_at_the_socket_is_an_error_and_no_crash(path: Path, reply: bytes) -> None:
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
            with pytest.raises(MachineError, match=str(path)):
                ask(path, "/v1/dump/state", {})
        finally:
            thread.join()
