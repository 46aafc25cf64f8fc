"""Pauses after failures: they double, respect Retry-After, and are spread over the agents."""

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
def test_about_a_thousand_agents_a_second_return_at_most(nodes: int) -> None:
    pauses = [probe_pause(nodes, jitter / nodes) for jitter in range(nodes)]
    width = max(pauses) - min(pauses) if nodes > 1 else 1
    assert nodes / width <= AGENTS_PER_SECOND * 4 / 3 + 2
    assert max(pauses) <= window(nodes)
    assert min(pauses) >= window(nodes) / 4


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_discovery_is_read_again_within_a_minute_and_at_most_twice(jitter: float) -> None:
    assert 30 <= refresh_pause(jitter) <= 50


def pauses(*failures: WatchFailure, jitter: float = 1.0, nodes: int = 10) -> list[float]:
    backoff = Backoff()
    return [backoff.pause(failure, nodes, jitter) for failure in failures]


WAITS: dict[str, tuple[list[WatchFailure], list[float]]] = {
    "refusals double the pause": ([REFUSED] * 7, [0.5, 1, 2, 4, 8, 15, 15]),
    "a busy server gets longer pauses": ([BUSY] * 7, [1, 2, 4, 8, 16, 30, 30]),
    "the first expired version is listed again at once": ([EXPIRED], [0]),
    "repeated expiry pauses, in a small cluster two seconds at most": ([EXPIRED] * 5, [0, 1, 2, 2, 2]),
    "a changed request needs no pause": ([AGAIN, AGAIN, REFUSED], [0, 0, 0.5]),
    "Retry-After is respected": ([WatchFailure("busy", "", 7.0)], [8]),
    "Retry-After replaces a doubled pause": ([REFUSED, REFUSED, WatchFailure("busy", "", 7.0)], [0.5, 1, 8]),
    "Retry-After is limited to five minutes": ([WatchFailure("busy", "", 86_400.0)], [301]),
    "a negative Retry-After counts as zero": ([WatchFailure("busy", "", -5.0)], [1]),
    "thousands of refusals do not overflow": ([REFUSED] * 3 + [REFUSED] * 2000, [0.5, 1, 2, 4, 8] + [15] * 1998),
}


@pytest.mark.parametrize(("failures", "expected"), WAITS.values(), ids=WAITS)
def test_the_longest_pauses(failures: list[WatchFailure], expected: list[float]) -> None:
    assert pauses(*failures) == expected


@pytest.mark.parametrize("jitter", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("retry_after", [0.0, 1.0, 60.0])
@pytest.mark.parametrize("nodes", [1, 15_000])
def test_no_agent_returns_before_retry_after(jitter: float, retry_after: float, nodes: int) -> None:
    (pause,) = pauses(WatchFailure("busy", "", retry_after), jitter=jitter, nodes=nodes)
    assert retry_after <= pause <= retry_after + window(nodes)


@pytest.mark.parametrize(
    "failure", [REFUSED, BUSY, WatchFailure("busy", "", 5.0)], ids=["refused", "busy", "retry-after"]
)
def test_agents_with_different_jitter_pause_differently(failure: WatchFailure) -> None:
    few, many = pauses(failure, jitter=0.1), pauses(failure, jitter=0.9)
    assert 0 < few[0] < many[0]


@pytest.mark.parametrize(("nodes", "most"), [(1000, 0), (15_000, 15)])
def test_in_a_large_cluster_the_lists_after_an_expiry_are_spread(nodes: int, most: float) -> None:
    assert pauses(EXPIRED, jitter=1.0, nodes=nodes) == [most]
    assert pauses(EXPIRED, jitter=0.0, nodes=nodes) == [0]


def test_a_success_resets_the_pauses() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.pause(REFUSED, 10, 1.0)
    backoff.succeeded()
    assert backoff.pause(REFUSED, 10, 1.0) == 0.5
