"""Reads the metrics page of a running agent over its socket."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("agent", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def scraped(path: Path) -> dict[str, dict[Labels, float]]:
    """Return the values by the series' name and labels; path: of the agent's socket."""
    connection = _SocketConnection(path)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(answer.read().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    connection.close()
    return found
