"""Which statement is said when."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.objects import ObjectRef
from nfagent.reporting.event_queue import BURST, MOST_TOPICS, RATE, SPREAD_SECONDS, EventQueue, QueuedEvent
from nfagent.reporting.notice import ExistingEvent, Notice

NODE = ObjectRef("Node", "", "n1")
HOUR = 3600


def about(name: str, message: str = "m", **fields: object) -> Notice:
    said = Notice(about=ObjectRef("NetworkPolicy", "shop", name), reason="FailsClosed", message=message)
    return msgspec.structs.replace(said, **fields)


class Life:
    """A leader's ledger, second by second; what was said, and when."""

    def __init__(self, *, leading: bool = True) -> None:
        self.now = 0.0
        self.ledger = EventQueue(0.0)
        self.ledger.lead(leading=leading)
        self.said: list[tuple[float, str]] = []

    def hold(self, *statements: Notice, lot: float = 0.0) -> None:
        self.ledger.hold(statements, self.now, lot)

    def passes(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            turn = self.ledger.next(self.now)
            if isinstance(turn, QueuedEvent):
                self.said.append((self.now, turn.statement.message))
                self.ledger.said(turn.statement, turn.count + 1, self.now)
            elif turn is None or self.now + turn > until:
                break
            else:
                assert turn > 0.0
                self.now += turn
        self.now = until

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.said]


def test_what_holds_is_said_at_once_then_after_ten_twenty_and_forty_minutes() -> None:
    life = Life()
    life.hold(about("db"))
    life.passes(2.5 * HOUR)
    assert [at / 60 for at in life.times] == [0, 10, 30, 70, 110, 150]


def test_holding_the_same_again_changes_nothing() -> None:
    life = Life()
    for _ in range(3 * HOUR // 30):
        life.hold(about("db"))
        life.passes(30)
    assert [at / 60 for at in life.times] == [0, 10, 30, 70, 110, 150]


def test_a_fault_that_is_mended_to_another_one_is_told_at_once_after_a_quiet_time() -> None:
    life = Life()
    life.hold(about("db", "first"))
    life.passes(60)
    life.hold(about("db", "second"))
    life.passes(1)
    assert life.said == [(0, "first"), (60, "second")]


def test_of_what_changes_quickly_the_newest_is_said_and_the_rest_is_counted() -> None:
    life = Life()
    for number in range(5):
        life.hold(about("db", f"fault {number}"))
        life.passes(1)
    life.passes(10)
    assert life.said == [(0, "fault 0"), (10, "fault 4")]
    assert life.ledger.suppressed == 3


def test_what_comes_and_goes_is_said_ever_more_rarely() -> None:
    life = Life()
    for _ in range(HOUR // 10):
        life.hold(about("db"))
        life.passes(5)
        life.hold()
        life.passes(5)
    gaps = [later - earlier for earlier, later in zip(life.times, life.times[1:], strict=False)]
    assert len(life.said) < 15
    assert gaps == sorted(gaps)
    assert 600 <= max(gaps) <= 620


def test_what_comes_back_after_a_quiet_time_is_said_at_once() -> None:
    life = Life()
    life.hold(about("db"))
    life.passes(1)
    life.hold()
    life.passes(HOUR)
    life.hold(about("db"))
    life.passes(1)
    assert life.times == [0, HOUR + 1]


def test_what_came_and_went_long_ago_makes_nobody_wait() -> None:
    life = Life()
    for _ in range(30):
        life.hold(about("db"))
        life.passes(5)
        life.hold()
        life.passes(5)
    life.hold(about("db"))
    life.passes(2 * HOUR)
    said = len(life.said)
    for number in range(2):
        life.hold(about("db", f"fault {number}"))
        life.passes(15)
    assert [message for _, message in life.said[said:]] == ["fault 0", "fault 1"]


def test_news_is_said_once() -> None:
    life = Life()
    life.hold(about("db", once=True))
    life.passes(10 * HOUR)
    life.hold(about("db", "other", once=True))
    life.passes(10 * HOUR)
    assert life.said == [(0, "m"), (10 * HOUR, "other")]


def test_a_node_statement_waits_for_its_lot_and_needs_no_election() -> None:
    life = Life(leading=False)
    life.hold(about("db"), about("", "node", about=NODE, scope="node"), lot=0.5)
    life.passes(60)
    assert life.said == [(SPREAD_SECONDS / 2, "node")]
    assert life.ledger.suppressed == 0


def test_who_is_elected_says_what_holds_and_who_is_not_counts_nothing() -> None:
    life = Life(leading=False)
    for number in range(5):
        life.hold(about("db", f"fault {number}"))
        life.passes(1)
    life.ledger.lead(leading=True)
    life.passes(1)
    assert life.said == [(5, "fault 4")]
    assert life.ledger.suppressed == 0


def test_how_often_others_said_it_meanwhile_is_not_known() -> None:
    life = Life()
    life.hold(about("db"))
    life.ledger.learned(about("db"), ExistingEvent("u"))
    life.passes(1)
    life.ledger.lead(leading=False)
    life.ledger.lead(leading=True)
    life.now = 600.0
    turn = life.ledger.next(life.now)
    assert turn == QueuedEvent(about("db"), None, 0)


def test_what_was_learned_of_an_object_is_kept_while_the_statement_holds() -> None:
    life = Life()
    life.hold(about("db"))
    life.ledger.learned(about("db"), ExistingEvent("u"))
    assert life.ledger.next(0.0) == QueuedEvent(about("db"), ExistingEvent("u"), 0)
    life.hold(about("db", "other"))
    assert life.ledger.next(0.0) == QueuedEvent(about("db", "other"), None, 0)


def test_a_statement_put_off_comes_again_later_and_its_successor_sooner() -> None:
    life = Life()
    life.hold(about("db"))
    life.ledger.put_off(about("db"), 0.0)
    assert life.ledger.next(0.0) == 600.0
    life.hold(about("db", "other"))
    wait = life.ledger.next(0.0)
    assert isinstance(wait, float)
    assert wait <= SPREAD_SECONDS


def test_a_statement_that_changes_while_it_is_said_is_said_as_it_is_then() -> None:
    life = Life()
    life.hold(about("db", "old"))
    turn = life.ledger.next(0.0)
    assert isinstance(turn, QueuedEvent)
    life.hold(about("db", "new"))
    life.ledger.said(turn.statement, 1, 0.0)
    life.passes(60)
    assert life.said == [(10, "new")]


def test_more_than_there_is_room_for_is_counted_and_takes_its_turn_when_there_is() -> None:
    life = Life()
    crowd = [about(f"p{number}") for number in range(MOST_TOPICS + 5)]
    life.hold(*crowd)
    assert (life.ledger.holding, life.ledger.left_out) == (MOST_TOPICS, 5)
    life.hold(*crowd[5:])
    assert (life.ledger.holding, life.ledger.left_out) == (MOST_TOPICS, 0)


def test_memories_of_what_was_said_make_room_for_what_holds() -> None:
    life = Life()
    life.hold(*(about(f"p{number}") for number in range(MOST_TOPICS)))
    life.passes(60)
    life.hold(*(about(f"q{number}") for number in range(MOST_TOPICS)))
    assert (life.ledger.holding, life.ledger.left_out, life.ledger.kept) == (MOST_TOPICS, 0, MOST_TOPICS)


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab"), st.booleans()), max_size=40),
            st.sampled_from([0.0, 1.0, 30.0, 700.0]),
        ),
        max_size=12,
    )
)
def test_whatever_holds_when_the_bucket_is_kept_and_in_the_end_what_holds_was_said(
    history: list[tuple[list[tuple[int, str, bool]], float]],
) -> None:
    life = Life()
    last: dict[str, Notice] = {}
    for holding, pause in history:
        last = {f"p{number}": about(f"p{number}", f"{number}{text}", once=once) for number, text, once in holding}
        life.hold(*last.values())
        life.passes(pause)
    before = len(life.said)
    life.passes(2400)
    for start, at in enumerate(life.times):
        spent = sum(at <= other < at + 60 for other in life.times[start:])
        assert spent <= BURST + RATE * 60 + 1
    lately = {message for _, message in life.said[before:]}
    ever = {message for _, message in life.said}
    assert {one.message for one in last.values() if not one.once} <= lately
    assert {one.message for one in last.values()} <= ever
