"""How long is waited: longer each time, as long as the server asks, and not all at once."""

from __future__ import annotations

import pytest

from nfagent.kube.backoff import AGENTS_PER_SECOND, Backoff, probe_pause, refresh_pause, window
from nfagent.kube.reflector_requests import WatchFailure

REFUSED = WatchFailure("refused", "")
BUSY = WatchFailure("busy", "")
EXPIRED = WatchFailure("expired", "")
AGAIN = WatchFailure("again", "")


@pytest.mark.parametrize(
    ("nodes", "seconds"), [(0, 1), (1, 1), (1000, 1), (5000, 5), (15_000, 15), (30_000, 30), (1_000_000, 30)]
)
def test_the_window_grows_with_the_cluster_up_to_half_a_minute(nodes: int, seconds: float) -> None:
    assert window(nodes) == seconds


@pytest.mark.parametrize("nodes", [1, 1000, 15_000, 30_000])
def test_no_more_than_a_thousand_agents_or_so_a_second_come_back_to_a_server(nodes: int) -> None:
    pauses = [probe_pause(nodes, jitter / nodes) for jitter in range(nodes)]
    width = max(pauses) - min(pauses) if nodes > 1 else 1
    assert nodes / width <= AGENTS_PER_SECOND * 4 / 3 + 2
    assert max(pauses) <= window(nodes)
    assert min(pauses) >= window(nodes) / 4


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_missing_kinds_are_looked_for_within_a_minute_and_not_more_than_twice(jitter: float) -> None:
    assert 30 <= refresh_pause(jitter) <= 50


def pauses(*setbacks: WatchFailure, jitter: float = 1.0, nodes: int = 10) -> list[float]:
    backoff = Backoff()
    return [backoff.pause(setback, nodes, jitter) for setback in setbacks]


WAITS: dict[str, tuple[list[WatchFailure], list[float]]] = {
    "a refusal waits longer from time to time": ([REFUSED] * 7, [0.5, 1, 2, 4, 8, 15, 15]),
    "a busy server is given more time": ([BUSY] * 7, [1, 2, 4, 8, 16, 30, 30]),
    "what is forgotten once is asked for at once": ([EXPIRED], [0]),
    "and not in a circle, in a small cluster every two seconds at most": ([EXPIRED] * 5, [0, 1, 2, 2, 2]),
    "to ask otherwise costs no wait": ([AGAIN, AGAIN, REFUSED], [0, 0, 0.5]),
    "the server's own figure is kept": ([WatchFailure("busy", "", 7.0)], [8]),
    "whatever came before": ([REFUSED, REFUSED, WatchFailure("busy", "", 7.0)], [0.5, 1, 8]),
    "but not for hours": ([WatchFailure("busy", "", 86_400.0)], [301]),
    "and not below nothing": ([WatchFailure("busy", "", -5.0)], [1]),
    "a thousand refusals are no overflow": ([REFUSED] * 3 + [REFUSED] * 2000, [0.5, 1, 2, 4, 8] + [15] * 1998),
}


@pytest.mark.parametrize(("setbacks", "expected"), WAITS.values(), ids=WAITS)
def test_the_longest_wait_that_can_be_drawn(setbacks: list[WatchFailure], expected: list[float]) -> None:
    assert pauses(*setbacks) == expected


@pytest.mark.parametrize("jitter", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("retry_after", [0.0, 1.0, 60.0])
@pytest.mark.parametrize("nodes", [1, 15_000])
def test_nobody_returns_before_the_server_asked_for(jitter: float, retry_after: float, nodes: int) -> None:
    (pause,) = pauses(WatchFailure("busy", "", retry_after), jitter=jitter, nodes=nodes)
    assert retry_after <= pause <= retry_after + window(nodes)


@pytest.mark.parametrize(
    "setback", [REFUSED, BUSY, WatchFailure("busy", "", 5.0)], ids=["refused", "busy", "retry-after"]
)
def test_two_agents_with_different_lots_wait_differently(setback: WatchFailure) -> None:
    few, many = pauses(setback, jitter=0.1), pauses(setback, jitter=0.9)
    assert 0 < few[0] < many[0]


@pytest.mark.parametrize(("nodes", "most"), [(1000, 0), (15_000, 15)])
def test_in_a_large_cluster_what_is_forgotten_for_all_is_not_listed_by_all_at_once(nodes: int, most: float) -> None:
    assert pauses(EXPIRED, jitter=1.0, nodes=nodes) == [most]
    assert pauses(EXPIRED, jitter=0.0, nodes=nodes) == [0]


def test_after_a_success_the_waits_are_short_again() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.pause(REFUSED, 10, 1.0)
    backoff.succeeded()
    assert backoff.pause(REFUSED, 10, 1.0) == 0.5
