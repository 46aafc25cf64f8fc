"""A kind that nfagent reads, under an API group that it doesn't know: the log and `check --manifests` say so once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from nfagent.checkpoint.store import CheckpointStore
from nfagent.cli.check_manifests import manifest_checks
from nfagent.config import load_settings
from nfagent.manifests.folder_source import FolderSource
from nfagent.model.gvk import ObjectChange

LOGGING = """\
apiVersion: nfagent.dev/v1
kind: NetworkLogging
metadata: {name: default}
spec: {cluster: {deny: {log: true}}}
"""
OTHERS = "apiVersion: crd.projectcalico.org/v1\nkind: NetworkPolicy\nmetadata: {name: x}\n"
IGNORED = (
    "logging.yaml: NetworkLogging: apiVersion 'nfagent.dev/v1': is of an API group that nfagent doesn't know, so the "
    "object is ignored; of this kind nfagent reads apiVersion networking.gke.io/v1alpha1"
)


class Sink:
    """Takes changes."""

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:  # noqa: ARG002 - of the protocol
        list(changes)

    def on_synced(self) -> None:
        """Nothing waits for it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "manifests"
    made.mkdir()
    (made / "logging.yaml").write_text(LOGGING, encoding="utf-8")
    (made / "others.yaml").write_text(OTHERS, encoding="utf-8")
    return made


def test_the_log_says_it_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        source = FolderSource(folder, Sink(), CheckpointStore(None, ""))
        await source.start()
        (folder / "again.yaml").write_text(LOGGING, encoding="utf-8")
        await source.reload()
        assert source.problems == ()
        await source.close()

    asyncio.run(body())
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [IGNORED]


def test_check_has_a_warning_with_the_file_to_edit(folder: Path) -> None:
    settings = load_settings(environment={}, flags={"manifests": str(folder), "node": "a"})
    found = [(item.found, item.fix) for item in manifest_checks(settings) if item.result == "warn"]
    assert found[0] == (IGNORED, f"edit {folder / 'logging.yaml'}")
    assert not any("projectcalico" in text for text, _ in found)
