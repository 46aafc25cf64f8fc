"""A FIFO, a device, a socket or a folder in place of a file is named; it is neither waited for nor read without end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.cli import COMMANDS
from tests.unit.cli.called import Call

PROGRAM = "import sys; from nfagent.cli import main; main(sys.argv[1:])"
KINDS = ("a FIFO", "a device", "a socket", "a folder")


@pytest.fixture(params=KINDS)
def unsuitable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Make what is no file; return its kind, and its path."""
    path = tmp_path / "no-file"
    with socket.socket(socket.AF_UNIX) as listening:
        match request.param:
            case "a FIFO":
                os.mkfifo(path)
            case "a socket":
                listening.bind(str(path))
            case "a folder":
                path.mkdir()
            case _:
                path.symlink_to("/dev/zero")
        yield request.param, path


def said_by(*arguments: str | Path) -> tuple[int, str]:
    """Return exit code and stderr of a command line in a process of its own: one that waits must not hold the test."""
    words = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(words, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr + done.stdout


@pytest.mark.parametrize("command", ["config", "status", "check", "bundle"])
def test_as_settings_file(unsuitable: tuple[str, Path], command: str) -> None:
    assert command in COMMANDS
    kind, path = unsuitable
    code, words = said_by(command, "--config", path)
    assert (code, "Traceback" in words) == (2, False)
    assert f"{path}: is {kind}; put a regular file there, or delete it" in words


def test_among_drop_in_files(unsuitable: tuple[str, Path], tmp_path: Path) -> None:
    kind, path = unsuitable
    settings = tmp_path / "settings.toml"
    settings.touch()
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "x.toml").symlink_to(path)
    code, words = said_by("config", "--config", settings)
    assert code == 2
    assert f"x.toml: is {kind}" in words


@pytest.mark.parametrize("key", ["kubeconfig", "certificate-authority", "tokenFile", "client-certificate"])
def test_as_file_of_credentials(unsuitable: tuple[str, Path], tmp_path: Path, key: str) -> None:
    kind, path = unsuitable
    kubeconfig = path
    if key != "kubeconfig":
        kubeconfig = tmp_path / "kubeconfig"
        cluster = f"certificate-authority: {path}, " if key == "certificate-authority" else ""
        user = f"{key}: {path}, client-key: {path}" if key == "client-certificate" else f"{key}: {path}"
        user = "token: a" if key == "certificate-authority" else user
        kubeconfig.write_text(
            f"clusters: [{{name: c, cluster: {{{cluster}server: 'https://127.0.0.1:9'}}}}]\n"
            f"users: [{{name: u, user: {{{user}}}}}]\n"
            "contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n"
        )
    code, words = said_by("check", "--cluster", "--kubeconfig", kubeconfig, "-o", "json")
    assert (code, "Traceback" in words) == (2, False)
    assert f"is {kind}" in words


@pytest.mark.parametrize(
    "arguments", [("logs", "--file"), ("lab", "report"), ("try", "--manifests", ".", "--node", "a", "-f")], ids=" ".join
)
def test_as_file_of_records_samples_or_policies(unsuitable: tuple[str, Path], arguments: tuple[str, ...]) -> None:
    kind, path = unsuitable
    if arguments[0] == "try" and kind in {"a FIFO", "a folder"}:
        pytest.skip("a shell makes FIFOs of <(command), which are read; a folder has files of policies")
    code, words = said_by(*arguments, path)
    assert (code, "Traceback" in words) == (2, False)
    assert str(path) in words


def test_the_empty_device_stands_for_no_settings(call: Call) -> None:
    assert call("config", "--config", "/dev/null", "-o", "json").code == 0


def test_policies_may_come_from_a_fifo(manifests: Path) -> None:
    named = "metadata: {namespace: shop, name: db}, spec: {podSelector: {}}"
    policy = f"{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, {named}}}"
    files = f"-f <(echo '{policy}') --manifests {manifests} --node node-a"
    line = f"{sys.executable} -c '{PROGRAM}' try --pods {files}"
    done = subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True, timeout=60)
    assert "would be denied" in done.stdout, done.stderr
