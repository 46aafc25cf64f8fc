"""One node's view of a cluster over real HTTP: all of an agent between API server and kernel.

with Follower(plane, token, node) as follower:
    client.put(policy)
    follower.settle(client, [policy])
    follower.desired.cluster                  # what it has read
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from nfagent.clock import SystemClock
from nfagent.desired.state import DesiredState
from nfagent.kube.client import ApiClient
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.informers import Informers
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import LabApiClient
from nfagent.lab.cluster.agents_apiserver import served_state
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from tests.support.packet_labs import Document, holds_within

_SECONDS = 30.0
_PAUSE = 0.005


class HttpFollower:
    """Runs informers in a thread of its own (an EventSink). Read its state while nothing changes."""

    def __init__(self, plane: ControlPlane, token: str, node: str) -> None:
        self.desired = DesiredState(node)
        self.whole = threading.Event()
        """Set when every kind was listed once."""
        self._access = ClientConfig(
            server=plane.url, origin="test", ca_file=str(plane.ca_file), authorization=f"Bearer {token}"
        )
        self._selector = selectors.EpollSelector()
        self._thread = threading.Thread(target=self._work, name="follower", daemon=True)
        self._begun = threading.Event()

    def __enter__(self) -> Self:
        """Start, and return when every kind was listed once, or after half a minute."""
        self._thread.start()
        self._begun.wait(_SECONDS)
        self.whole.wait(_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def kinds(self) -> dict[str, dict[str, Any]]:
        """The status of each kind: phase, synced, version, objects, trouble."""
        found: dict[str, dict[str, Any]] = self._source.status()["apiserver"]["resources"]
        return found

    @property
    def problems(self) -> list[str]:
        """The current validation issues of objects."""
        return [str(problem) for problem in self._source.problems]

    def settle(self, client: LabApiClient, documents: Iterable[Document]) -> bool:
        """Wait for the server's objects of these documents' kinds; return whether they arrived."""
        kinds = sorted({(document["apiVersion"], document["kind"]) for document in documents})
        held = {kind: served_state(client, version, kind) for version, kind in kinds}

        def has_seen() -> bool:
            standing = self.kinds
            return all(
                standing[kind]["objects"] == objects and int(standing[kind]["version"] or 0) >= newest
                for kind, (objects, newest) in held.items()
                if kind in standing
            )

        return holds_within(has_seen)

    async def apply(self, changes: Iterable[Item | ObjectRef], received: float | None = None) -> None:  # noqa: ARG002 - of the protocol
        for change in changes:
            if isinstance(change, ObjectRef):
                self.desired.remove(change)
            else:
                self.desired.put(change)

    def on_synced(self) -> None:
        self.whole.set()

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(self._selector)) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._source = Informers(ApiClient(self._find), SystemClock(), self, self.desired.keys)
        await self._source.start()
        self._begun.set()
        following = asyncio.create_task(self._source.run())
        await self._stop.wait()
        following.cancel()
        await asyncio.wait([following])
        await self._source.close()
        # TLS says goodbye in its own time: until then the sockets, all but the loop's own, are open.
        end = self._loop.time() + _SECONDS
        while len(self._selector.get_map()) > 1 and self._loop.time() < end:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(_PAUSE)

    async def _find(self) -> ClientConfig:
        return self._access
