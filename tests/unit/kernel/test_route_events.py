"""Notifications of rtnetlink that can't be received: said once, tried again, and said when they are again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from nfagent.kernel import link_monitor, route_events
from nfagent.kernel.link_monitor import LinkMonitor, LinkQuery
from nfagent.kernel.route_events import LINKS, RouteEvents
from tests.support.full_selector import FullSelector, run_with

DEADLINE = 30.0
UNWATCHED = "cannot watch a netlink socket: No space left on device; see fs.epoll.max_user_watches"


def test_notifications_that_no_descriptor_is_left_for_are_a_problem_until_they_come(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(route_events, "_RETRY_SECONDS", 0.001)
    selector = FullSelector()

    async def body() -> None:
        looked = 0

        def changed() -> None:
            nonlocal looked
            looked += 1

        events = RouteEvents(LINKS, changed)
        selector.full = True
        running = asyncio.create_task(events.run())
        async with asyncio.timeout(DEADLINE):
            while looked < 3:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
            assert events.problem == UNWATCHED
            selector.full = False
            while events.problem:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_with(selector, body())
    assert caplog.messages == [f"{UNWATCHED}; retrying", f"resolved: {UNWATCHED}"]


def test_interfaces_that_are_read_and_cannot_be_followed_are_one_problem_that_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(link_monitor, "_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(link_monitor, "_PAUSE_SECONDS", 0.001)
    selector, asked = FullSelector(), list[LinkQuery]()

    def ask() -> LinkQuery:
        asked.append(LinkQuery(frozenset(), frozenset()))
        return asked[-1]

    async def body() -> None:
        monitor = LinkMonitor(ask, lambda _found: None)
        selector.full = True
        running = asyncio.create_task(monitor.run())
        async with asyncio.timeout(DEADLINE):
            while len(asked) < 5:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
            assert monitor.problem == UNWATCHED
            selector.full = False
            while monitor.problem:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_with(selector, body())
    said = [message for message in caplog.messages if "source addresses" not in message]
    assert said == [UNWATCHED, "resolved: interfaces and routes are read again"]
