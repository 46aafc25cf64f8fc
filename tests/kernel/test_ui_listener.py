"""The live page as a real agent serves it, where `[ui] listen` asks for it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from nfagent.introspection.page.access import PageAccess
from nfagent.introspection.page.token_file import read_token
from nfagent.model.listen_address import ListenAddress
from tests.kernel.test_cli import CLUSTER
from tests.kernel.test_metrics import agent, folder, is_ok
from tests.support.agent_in_process import run_alone, write_manifests

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]
__all__ = ["folder"]
DEADLINE = 60.0
ADDRESS = ListenAddress("127.0.0.1", 9465)


def test_an_agent_serves_the_page_with_its_answers_and_keeps_the_token_over_restarts(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_manifests(folder, CLUSTER)
    monkeypatch.setenv("NFAGENT_UI_LISTEN", str(ADDRESS))

    async def body() -> None:
        tokens = []
        for _ in range(2):
            async with agent(folder) as scraper:
                await scraper.until("/readyz", is_ok)
                # The page is served a moment later; an answer without the token is a refusal.
                await scraper.until(f"http://{ADDRESS}/", lambda status, _: status > 0)
                tokens.append(await asyncio.to_thread(read_token, folder / "run"))
                await read_page(tokens[-1])
        assert tokens[0] == tokens[1]

    run_alone(body, DEADLINE)


async def read_page(token: str) -> None:
    """Enter with the token, and ask what the page asks for."""
    access = PageAccess(token, ADDRESS)
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        async with session.get(access.url) as page:
            assert page.status == 200
            assert "main.js" in await page.text()
        asked = f"http://{ADDRESS}{access.base}v1"
        for path in ("status", "dump/policies", "dump/counters", "records?follow=no"):
            async with session.get(f"{asked}/{path}") as answer:
                assert answer.status == 200, path
        async with session.get(f"{asked}/config") as refused:
            assert refused.status == 404


def test_without_the_setting_nothing_is_served_and_no_token_is_made(
    folder: Path,
) -> None:
    write_manifests(folder, CLUSTER)

    async def body() -> None:
        async with agent(folder) as scraper:
            await scraper.until("/readyz", is_ok)
            assert not (folder / "run" / "ui-token").exists()
            with pytest.raises(aiohttp.ClientConnectorError):
                await read_page("x" * 43)

    run_alone(body, DEADLINE)
