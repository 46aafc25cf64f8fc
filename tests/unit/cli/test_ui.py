"""nfagent ui: the address of the agent's page, or its own; what it refuses."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nfagent.config import load_settings
from nfagent.introspection.page.token_file import NAME, kept_token
from tests.support.page_agent import free_port
from tests.support.two_node_cluster import TwoNodeCluster, pod
from tests.unit.cli.agents import introspection, running
from tests.unit.cli.called import Call

pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.mark.parametrize("address", ["0.0.0.0:9465", "[::]:9465", "192.0.2.1:9465", "localhost:9465", "9465", "[::1]"])
def test_an_address_beside_loopback_is_refused_with_the_reason(call: Call, address: str) -> None:
    said = call("ui", "--address", address)
    assert (said.code, said.out) == (2, "")
    assert "127.0.0.1:946" in said.err or "is not an IP address" in said.err


def test_the_address_of_the_page_that_the_agent_serves_is_printed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFAGENT_UI_LISTEN", "127.0.0.1:9465")
    token = kept_token(load_settings().socket_path.parent)
    with running(introspection(TwoNodeCluster(pod("shop/web", "a", 10)).views["a"])):
        said = call("ui")
        call("dump", "policies")  # its answer shows that the agent has seen the connection before
    assert said == (0, f"http://127.0.0.1:9465/?token={token}\n", "")


def test_without_an_agent_that_serves_it_there_is_no_address(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFAGENT_UI_LISTEN", "127.0.0.1:9465")
    said = call("ui")
    assert said.code == 2
    assert "no agent listens at" in said.err


def test_an_agent_that_was_started_without_the_setting_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFAGENT_UI_LISTEN", "127.0.0.1:9465")
    with running(introspection(TwoNodeCluster(pod("shop/web", "a", 10)).views["a"])):
        said = call("ui")
        call("dump", "policies")  # as above
    assert said.code == 2
    assert f"{NAME}: No such file or directory: the running agent was started without [ui] listen" in said.err


def test_the_command_serves_the_page_until_it_is_interrupted(tmp_path: Path) -> None:
    with free_port() as port:
        command = [sys.executable, "-m", "nfagent", "ui", "--address", f"127.0.0.1:{port}"]
        environment = os.environ | {"NFAGENT_RUNTIME_DIR": str(tmp_path)}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert re.fullmatch(rf"http://127\.0\.0\.1:{port}/\?token=[A-Za-z0-9_-]{{43}}", url)
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            asked.request("GET", f"/?{urlsplit(url).query}")
            assert asked.getresponse().status == 303
            asked.close()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == f"warning: no agent listens at {tmp_path}/agent.sock: the page waits for it\n"


def test_a_port_that_is_taken_is_named(call: Call) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = call("ui", "--address", f"127.0.0.1:{port}")
    assert said.code == 2
    assert f"cannot serve the page at 127.0.0.1:{port}: Address already in use" in said.err
