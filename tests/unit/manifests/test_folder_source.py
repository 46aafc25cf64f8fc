"""What the source of a folder says while it can't be read for the first time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from nfagent.checkpoint.store import CheckpointStore
from nfagent.manifests.folder_source import FolderSource
from nfagent.model.gvk import ObjectChange

DEADLINE = 30.0


class Sink:
    """Notes that everything was read."""

    def __init__(self) -> None:
        self.synced = False

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:
        assert (list(changes), received) == ([], None)

    def on_synced(self) -> None:
        self.synced = True


def test_why_a_folder_cannot_be_read_at_the_start_is_its_trouble_until_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "manifests"
    folder.symlink_to("x" * 300)

    async def body() -> None:
        sink = Sink()
        source = FolderSource(folder, sink, CheckpointStore(None, ""))
        assert source.trouble == ""
        starting = asyncio.create_task(source.start())
        async with asyncio.timeout(DEADLINE):
            while not source.trouble:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
            assert (source.trouble, sink.synced) == (f"{folder} can't be read: File name too long", False)
            folder.unlink()
            folder.mkdir()
            await starting
        assert (source.trouble, sink.synced) == ("", True)
        await source.close()

    asyncio.run(body())
    assert caplog.messages == [f"{folder} can't be read: File name too long; retrying"]
