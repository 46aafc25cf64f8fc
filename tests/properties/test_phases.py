"""A transaction in phases is what it is at once, and no packet sees anything in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfagent.cluster.model import Ref
from nfagent.policy.evaluate import Flow
from nfagent.ruleset.desired import Desired, Item
from nfagent.ruleset.objects import Ruleset
from nfagent.ruleset.transaction import ChangeElements, ChangeMapElements, diff, phases
from tests.fake_kernel import FakeKernel
from tests.interpreter import opening, run
from tests.properties.strategies import PROTOCOLS, desired, flows, histories, worlds


def verdicts(ruleset: Ruleset, judged: list[Flow]) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    for flow in judged:
        for hook in ("forward", "input"):
            result = run(ruleset, "forward" if hook == "forward" else "input", opening(flow))
            found.append((result.verdict, result.translated))
    return found


def steps(before: Ruleset, after: Ruleset) -> list[Ruleset]:
    """Give what the kernel holds after each phase of the way."""
    kernel = FakeKernel(before)
    passed = []
    for phase in phases(diff(before, after)):
        kernel.apply(phase)
        passed.append(kernel.ruleset)
    return passed


def assert_nothing_in_between(before: Ruleset, after: Ruleset, judged: list[Flow]) -> None:
    old, new = verdicts(before, judged), verdicts(after, judged)
    changed = False
    for held in steps(before, after):
        seen = verdicts(held, judged)
        assert seen in ([new] if changed else [old, new])
        changed = changed or (seen == new and new != old)
    assert verdicts((steps(before, after) or [before])[-1], judged) == new


@given(worlds(), worlds(), PROTOCOLS)
def test_packets_see_either_of_two_rulesets_whatever_the_way_between_them(
    first: list[Item], second: list[Item], protocol: tuple[str, int | None]
) -> None:
    before, after = desired("a", first), desired("a", second)
    addresses = sorted({*before.cluster.by_address, *after.cluster.by_address})
    judged = list(flows(addresses, *protocol))
    assert_nothing_in_between(before.ruleset(), after.ruleset(), judged)


@given(histories(), PROTOCOLS)
def test_packets_see_either_side_of_every_event(history: list[Item | Ref], protocol: tuple[str, int | None]) -> None:
    view = Desired("a")
    for event in history:
        before, known = view.ruleset(), set(view.cluster.by_address)
        if isinstance(event, Ref):
            view.remove(event)
        else:
            view.put(event)
        judged = list(flows(sorted(known | set(view.cluster.by_address)), *protocol))[:60]
        assert_nothing_in_between(before, view.ruleset(), judged)


@given(worlds(), worlds(), st.data())
def test_phases_hold_all_commands_in_an_order_that_the_kernel_takes(
    first: list[Item], second: list[Item], data: st.DataObject
) -> None:
    before, after = desired("a", first).ruleset(), desired("a", second).ruleset()
    if data.draw(st.booleans()):
        before, after = after, before
    transaction = diff(before, after)
    parts = phases(transaction)
    assert sorted(command.text() for part in parts for command in part) == sorted(item.text() for item in transaction)
    assert (steps(before, after) or [before])[-1] == after
    if len(parts) > 1:
        alone = [all(isinstance(item, ChangeElements | ChangeMapElements) for item in part) for part in parts]
        assert alone.count(True) <= 1
