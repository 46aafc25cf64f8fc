"""Rates of packets from two samples of the agent's counts (GET /v1/counts), and the rows of `nfagent top`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.introspection.counts_view import CountsView, PacketCount, PodCount, PolicyCount
from nfagent.model.objects import DIRECTIONS, Direction, ObjectRef
from nfagent.model.plurals import counted

SortKey: TypeAlias = Literal["denied", "allowed", "name"]
SORT_KEYS: tuple[SortKey, ...] = ("denied", "allowed", "name")


class CountRow(msgspec.Struct, frozen=True, kw_only=True):
    """One direction of a Pod or policy; direction is '' where neither is counted. None: not counted, or not known yet.

    Rates are packets a second since the sample before.
    """

    name: str
    direction: Direction | Literal[""] = ""
    allowed: int | None = None
    denied: int | None = None
    audited: int | None = None
    allowed_rate: float | None = None
    denied_rate: float | None = None
    audited_rate: float | None = None


class CountSample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample with its rates. seconds: that these cover; None where there are none."""

    version: str
    node: str
    problem: str
    seconds: float | None
    pods: list[CountRow]
    policies: list[CountRow]


def with_rates(before: CountsView | None, now: CountsView) -> CountSample:
    """Return a sample with rates since the one before.

    A rate is None of what wasn't there before, of a count that became smaller (it began anew), and of all where another
    run of the agent counted before: what happened in between may be missing in its counts.
    """
    if before is not None and (before.started != now.started or not now.read_at > before.read_at > 0):
        before = None
    seconds = None if before is None else now.read_at - before.read_at
    pods = {_pod_name(pod): pod for pod in ([] if before is None else before.pods)}
    policies = {_policy_name(policy): policy for policy in ([] if before is None else before.policies)}
    return CountSample(
        version=now.version,
        node=now.node,
        problem=now.problem,
        seconds=seconds,
        pods=[row for pod in now.pods for row in _rows(_pod_name(pod), pods.get(_pod_name(pod)), pod, seconds)],
        policies=[
            row
            for policy in now.policies
            for row in _rows(_policy_name(policy), policies.get(_policy_name(policy)), policy, seconds)
        ],
    )


def ordered(rows: list[CountRow], by: SortKey) -> list[CountRow]:
    """Return rows with the highest rate first, then the highest count, then by name; what isn't counted comes last."""
    if by == "name":
        return sorted(rows, key=lambda row: (row.name, row.direction))
    rate: Callable[[CountRow], float | None] = (
        (lambda row: row.denied_rate) if by == "denied" else (lambda row: row.allowed_rate)
    )
    total: Callable[[CountRow], int | None] = (lambda row: row.denied) if by == "denied" else (lambda row: row.allowed)
    return sorted(rows, key=lambda row: (-_number(rate(row)), -_number(total(row)), row.name, row.direction))


def uncounted(sample: CountSample) -> str:
    """Return a remark about what isn't counted, '' where all is."""
    pods = sum(not row.direction for row in sample.pods)
    policies = sum(not row.direction for row in sample.policies)
    found = [
        *([f"{counted(pods, 'Pod')} to which no policy applies"] if pods else []),
        *([f"{counted(policies, 'policy')} that this kernel has no counters of"] if policies else []),
    ]
    return f"- isn't counted: {', '.join(found)}" if found else ""


def _pod_name(pod: PodCount) -> str:
    return f"{pod.namespace}/{pod.name}"


def _policy_name(policy: PolicyCount) -> str:
    ref = ObjectRef(policy.kind, policy.namespace, policy.name)
    return ref.path if ref.namespace else str(ref)


def _rows(
    name: str, before: PodCount | PolicyCount | None, now: PodCount | PolicyCount, seconds: float | None
) -> Iterator[CountRow]:
    is_counted = False
    for direction in DIRECTIONS:
        count: PacketCount | None = getattr(now, direction)
        earlier: PacketCount | None = getattr(before, direction, None)
        if count is None:
            continue
        is_counted = True
        known = earlier or PacketCount()
        yield CountRow(
            name=name,
            direction=direction,
            allowed=count.allow,
            denied=count.deny,
            audited=count.audit,
            allowed_rate=_rate(known.allow, count.allow, seconds),
            denied_rate=_rate(known.deny, count.deny, seconds),
            audited_rate=_rate(known.audit, count.audit, seconds),
        )
    if not is_counted:
        yield CountRow(name=name)


def row_cells(row: CountRow) -> Iterator[str]:
    """Yield the cells of a row, in the order of the header."""
    yield row.name
    yield {"ingress": "in", "egress": "out", "": "-"}[row.direction]
    for total, rate in ((row.allowed, row.allowed_rate), (row.denied, row.denied_rate)):
        yield _shown(total)
        yield _shown(rate)
    yield _shown(row.audited)


def _rate(before: int | None, now: int | None, seconds: float | None) -> float | None:
    if before is None or now is None or not seconds or now < before:
        return None
    return round((now - before) / seconds, 2)


def _number(value: float | None) -> float:
    return -1.0 if value is None else value


def _shown(value: float | None) -> str:
    """Return a count or a rate; `-` where it isn't known."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.1f}" if value < 100 else f"{value:.0f}"
