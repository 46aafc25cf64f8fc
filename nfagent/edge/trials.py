"""Trials of policies: what is asked, and what is answered bit by bit, so that nobody waits for the end of a long one.

The running agent judges on its event loop, in turns: it has other things to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.cluster.state import ClusterState
from nfagent.edge.given import Given, GivenFile
from nfagent.errors import Problem, UsageError
from nfagent.policy.amendment import Amendment, taking_away
from nfagent.policy.choices import Choices
from nfagent.policy.index import PolicyIndex
from nfagent.policy.pairs import Survey
from nfagent.policy.trial import Change, Seen, Tally, Trial

MOST_FLOWS = 200_000
"""Flows of the log, and flows between Pods, that one trial judges."""

MOST_BYTES = 32 * 1024 * 1024
"""Of a question as the agent gets it."""

TURN_SECONDS = 0.008
"""How long the event loop is held at most, but for the flow that ends a turn."""

_BATCH = 500
_Line = tuple[str, str, str, int | None, bool, int, str, str]


class Asked(msgspec.Struct, frozen=True):
    """The question.

    files:     the policies
    delete:    take away the policies that the files name, instead of putting them in
    pods:      judge all pairs of Pods too, those with an end in `namespace`, where there is one
    """

    files: tuple[GivenFile, ...]
    delete: bool = False
    pods: bool = False
    namespace: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What is known at the end, or before it of what was asked.

    policies: the policies that come, change or go
    idle:     of these, those that are there already, just so
    judged:   Pods that these policies judge, before or after
    unlogged: of these, those of whose connections the verdict log of this node lacks some
    log:      what became of the flows of the log
    pods:     what became of the flows between Pods; None where they weren't asked for
    """

    policies: tuple[str, ...]
    idle: tuple[str, ...]
    judged: int
    unlogged: int
    log: Tally
    pods: Tally | None


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """A bit of the answer.

    total, done: flows that are to be judged, and those that were
    problems:    what is wrong with the policies
    changes:     found since the last part
    outcome:     the last part has it
    """

    total: int
    done: int = 0
    problems: tuple[Problem, ...] = ()
    changes: tuple[Change, ...] = ()
    outcome: Outcome | None = None


def begin_trial(cluster: ClusterState, index: PolicyIndex, choices: Choices, given: Given, *, delete: bool) -> Trial:
    """Make ready what is to be tried. Raises UsageError for a policy to be deleted that isn't there."""
    if delete:
        return Trial(cluster, index, taking_away(index, (policy.ref for policy in given.policies)), choices)
    return Trial(cluster, index, Amendment(put=given.policies), choices)


def begin_trial(cluster: ClusterState, index: PolicyIndex, choices: Choices, given: Given, *, delete: bool) -> Trial:
    """Make ready what is to be tried. Raises UsageError for a policy to be deleted that isn't there."""
    if delete:
        return Trial(cluster, index, taking_away(index, (policy.ref for policy in given.policies)), choices)
    return Trial(cluster, index, Amendment(put=given.policies), choices)


class Work:
    """A trial of everything that was asked, step by step."""

    def __init__(self, trial: Trial, given: Given, asked: Asked, seen: Iterable[Seen]) -> None:
        """Plan it.

        seen: the flows of the log; they are gone through twice
        """
        self._trial = trial
        self._problems = () if asked.delete else given.problems
        self._asked = asked
        self._seen = seen
        self._survey = Survey(trial.cluster, trial.amended, asked.namespace)
        self._total = 0
        self._found: list[Change] = []

    def plan(self) -> Iterator[None]:
        """Look at the Pods, and count what is to be judged. Raises UsageError where that is too much, or unreadable."""
        yield from self._survey.steps()
        for seen in self._all():
            self._total += seen is not None
            if self._total > MOST_FLOWS:
                raise UsageError(
                    f"there are more than {MOST_FLOWS:,} connections to judge; narrow them with -n NS, --since, or fewer "
                    "policies at once"
                )
            yield

    def judge(self) -> Iterator[None]:
        """Judge, one flow at each step."""
        for seen in self._all():
            change = self._trial.judge(seen) if seen is not None else None
            if change is not None:
                self._found.append(change)
            yield

    def begun(self) -> Part:
        """Say what there is to do."""
        return Part(self._total, problems=self._problems)

    def news(self) -> Part:
        """Say what was found since this was asked last."""
        found, self._found = tuple(self._found), []
        return Part(self._total, self._trial.log.judged + self._trial.pods.judged, changes=found)

    def ended(self) -> Part:
        """Say the rest."""
        trial, survey = self._trial, self._survey
        outcome = Outcome(
            policies=tuple(map(str, trial.amended.amendment.refs)),
            idle=tuple(map(str, trial.amended.idle)),
            judged=survey.judged,
            unlogged=survey.unlogged,
            log=trial.log,
            pods=trial.pods if self._asked.pods else None,
        )
        return msgspec.structs.replace(self.news(), outcome=outcome)

    def _all(self) -> Iterator[Seen | None]:
        yield from self._seen
        if self._asked.pods:
            yield from self._survey.flows()


def in_turns(work: Work, seconds: float = TURN_SECONDS) -> Iterator[Part | None]:
    """Do the work in turns of so many seconds; at the end of each give what is new, None while it is being planned.

    Raises UsageError before it gives a part, or never.
    """
    start = monotonic()
    for _ in work.plan():
        if monotonic() - start > seconds:
            yield None
            start = monotonic()
    yield work.begun()
    start = monotonic()
    for _ in work.judge():
        if monotonic() - start > seconds:
            yield work.news()
            start = monotonic()
    yield work.ended()


class _Sent:
    """The flows of a question, which stay bytes until they are looked at."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    def __iter__(self) -> Iterator[Seen]:
        for line in self._lines:
            for here, there, protocol, port, translated, count, source, destination in _decoded(line, _flows):
                yield Seen(Flow(here, there, protocol, port, translated), count, source, destination)


def question(asked: Asked, seen: Iterable[Seen]) -> bytes:
    """Write a question: a line of JSON with what is asked, then lines with some flows each.

    Raises UsageError where it is too long.
    """
    lines = [_encoder.encode(asked)]
    flows = iter(seen)
    while batch := [_line(item) for item in islice(flows, _BATCH)]:
        lines.append(_encoder.encode(batch))
    body = b"\n".join(lines)
    if len(body) > MOST_BYTES:
        raise too_long()
    return body


def read_question(body: bytes) -> tuple[Asked, Iterable[Seen]]:
    """Read what `question` wrote; the flows when they are gone through. Both raise UsageError."""
    first, *lines = body.split(b"\n")
    return _decoded(first, _asked), _Sent(lines)


def too_long() -> UsageError:
    """Make the error for a question that is too long."""
    return UsageError(f"the log has more connections than {MOST_BYTES // 2**20} MiB; take fewer with --since or -n NS")


def _line(seen: Seen) -> _Line:
    flow = seen.flow
    ends = flow.source, flow.destination
    return (*ends, flow.protocol, flow.port, flow.translated, seen.count, seen.source, seen.destination)


_encoder = msgspec.json.Encoder()
_asked = msgspec.json.Decoder(Asked)
_flows = msgspec.json.Decoder(list[_Line])
_T = TypeVar("_T")


def _decoded(line: bytes, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"that is no trial: {error}; ask with the `nfagent try` of the agent's own version") from None
