"""When credentials are resolved again, and when not."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from nfagent.errors import ClusterError
from nfagent.kube.credential_cache import CredentialCache
from nfagent.kube.credentials import ClientConfig

START = 1_000_000.0


class World:
    """The resolved credentials, how often they were resolved, and the time."""

    def __init__(self, **fields: object) -> None:
        self.fields: dict[str, Any] = fields
        self.time = START
        self.times_found = 0
        self.tries: list[float] = []
        self.broken = ""
        self.cache = CredentialCache(self._find, lambda: self.time)

    async def _find(self) -> ClientConfig:
        await asyncio.sleep(0)
        self.tries.append(self.time)
        if self.broken:
            raise ClusterError(self.broken)
        self.times_found += 1
        return ClientConfig(
            server="https://api", origin="here", authorization=f"Bearer {self.times_found}", **self.fields
        )

    async def token(self) -> str:
        return self.value(await self.cache.access())

    def value(self, access: ClientConfig) -> str:
        return dict(self.cache.headers(access)).get("Authorization", "")


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_concurrent_callers_resolve_the_credentials_once() -> None:
    world = World()

    async def story() -> None:
        assert await asyncio.gather(*(world.token() for _ in range(12))) == ["Bearer 1"] * 12
        world.time += 1e6
        assert await world.token() == "Bearer 1"

    run(story())


@pytest.mark.parametrize(
    ("life", "after", "token"),
    [
        pytest.param(3600, 3539, "Bearer 1", id="not renewed more than a minute before expiry"),
        pytest.param(3600, 3541, "Bearer 2", id="renewed a minute before expiry"),
        pytest.param(60, 47, "Bearer 1", id="not renewed within four fifths of a short lifetime"),
        pytest.param(60, 49, "Bearer 2", id="renewed after four fifths of a short lifetime"),
        pytest.param(-10, 4, "Bearer 1", id="expired credentials are not renewed with every request"),
        pytest.param(-10, 6, "Bearer 2", id="expired credentials are renewed after a pause"),
    ],
)
def test_credentials_are_renewed_before_they_expire(life: float, after: float, token: str) -> None:
    world = World(expires=START + life)

    async def story() -> None:
        await world.token()
        world.time += after
        assert await world.token() == token

    run(story())


def test_credentials_that_can_not_be_renewed_are_used_until_they_expire(caplog: pytest.LogCaptureFixture) -> None:
    world = World(expires=START + 3600)

    async def story() -> None:
        await world.token()
        world.time, world.broken = START + 3550, "the plugin failed"
        assert await world.token() == "Bearer 1"
        assert world.cache.problem == "credential refresh failed: the plugin failed"
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            "credential refresh failed: the plugin failed; using cached credentials of here until they expire"
        ]
        world.time = START + 3601
        with pytest.raises(ClusterError, match="the plugin failed"):
            await world.token()
        world.broken = ""
        world.time += 21
        assert await world.token() == "Bearer 2", "20 s after the second failure"
        assert world.cache.problem == ""

    run(story())


def test_a_changed_source_file_resolves_the_credentials_again(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("one")
    world = World(sources=(str(file),))

    async def story() -> None:
        assert await world.token() == "Bearer 1"
        (tmp_path / "new").write_text("two")
        (tmp_path / "new").rename(file)
        assert await world.token() == "Bearer 1", "not at once: a change takes a moment to be whole"
        world.time += 6
        assert await world.token() == "Bearer 2"
        file.unlink()
        world.time, world.broken = world.time + 6, "no such file"
        assert await world.token() == "Bearer 2", "a file that is gone leaves what was read"

    run(story())


def test_credentials_that_stay_broken_are_tried_less_and_less_often_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "config"
    file.write_text("one")
    world = World(sources=(str(file),))

    async def story() -> None:
        await world.token()
        file.write_text("broken")
        world.broken = "not YAML"
        for _ in range(600):
            world.time += 1
            assert await world.token() == "Bearer 1"

    run(story())
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(world.tries[1:])]
    assert pauses[:4] == [10, 20, 40, 60]
    assert set(pauses[4:]) == {60}
    assert len([record for record in caplog.records if "not YAML" in record.getMessage()]) == 1


def test_a_file_that_was_mended_is_read_at_once_after_many_failures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "config"
    file.write_text("one")
    world = World(sources=(str(file),))

    async def story() -> None:
        await world.token()
        file.unlink()
        world.broken = "no such file"
        for _ in range(100):
            world.time += 5
            await world.token()
        world.time = world.tries[-1] + 6
        file.write_text("whole again")
        world.broken = ""
        assert await world.token() == "Bearer 2"

    run(story())
    assert caplog.messages[-1] == "credentials of here are refreshed again"


def test_credentials_that_are_refused_again_and_again_are_resolved_less_and_less_often() -> None:
    world = World()

    async def story() -> None:
        for _ in range(600):
            world.time += 1
            await world.cache.renewed(await world.cache.access())
        world.time += 3600
        seldom = len(world.tries)
        for _ in range(6):
            world.time += 1
            await world.cache.renewed(await world.cache.access())
        assert len(world.tries) - seldom == 2, "as after the first refusal"

    run(story())
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(world.tries[1:10])]
    assert pauses == [5, 10, 20, 40, 60, 60, 60, 60]


def test_concurrent_401s_resolve_the_credentials_once() -> None:
    world = World()

    async def story() -> None:
        access = await world.cache.access()
        renewed = await asyncio.gather(*(world.cache.renewed(access) for _ in range(12)))
        assert [world.value(found) for found in renewed if found is not None] == ["Bearer 2"] * 12
        second = renewed[0]
        assert second is not None
        assert await world.cache.renewed(second) is None, "it was tried just now"
        world.time += 6
        third = await world.cache.renewed(second)
        assert third is not None
        assert world.value(third) == "Bearer 3"

    run(story())


def test_a_token_file_is_read_for_every_request_and_the_last_token_stays_while_it_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "token"
    file.write_text("one\n")
    world = World(token_file=str(file), headers=(("Impersonate-User", "jane"),))

    async def story() -> None:
        assert await world.token() == "Bearer one"
        file.write_text("two")
        assert world.cache.headers(await world.cache.access()) == [
            ("Impersonate-User", "jane"),
            ("Authorization", "Bearer two"),
        ]
        file.unlink()
        assert world.cache.problem == ""
        for _ in range(2):
            assert await world.token() == "Bearer two"
            assert world.cache.problem == f"token {file}: No such file or directory; the last one that was read is used"
        file.write_text("")
        assert await world.token() == "Bearer two"
        assert world.cache.problem == f"token {file}: empty; the last one that was read is used"
        file.write_text("three")
        assert await world.token() == "Bearer three"
        assert (world.times_found, world.cache.problem) == (1, "")

    run(story())
    assert [message.partition(":")[2] for message in caplog.messages] == [
        " No such file or directory; the last one that was read is used",
        " empty; the last one that was read is used",
        "",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(None, "No such file or directory", id="a missing file"),
        pytest.param(b" \n", "empty", id="an empty file"),
        pytest.param(b"\xff", "not a token", id="a binary file"),
    ],
)
def test_a_token_file_without_a_token_is_an_error_where_there_is_no_other(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    world = World()
    access = ClientConfig(server="https://api", origin="here", token_file=str(file))
    with pytest.raises(ClusterError) as caught:
        world.cache.headers(access)
    assert str(caught.value) == f"{file}: {reason}; requests to https://api need a token (here)"
    kept = ClientConfig(server="https://api", origin="here", token_file=str(file), authorization="Bearer kept")
    assert world.cache.problem == "", "the request fails, and its sender says so"
    assert world.value(kept) == "Bearer kept", "the kubeconfig's own"
    assert world.cache.problem == f"token {file}: {reason}; that of here is used"


def test_without_credentials_there_is_no_header() -> None:
    assert World().cache.headers(ClientConfig(server="https://api", origin="here")) == []
