"""Credentials that stay fresh: when they are found anew, and when not."""

from __future__ import annotations

import asyncio
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
    """What is found, how often, and what time it is."""

    def __init__(self, **fields: object) -> None:
        self.fields: dict[str, Any] = fields
        self.time = START
        self.times_found = 0
        self.broken = ""
        self.wallet = CredentialCache(self._find, lambda: self.time)

    async def _find(self) -> ClientConfig:
        await asyncio.sleep(0)
        if self.broken:
            raise ClusterError(self.broken)
        self.times_found += 1
        return ClientConfig(
            server="https://api", origin="here", authorization=f"Bearer {self.times_found}", **self.fields
        )

    async def token(self) -> str:
        return self.value(await self.wallet.access())

    def value(self, access: ClientConfig) -> str:
        return dict(self.wallet.headers(access)).get("Authorization", "")


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_it_is_found_once_also_when_many_ask_at_once() -> None:
    world = World()

    async def story() -> None:
        assert await asyncio.gather(*(world.token() for _ in range(12))) == ["Bearer 1"] * 12
        world.time += 1e6
        assert await world.token() == "Bearer 1"

    run(story())


@pytest.mark.parametrize(
    ("life", "after", "token"),
    [
        pytest.param(3600, 3539, "Bearer 1", id="more than a minute before the end the old one is good"),
        pytest.param(3600, 3541, "Bearer 2", id="a minute before the end there is a new one"),
        pytest.param(60, 47, "Bearer 1", id="of a short life four fifths are used"),
        pytest.param(60, 49, "Bearer 2", id="and then there is a new one"),
        pytest.param(-10, 4, "Bearer 1", id="one that is over when it comes isn't asked for with every request"),
        pytest.param(-10, 6, "Bearer 2", id="but again after a while"),
    ],
)
def test_what_expires_is_found_anew_before_it_does(life: float, after: float, token: str) -> None:
    world = World(expires=START + life)

    async def story() -> None:
        await world.token()
        world.time += after
        assert await world.token() == token

    run(story())


def test_what_cant_be_renewed_is_used_until_its_end(caplog: pytest.LogCaptureFixture) -> None:
    world = World(expires=START + 3600)

    async def story() -> None:
        await world.token()
        world.time, world.broken = START + 3550, "the plugin failed"
        assert await world.token() == "Bearer 1"
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            "credentials are not renewed: the plugin failed; the old ones (here) stay"
        ]
        world.time = START + 3601
        with pytest.raises(ClusterError, match="the plugin failed"):
            await world.token()
        world.broken = ""
        world.time += 6
        assert await world.token() == "Bearer 2"

    run(story())


def test_a_source_that_changes_is_read_anew(tmp_path: Path) -> None:
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


def test_a_refusal_has_it_found_anew_once_for_all_that_were_refused() -> None:
    world = World()

    async def story() -> None:
        access = await world.wallet.access()
        renewed = await asyncio.gather(*(world.wallet.renewed(access) for _ in range(12)))
        assert [world.value(found) for found in renewed if found is not None] == ["Bearer 2"] * 12
        second = renewed[0]
        assert second is not None
        assert await world.wallet.renewed(second) is None, "it was tried just now"
        world.time += 6
        third = await world.wallet.renewed(second)
        assert third is not None
        assert world.value(third) == "Bearer 3"

    run(story())


def test_a_token_file_is_read_for_every_request_and_the_last_token_stays_while_it_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    world = World(token_file=str(file), headers=(("Impersonate-User", "jane"),))

    async def story() -> None:
        assert await world.token() == "Bearer one"
        file.write_text("two")
        assert world.wallet.headers(await world.wallet.access()) == [
            ("Impersonate-User", "jane"),
            ("Authorization", "Bearer two"),
        ]
        file.unlink()
        assert await world.token() == "Bearer two"
        file.write_text("")
        assert await world.token() == "Bearer two"
        assert world.times_found == 1

    run(story())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(None, "No such file or directory", id="it isn't there"),
        pytest.param(b" \n", "is empty", id="it is empty"),
        pytest.param(b"\xff", "is no token", id="it is no text"),
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
        world.wallet.headers(access)
    assert caught.value.reason == f"{file}: {reason}: without a token https://api can't be asked (here)"
    assert caught.value.hint == f"write a token to {file}"
    kept = ClientConfig(server="https://api", origin="here", token_file=str(file), authorization="Bearer kept")
    assert world.value(kept) == "Bearer kept", "the kubeconfig's own"


def test_without_credentials_there_is_no_header() -> None:
    assert World().wallet.headers(ClientConfig(server="https://api", origin="here")) == []
