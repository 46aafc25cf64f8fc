"""A client of the running agent, over its Unix socket (introspection.http_server)."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from nfagent.errors import HostError, UsageError

SLOW_SECONDS = 30.0
"""How long an answer may need that reads the kernel or the API server, or that is computed."""
_PROMPT_SECONDS = 10.0
"""How long one may need that the agent has at hand: its event loop is never held for long."""
_AGAIN_SECONDS = 1.0
_SILENT: set[Path] = set()
"""Agents that this process asked, and that didn't answer in time: they aren't waited for again."""
FILTERED = "Nfagent-Records"
"""The header of an answer to `GET /v1/records` that `filter`, `last` and `follow` were applied to."""


class NoAgentError(UsageError):
    """No agent listens at the socket."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float = SLOW_SECONDS) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        self.sock = _connected(self._path, self._seconds)


def is_listening(path: Path) -> bool:
    """Return whether an agent listens at a socket. Raises HostError where the socket can't be opened."""
    try:
        _connected(path).close()
    except NoAgentError:
        return False
    return True


def get_json(
    path: Path, route: str, parameters: Mapping[str, str], *, seconds: float = _PROMPT_SECONDS
) -> dict[str, Any]:
    """Return the agent's answer to a GET of the path `route`, such as `/v1/dump/state`.

    seconds: how long to wait for each part of the answer; a second where an earlier one didn't come in time
    Raises NoAgentError where no agent listens, UsageError for an error that the agent returns, HostError where it
    doesn't answer.
    """
    connection = _UnixConnection(path, min(seconds, _AGAIN_SECONDS) if path in _SILENT else seconds)
    try:
        connection.request("GET", f"{route}?{urlencode(parameters)}")
        response = connection.getresponse()
        body = response.read()
        _SILENT.discard(path)
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(path, error) from None
    finally:
        connection.close()
    return _answer(path, response.status, body)


def post_lines(path: Path, route: str, body: bytes) -> Iterator[bytes]:
    """Yield the lines of the agent's answer to a POST of `body`, as they arrive. Raises what `get_json` raises."""
    return _lines(path, "POST", route, body)


def get_lines(path: Path, route: str, parameters: Mapping[str, str] | None = None, header: str = "") -> Iterator[bytes]:
    """Yield the lines of the agent's answer to a GET, as they arrive. Raises what `get_json` raises.

    header: one that the answer has, where the agent knows the parameters: an older one ignores them
    """
    return _lines(path, "GET", f"{route}?{urlencode(parameters)}" if parameters else route, None, header)


def _lines(path: Path, method: str, route: str, body: bytes | None, header: str = "") -> Iterator[bytes]:
    connection = _UnixConnection(path)
    try:
        connection.request(method, route, body)
        response = connection.getresponse()
        if response.status == http.client.OK and header and header not in response.headers:
            raise _older()
        if response.status != http.client.OK:
            _answer(path, response.status, response.read())
            raise _no_answer(path, OSError(f"HTTP status {response.status}"))
        while line := response.readline():
            yield line
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(path, error) from None
    finally:
        connection.close()


def _connected(path: Path, seconds: float = SLOW_SECONDS) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    opened.settimeout(seconds)
    try:
        opened.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        opened.close()
        raise NoAgentError(f"no agent listens at {path}") from None
    except PermissionError:
        opened.close()
        raise HostError(
            f"{path}: only root may ask the agent", hint="use sudo, or read the manifests with --manifests DIR"
        ) from None
    except OSError as error:
        opened.close()
        raise _no_answer(path, error) from None
    return opened


def _older() -> UsageError:
    return UsageError("the running agent is older than this command", hint="systemctl restart nfagent")


def _no_answer(path: Path, error: Exception) -> HostError:
    reason = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        _SILENT.add(path)
    return HostError(f"the agent at {path} does not answer ({reason})", hint="see: systemctl status nfagent")


def _answer(path: Path, status: int, body: bytes) -> dict[str, Any]:
    if status == http.client.NOT_FOUND:
        raise _older()
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise HostError(f"{path}: unexpected answer (HTTP status {status})", hint="is it nfagent's socket?")
    if "error" in content and status != 200:
        raise UsageError(str(content["error"]))
    return content
