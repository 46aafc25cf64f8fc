"""Asking the running agent, over its unix socket (introspection.http_server)."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from nfagent.errors import HostError, UsageError

_TIMEOUT_SECONDS = 30.0


class NoAgentError(UsageError):
    """Nobody listens where the agent would."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = _connected(self._path)


def listening(path: Path) -> bool:
    """Tell whether an agent listens at a socket. Raises MachineError where that can't be told."""
    try:
        _connected(path).close()
    except NoAgentError:
        return False
    return True


def ask(path: Path, question: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Give the agent's answer to a GET of `question`, such as `/v1/dump/state`.

    Raises NoAgentError where no agent listens, UsageError with the agent's own words, MachineError where it
    can't be spoken to.
    """
    connection = _UnixConnection(path)
    try:
        connection.request("GET", f"{question}?{urlencode(parameters)}")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise _silent(path, error) from None
    finally:
        connection.close()
    return _answer(path, response.status, body)


def ask_parts(path: Path, question: str, body: bytes) -> Iterator[bytes]:
    """Give the agent's answer to a POST of `body`, line by line, as it comes. Raises as `ask` does."""
    connection = _UnixConnection(path)
    try:
        connection.request("POST", question, body)
        response = connection.getresponse()
        if response.status == http.client.NOT_FOUND:
            raise UsageError("the running agent is older than this command; restart it: systemctl restart nfagent")
        if response.status != http.client.OK:
            _answer(path, response.status, response.read())
            raise _silent(path, OSError(f"HTTP status {response.status}"))
        while line := response.readline():
            yield line
    except (OSError, http.client.HTTPException) as error:
        raise _silent(path, error) from None
    finally:
        connection.close()


def _connected(path: Path) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    opened.settimeout(_TIMEOUT_SECONDS)
    try:
        opened.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        opened.close()
        raise NoAgentError(f"no agent listens at {path}") from None
    except PermissionError:
        opened.close()
        raise HostError(
            f"{path}: only root may ask the agent; use sudo, or read the manifests with --manifests DIR"
        ) from None
    except OSError as error:
        opened.close()
        raise _silent(path, error) from None
    return opened


def _silent(path: Path, error: Exception) -> HostError:
    reason = str(error) or type(error).__name__
    return HostError(f"the agent at {path} does not answer ({reason}); see: systemctl status nfagent")


def _answer(path: Path, status: int, body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise HostError(f"{path} answered something that is no agent's ({status}); is it nfagent's socket?")
    if "error" in content and status != 200:
        raise UsageError(str(content["error"]))
    return content
