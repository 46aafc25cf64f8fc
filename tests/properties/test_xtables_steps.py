"""Between the steps of a change, every packet has the verdict of the rules before it, or of those after it."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from hypothesis import event, given, settings
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.xtables.lowering import lower
from nfagent.xtables.names import TEMPORARY_PREFIX
from nfagent.xtables.objects import EMPTY, XtRuleset
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.order import steps
from nfagent.xtables.steps import CreateSet, DestroySet, SwapSets
from tests.properties.strategies import PROTOCOLS, RANDOM, flows, histories
from tests.support.fake_xtables import FakeXtables
from tests.support.nft_interpreter import HookName, HookPacket, later, opening, reply, stray
from tests.support.xtables_interpreter import XtMachine

_OPTIONS = LoweringOptions()
_MOST_PACKETS = 60
_REST = 0.5
"""How often all connections have been checked again before the next change."""


def verdicts(machine: XtMachine, ruleset: XtRuleset, packets: list[tuple[HookName, HookPacket]]) -> list[str]:
    machine.ruleset = ruleset
    return [machine.run(hook, packet).verdict for hook, packet in packets]


def packets_of(view: DesiredState, protocol: str, port: int | None) -> Iterator[tuple[HookName, HookPacket]]:
    for flow in flows(view.cluster.by_address, protocol, port):
        for packet in (opening(flow), later(flow), reply(flow), stray(flow, "untracked")):
            yield "forward", packet


@settings(max_examples=settings().max_examples // 5)
@given(histories(), PROTOCOLS, st.integers(1, 3), RANDOM)
def test_no_step_gives_a_packet_a_verdict_of_its_own(
    history: list[Item | ObjectRef], protocol: tuple[str, int | None], batch: int, random: Random
) -> None:
    view = DesiredState("a")
    kernel, machine = FakeXtables(), XtMachine(EMPTY)
    before = EMPTY
    for start in range(0, len(history), batch):
        for item in history[start : start + batch]:
            if isinstance(item, ObjectRef):
                view.remove(item)
            else:
                view.put(item)
        if random.random() < _REST:
            view.clear_recheck(view.recheck_addresses)
        view.drain_changes()  # addresses whose connections may end are under re-check
        after, _ = lower(view.ruleset(), _OPTIONS)
        every = list(packets_of(view, *protocol))
        packets = random.sample(every, min(len(every), _MOST_PACKETS))
        was, will = (verdicts(machine, ruleset, packets) for ruleset in (before, after))
        found = steps(before, after)
        copied = any(isinstance(step, CreateSet) and step.name.startswith(TEMPORARY_PREFIX) for step in found)
        event(f"by copies: {copied}")
        event(f"begins behind the rules: {any(isinstance(step, SwapSets) for step in found)}")
        for number, step in enumerate(found):
            ruleset = kernel.apply(step)
            if isinstance(step, CreateSet | DestroySet):
                continue  # no rule refers to it
            now = verdicts(machine, ruleset, packets)
            wrong = [
                (packet, one, other, between)
                for packet, one, other, between in zip(packets, was, will, now, strict=True)
                if between not in (one, other)
            ]
            assert wrong == [], (number, step, found)
        assert kernel.ruleset == after
        before = after
