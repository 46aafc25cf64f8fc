"""Problems that were resolved, and those whose object was deleted; what the agent says that it waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nfagent.checkpoint.store import CheckpointStore
from nfagent.clock import SystemClock
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.state import DesiredState
from nfagent.manifests.folder_source import FolderSource
from nfagent.model.gvk import ObjectChange
from nfagent.model.objects import ObjectRef
from nfagent.own_log_parts import OwnLogParts
from nfagent.time_slices import TimeSlices
from tests.support.fake_nftables import FakeNftables

BAD = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: p}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: CIDR}}]}]}
"""


class NoMetrics:
    """Counts no issues."""

    def note_issues(self, came: object, went: object) -> None:
        """Do nothing."""


class Site:
    """A folder of manifests, the state that it leads to, and the log."""

    def __init__(self, folder: Path, source: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.desired = DesiredState("a")
        self.synced = False
        self.reconciler = Reconciler(FakeNftables(), SystemClock(), self.desired)  # type: ignore[arg-type]
        self.source = FolderSource(folder, self, CheckpointStore(None, ""))
        if source is not None:
            self.source.status = lambda: source  # type: ignore[method-assign]
        self.parts = OwnLogParts(
            self.desired,
            self.desired,
            SystemClock(),
            self.reconciler,
            lambda: self.source,
            time_slices=TimeSlices(),
            synced=lambda: self.synced,
        )

    async def apply(self, changes: Any, received: float | None = None) -> None:  # noqa: ANN401, ARG002 - of the protocol
        for change in changes:
            self._change(change)
        self.parts.applied(NoMetrics())  # type: ignore[arg-type]

    def _change(self, change: ObjectChange) -> None:
        if isinstance(change, ObjectRef):
            self.parts.changes.remove(change)
        else:
            self.parts.changes.put(change)

    def on_synced(self) -> None:
        self.synced = True
        self.parts.begin()

    def story(self, *texts: dict[str, str | None]) -> None:
        """Write files, None for one to delete, and read them, as a start and reloads."""

        async def follow() -> None:
            for number, files in enumerate(texts):
                for name, text in files.items():
                    path = self.folder / name
                    path.unlink(missing_ok=True)
                    if text is not None:
                        path.write_text(text)
                await (self.source.reload() if number else self.source.start())
            await self.source.close()

        asyncio.run(follow())


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "nfagent"):
        yield


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def levels(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(entry.levelname, entry.getMessage().split(":")[0]) for entry in caplog.records]


def test_a_problem_whose_object_can_be_read_again_is_resolved(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.story({"p.yaml": BAD.replace("CIDR", "x")}, {"p.yaml": BAD.replace("CIDR", "10.0.0.0/8")})
    assert levels(caplog) == [("WARNING", "p.yaml"), ("INFO", "resolved")]


def test_a_problem_whose_object_was_deleted_is_not_resolved(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.story({"p.yaml": BAD.replace("CIDR", "x")}, {"p.yaml": None})
    assert levels(caplog) == [("WARNING", "p.yaml"), ("INFO", "gone, for it was deleted")]


def test_a_problem_that_another_of_the_same_field_replaces_is_not_resolved(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.story({"p.yaml": BAD.replace("CIDR", "x")}, {"p.yaml": BAD.replace("CIDR", "y")})
    assert levels(caplog) == [("WARNING", "p.yaml"), ("WARNING", "p.yaml")]


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (None, [("INFO", "gone, for it was deleted")]),
        ("# nothing\n", [("INFO", "resolved")]),
        ("b: [\n", [("WARNING", "p.yaml")]),
    ],
    ids=["deleted", "readable", "unreadable otherwise"],
)
def test_a_file_that_could_not_be_read_is_told_from_one_that_is_gone(
    site: Site, caplog: pytest.LogCaptureFixture, then: str | None, said: list[tuple[str, str]]
) -> None:
    site.story({"p.yaml": "a: [1\nb: }"}, {"p.yaml": then})
    assert levels(caplog)[1:] == said


def test_a_reload_says_what_it_found(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.story({"p.yaml": BAD.replace("CIDR", "10.0.0.0/8")})
    site.parts.begin_reload()
    site.parts.reloaded()
    site.story({}, {"p.yaml": None})
    site.parts.reloaded()
    assert caplog.messages == [
        "reload: no object has changed",
        "reload: changed objects: 1 NetworkPolicy deleted",
    ]


def resource(*, synced: bool = True, trouble: str = "", phase: str = "watching") -> dict[str, Any]:
    return {"synced": synced, "trouble": trouble, "phase": phase}


def following(server: str = "https://k, by kc", **resources: dict[str, Any]) -> dict[str, Any]:
    return {"apiserver": {"server": server, "synced": True, "resources": resources}}


@pytest.mark.parametrize(
    ("source", "synced", "said"),
    [
        ({"files": {}}, False, "the manifests to be read"),
        ({"files": {}}, True, ""),
        (following(""), False, "the credentials of the API server"),
        (
            following(Pod=resource(synced=False, trouble="refused"), Node=resource()),
            False,
            "API server https://k, by kc: not read yet: Pod: refused",
        ),
        (
            following(Pod=resource(trouble="refused"), Node=resource(trouble="refused"), Service=resource()),
            True,
            "API server https://k, by kc: not followed: Pod, Node: refused",
        ),
        (following(Pod=resource(trouble="only v2 is served", phase="missing")), True, ""),
    ],
    ids=["a folder", "nothing", "credentials", "a list", "watches", "a kind that isn't served"],
)
def test_what_the_source_waits_for_is_named(tmp_path: Path, source: dict[str, Any], said: str, *, synced: bool) -> None:
    site = Site(tmp_path, source)
    site.synced = synced
    assert site.parts.waiting_for() == said


def test_a_kernel_that_refuses_and_a_table_that_is_held_are_waited_for(site: Site) -> None:
    site.synced = True
    site.reconciler.status.last_error = "EBUSY"
    assert site.parts.waiting_for() == "the kernel to accept the rules: EBUSY"
    site.reconciler.status.held = "there is no Node a"
    assert site.parts.waiting_for() == "an end of this: there is no Node a"
