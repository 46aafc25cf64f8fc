"""HTTP requests to an agent's introspection socket, a Unix socket below its runtime directory."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from nfagent.errors import HostError, UsageError

_TIMEOUT_SECONDS = 30.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(_TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


def get(path: Path, target: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON object that the agent returns to `GET target?query`; path: its socket.

    Raises UsageError where no agent listens or the agent refuses the request, HostError for any other failure.
    """
    connection = _UnixConnection(path)
    try:
        connection.request("GET", f"{target}?{urlencode(query)}")
        response = connection.getresponse()
        content: dict[str, Any] = json.loads(response.read())
    except (FileNotFoundError, ConnectionRefusedError):
        raise UsageError(f"no agent listens at {path}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise HostError(f"the agent at {path} does not answer {target}: {reason}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise UsageError(str(content.get("error", f"HTTP status {response.status}")))
    return content
