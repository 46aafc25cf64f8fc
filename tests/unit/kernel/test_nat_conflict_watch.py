"""When the nat rules of other programs are looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nfagent.errors import KernelError
from nfagent.kernel.foreign_nat import ForeignNat, NatConflictWatch
from nfagent.model.netaddr import parse_cidr
from nfagent.nftables.foreign_rules import ForeignRule, ForeignTable
from nfagent.nftables.objects import ABSENT, Chain, Hook, NamedSet, Ruleset

OURS = Ruleset(
    sets={
        "pods4": NamedSet("range", 4, frozenset({parse_cidr("10.244.1.0/24")})),
        "cluster4": NamedSet("range", 4, frozenset({parse_cidr("10.0.0.0/8")})),
    },
    chains={"masquerade-pods": Chain((), Hook("nat", "postrouting", 100))},
)


def table(*rules: str) -> ForeignTable:
    chains = {"post": tuple(ForeignRule(text=rule, action="masquerade", narrowed=True) for rule in rules)}
    return ForeignTable("table ip theirs", 4, (("post", 100),), chains)


class Script:
    """Time that passes with waits and readings, and the rules of others; ends the watch after so many waits."""

    def __init__(self, waits: int) -> None:
        self.now = 0.0
        self.left = waits
        self.waits: list[float] = []
        self.reading_seconds = 0.0
        self.ours = OURS
        self.theirs: tuple[str, ...] = ()
        self.refusal = ""
        self.before_wait: Callable[[], object] = lambda: None
        self.watch = NatConflictWatch(lambda: self.ours, self, self.read)

    def monotonic(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.left -= 1
        if self.left <= 0:
            raise asyncio.CancelledError
        self.before_wait()
        if not event.is_set():
            self.now += seconds
        return event.is_set()

    def read(self) -> ForeignNat:
        self.now += self.reading_seconds
        if self.refusal:
            raise KernelError(self.refusal)
        return ForeignNat((table(*self.theirs),))

    def run(self) -> list[float]:
        async def end() -> None:
            await asyncio.gather(self.watch.run(), return_exceptions=True)

        asyncio.run(end())
        return self.waits


def test_others_rules_are_read_every_minute_and_a_second_after_a_change_at_the_earliest() -> None:
    script = Script(4)
    assert script.run() == [1.0, 60.0, 1.0, 60.0]
    changing = Script(4)
    changing.before_wait = changing.watch.mark_changed
    changing.run()
    assert changing.now == 2.0, "two readings, a second after each"


def test_until_there_are_rules_of_our_own_they_are_looked_for_every_second() -> None:
    script = Script(4)
    script.ours = ABSENT
    assert script.run() == [1.0, 1.0, 1.0, 1.0]


def test_a_slow_reading_takes_a_tenth_of_the_time_at_most() -> None:
    script = Script(2)
    script.reading_seconds = 2.0
    assert script.run()[0] == 18.0


def test_a_report_stays_as_it_was_first_while_its_rule_is_there_and_ten_at_most_are_given() -> None:
    script = Script(0)
    script.theirs = ("one", "two")
    asyncio.run(script.watch.refresh())
    first = script.watch.reports
    assert [f"rule `{name}` may translate" in report for name, report in zip(("one", "two"), first, strict=True)] == [
        True,
        True,
    ]
    pods = {**OURS.sets, "cluster4": NamedSet("range", 4, frozenset({parse_cidr("10.0.0.0/9")}))}
    script.ours = Ruleset(sets=pods, chains=OURS.chains)
    asyncio.run(script.watch.refresh())
    assert script.watch.found[0].destinations == "10.0.0.0/9"
    assert script.watch.reports == first
    script.theirs = tuple(f"rule {number}" for number in range(30))
    asyncio.run(script.watch.refresh())
    assert len(script.watch.reports) == 10
    script.theirs = ()
    asyncio.run(script.watch.refresh())
    assert script.watch.reports == ()


def test_rules_that_cannot_be_read_at_all_are_a_problem_until_they_are_read() -> None:
    script = Script(4)
    script.refusal = "no memory"
    asyncio.run(script.watch.refresh())
    assert (script.watch.unread, script.watch.status()["problems"]) == ("no memory", ["no memory"])
    script.refusal = ""
    asyncio.run(script.watch.refresh())
    assert (script.watch.unread, script.watch.status()["problems"]) == ("", [])
