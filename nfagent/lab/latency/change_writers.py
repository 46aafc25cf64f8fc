"""Writes changes to an agent's source, a folder of manifests or an API server, and says when.

Times are seconds of time.monotonic().
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import msgspec

from nfagent.lab.apiserver.kube_client import LabApiClient
from nfagent.lab.apiserver.resources import MERGE
from nfagent.lab.apiserver.source import storable
from nfagent.lab.latency.scenarios import Write

_JSON = "application/json"


class WriteTimes(msgspec.Struct, frozen=True):
    """When a change was sent: just before its file is renamed or deleted, or the request to the API server is sent.

    returned: when the API server's response was read, which may be after the agent has been told; None for a file
    """

    sent: float
    returned: float | None = None


class ChangeWriter(Protocol):
    """Writes objects to a source."""

    def write(self, change: Write) -> WriteTimes:
        """Write or delete an object."""
        ...


class FolderWriter:
    """Writes files by renaming them into a folder, and deletes them."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder; a file is written beside it before it is renamed."""
        self._folder = folder
        self._beside = folder.with_name(f".{folder.name}-next.json")

    def write(self, change: Write) -> WriteTimes:
        """Rename a file into the folder, or delete one."""
        path = self._folder / change.name
        if change.deleted:
            sent = time.monotonic()
            path.unlink()
        else:
            self._beside.write_bytes(msgspec.json.encode(change.document))
            sent = time.monotonic()
            self._beside.rename(path)
        return WriteTimes(sent)


class ApiWriter:
    """Writes objects over one TLS connection that is kept."""

    def __init__(self, client: LabApiClient) -> None:
        """Keep the client of a user who may write everything."""
        self._client = client
        self._there: set[str] = set()

    def write(self, change: Write) -> WriteTimes:
        """Create, merge or delete an object. Raises ClusterError.

        A new Pod gets its addresses by a second request, as from a kubelet: that one is the change.
        """
        found = storable(change.document)
        path = self._client.path(found)
        status = found.get("status") if found["kind"] == "Pod" else None
        if change.deleted:
            self._there.discard(path)
            return self._ask("DELETE", path, {"gracePeriodSeconds": 0}, _JSON)
        if path in self._there:
            # A Pod's spec can't be changed.
            parts = ("metadata", "data") if found["kind"] == "Pod" else ("metadata", "data", "spec")
            return self._ask("PATCH", path, {key: found[key] for key in parts if key in found}, MERGE)
        self._there.add(path)
        body = {key: value for key, value in found.items() if key != "status"}
        created = self._ask("POST", path.rpartition("/")[0], body, _JSON)
        return self._ask("PATCH", f"{path}/status", {"status": status}, MERGE) if status else created

    def _ask(self, method: str, path: str, body: dict[str, object], content_type: str) -> WriteTimes:
        sent = time.monotonic()
        reply = self._client.ask(method, path, body, content_type=content_type)
        returned = time.monotonic()
        reply.document(f"{method} {path}")
        return WriteTimes(sent, returned)
