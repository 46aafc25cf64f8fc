"""An agent in the test's own process: its folders, and the parts of it that are for a process of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nfagent.kernel import table_lock


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Give an agent folders of its own within one, and let it change neither the garbage collector nor the process."""
    for name in [name for name in os.environ if name.startswith("NFAGENT_")]:
        monkeypatch.delenv(name)
    folders = {"RUNTIME_DIR": "run", "LOG_DIR": "log", "STATE_DIR": "state", "MANIFESTS": "manifests"}
    for key, value in folders.items():
        monkeypatch.setenv(f"NFAGENT_{key}", str(folder / value))
    monkeypatch.setattr(table_lock, "LOCK_FOLDER", folder / "lock")
    for name in ("relax_collection", "collect_and_freeze", "exit_within"):
        monkeypatch.setattr(f"nfagent.agent.{name}", lambda: None)


def write_manifests(folder: Path, text: str) -> None:
    """Write the manifests that the agent reads at its start."""
    (folder / "manifests").mkdir()
    (folder / "manifests" / "cluster.yaml").write_text(text)


def run_alone(body: Callable[[], Awaitable[None]], deadline: float) -> None:
    """Run a coroutine function, after which no other task may be left."""

    async def checked() -> None:
        async with asyncio.timeout(deadline):
            await body()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(checked())
