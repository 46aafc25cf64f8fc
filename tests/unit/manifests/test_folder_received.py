"""A change of a folder has the time at which inotify reported it, before its file was read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

from nfagent.checkpoint.store import CheckpointStore
from nfagent.manifests.folder_source import FolderSource
from nfagent.model.gvk import ObjectChange

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"


class Sink:
    """Keeps, for each batch with changes, when its source was told and when it came."""

    def __init__(self) -> None:
        self.batches: list[tuple[float | None, float]] = []
        self.came = asyncio.Event()

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:
        if list(changes):
            self.batches.append((received, time.monotonic()))
            self.came.set()

    def on_synced(self) -> None:
        """Everything was read once."""


def test_a_change_has_the_time_of_its_event_and_the_first_reading_has_none(tmp_path: Path) -> None:
    async def body() -> None:
        (tmp_path / "first.yaml").write_text(NAMESPACE, encoding="utf-8")
        sink = Sink()
        source = FolderSource(tmp_path, sink, CheckpointStore(None, ""))
        await source.start()
        following = asyncio.create_task(source.run())
        try:
            sink.came.clear()
            async with asyncio.timeout(60):
                while len(sink.batches) < 2:  # inotify may not watch yet: write until it does
                    written = time.monotonic()
                    text = NAMESPACE.replace("shop", f"n{int(written)}")
                    (tmp_path / "second.yaml").write_text(text, encoding="utf-8")
                    await asyncio.wait([asyncio.ensure_future(sink.came.wait())], timeout=0.5)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await source.close()
        (first, _), (received, applied) = sink.batches[:2]
        assert first is None
        assert received is not None
        assert received < applied

    asyncio.run(body())
