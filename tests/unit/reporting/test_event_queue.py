"""Event queue: which notice is published when."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.objects import ObjectRef
from nfagent.reporting.event_queue import BURST, MAX_KEYS, RATE, SPREAD_SECONDS, EventQueue, QueuedEvent
from nfagent.reporting.notice import Notice, ObjectMeta

NODE = ObjectRef("Node", "", "n1")
HOUR = 3600


def about(name: str, message: str = "m", **fields: object) -> Notice:
    said = Notice(about=ObjectRef("NetworkPolicy", "shop", name), reason="FailsClosed", message=message)
    return msgspec.structs.replace(said, **fields)


class Leader:
    """The queue of a leader in simulated time, and what was published at which time."""

    def __init__(self, *, leading: bool = True) -> None:
        self.now = 0.0
        self.queue = EventQueue(0.0)
        self.queue.set_leading(leading=leading)
        self.published: list[tuple[float, str]] = []

    def replace(self, *notices: Notice, jitter: float = 0.0) -> None:
        self.queue.replace(notices, self.now, jitter)

    def passes(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            turn = self.queue.next_event(self.now)
            if isinstance(turn, QueuedEvent):
                self.published.append((self.now, turn.notice.message))
                self.queue.record(turn.notice, turn.count + 1, self.now)
            elif turn is None or self.now + turn > until:
                break
            else:
                assert turn > 0.0
                self.now += turn
        self.now = until

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.published]


def test_an_active_notice_is_published_at_once_then_after_ten_twenty_and_forty_minutes() -> None:
    leader = Leader()
    leader.replace(about("db"))
    leader.passes(2.5 * HOUR)
    assert [at / 60 for at in leader.times] == [0, 10, 30, 70, 110, 150]


def test_setting_the_same_notice_again_changes_nothing() -> None:
    leader = Leader()
    for _ in range(3 * HOUR // 30):
        leader.replace(about("db"))
        leader.passes(30)
    assert [at / 60 for at in leader.times] == [0, 10, 30, 70, 110, 150]


def test_a_fault_that_is_replaced_by_another_is_published_at_once_after_a_quiet_time() -> None:
    leader = Leader()
    leader.replace(about("db", "first"))
    leader.passes(60)
    leader.replace(about("db", "second"))
    leader.passes(1)
    assert leader.published == [(0, "first"), (60, "second")]


def test_of_several_quick_changes_the_newest_is_published_and_the_others_are_suppressed() -> None:
    leader = Leader()
    for number in range(5):
        leader.replace(about("db", f"fault {number}"))
        leader.passes(1)
    leader.passes(10)
    assert leader.published == [(0, "fault 0"), (10, "fault 4")]
    assert leader.queue.suppressed == 3


def test_a_flapping_notice_is_published_with_growing_intervals() -> None:
    leader = Leader()
    for _ in range(HOUR // 10):
        leader.replace(about("db"))
        leader.passes(5)
        leader.replace()
        leader.passes(5)
    gaps = [later - earlier for earlier, later in zip(leader.times, leader.times[1:], strict=False)]
    assert len(leader.published) < 15
    assert gaps == sorted(gaps)
    assert 600 <= max(gaps) <= 620


def test_a_notice_that_returns_after_a_quiet_time_is_published_at_once() -> None:
    leader = Leader()
    leader.replace(about("db"))
    leader.passes(1)
    leader.replace()
    leader.passes(HOUR)
    leader.replace(about("db"))
    leader.passes(1)
    assert leader.times == [0, HOUR + 1]


def test_flapping_that_ended_long_ago_delays_nothing() -> None:
    leader = Leader()
    for _ in range(30):
        leader.replace(about("db"))
        leader.passes(5)
        leader.replace()
        leader.passes(5)
    leader.replace(about("db"))
    leader.passes(2 * HOUR)
    published = len(leader.published)
    for number in range(2):
        leader.replace(about("db", f"fault {number}"))
        leader.passes(15)
    assert [message for _, message in leader.published[published:]] == ["fault 0", "fault 1"]


def test_a_once_notice_is_published_once() -> None:
    leader = Leader()
    leader.replace(about("db", once=True))
    leader.passes(10 * HOUR)
    leader.replace(about("db", "other", once=True))
    leader.passes(10 * HOUR)
    assert leader.published == [(0, "m"), (10 * HOUR, "other")]


def test_a_node_notice_is_delayed_by_jitter_and_needs_no_election() -> None:
    leader = Leader(leading=False)
    leader.replace(about("db"), about("", "node", about=NODE, scope="node"), jitter=0.5)
    leader.passes(60)
    assert leader.published == [(SPREAD_SECONDS / 2, "node")]
    assert leader.queue.suppressed == 0


def test_a_new_leader_publishes_active_notices_and_other_agents_suppress_nothing() -> None:
    leader = Leader(leading=False)
    for number in range(5):
        leader.replace(about("db", f"fault {number}"))
        leader.passes(1)
    leader.queue.set_leading(leading=True)
    leader.passes(1)
    assert leader.published == [(5, "fault 4")]
    assert leader.queue.suppressed == 0


def test_the_count_is_unknown_after_another_agent_was_leader() -> None:
    leader = Leader()
    leader.replace(about("db"))
    leader.queue.set_object_meta(about("db"), ObjectMeta("u"))
    leader.passes(1)
    leader.queue.set_leading(leading=False)
    leader.queue.set_leading(leading=True)
    leader.now = 600.0
    turn = leader.queue.next_event(leader.now)
    assert turn == QueuedEvent(about("db"), None, 0)


def test_object_metadata_are_kept_while_the_notice_is_active() -> None:
    leader = Leader()
    leader.replace(about("db"))
    leader.queue.set_object_meta(about("db"), ObjectMeta("u"))
    assert leader.queue.next_event(0.0) == QueuedEvent(about("db"), ObjectMeta("u"), 0)
    leader.replace(about("db", "other"))
    assert leader.queue.next_event(0.0) == QueuedEvent(about("db", "other"), None, 0)


def test_a_postponed_notice_is_retried_later_and_its_successor_sooner() -> None:
    leader = Leader()
    leader.replace(about("db"))
    leader.queue.postpone(about("db"), 0.0)
    assert leader.queue.next_event(0.0) == 600.0
    leader.replace(about("db", "other"))
    wait = leader.queue.next_event(0.0)
    assert isinstance(wait, float)
    assert wait <= SPREAD_SECONDS


def test_a_notice_that_changes_while_it_is_published_is_published_again() -> None:
    leader = Leader()
    leader.replace(about("db", "old"))
    turn = leader.queue.next_event(0.0)
    assert isinstance(turn, QueuedEvent)
    leader.replace(about("db", "new"))
    leader.queue.record(turn.notice, 1, 0.0)
    leader.passes(60)
    assert leader.published == [(10, "new")]


def test_notices_beyond_the_limit_are_counted_and_queued_when_others_end() -> None:
    leader = Leader()
    crowd = [about(f"p{number}") for number in range(MAX_KEYS + 5)]
    leader.replace(*crowd)
    assert (leader.queue.active, leader.queue.left_out) == (MAX_KEYS, 5)
    leader.replace(*crowd[5:])
    assert (leader.queue.active, leader.queue.left_out) == (MAX_KEYS, 0)


def test_keys_of_ended_notices_are_dropped_for_active_ones() -> None:
    leader = Leader()
    leader.replace(*(about(f"p{number}") for number in range(MAX_KEYS)))
    leader.passes(60)
    leader.replace(*(about(f"q{number}") for number in range(MAX_KEYS)))
    assert (leader.queue.active, leader.queue.left_out, leader.queue.tracked) == (MAX_KEYS, 0, MAX_KEYS)


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab"), st.booleans()), max_size=40),
            st.sampled_from([0.0, 1.0, 30.0, 700.0]),
        ),
        max_size=12,
    )
)
def test_the_rate_limit_holds_and_every_active_notice_is_published_in_the_end(
    history: list[tuple[list[tuple[int, str, bool]], float]],
) -> None:
    leader = Leader()
    last: dict[str, Notice] = {}
    for notices, pause in history:
        last = {f"p{number}": about(f"p{number}", f"{number}{text}", once=once) for number, text, once in notices}
        leader.replace(*last.values())
        leader.passes(pause)
    before = len(leader.published)
    leader.passes(2400)
    for start, at in enumerate(leader.times):
        spent = sum(at <= other < at + 60 for other in leader.times[start:])
        assert spent <= BURST + RATE * 60 + 1
    lately = {message for _, message in leader.published[before:]}
    ever = {message for _, message in leader.published}
    assert {one.message for one in last.values() if not one.once} <= lately
    assert {one.message for one in last.values()} <= ever
