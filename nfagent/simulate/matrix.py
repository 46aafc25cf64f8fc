"""Who reaches whom: the verdicts between all classes of Pods, in parts, which are sent while it is still being made.

With a namespace, only cells with an end in it are judged, and Pods of others for which all of these have the same
verdicts share a row and a column.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.errors import UsageError
from nfagent.model.admin_policy import Policy
from nfagent.policy.options import PolicyOptions
from nfagent.simulate.cell_outcomes import Cell, CellOutcomes
from nfagent.simulate.class_names import class_names, labels_text
from nfagent.simulate.matrix_answer import LETTERS, NOT_JUDGED, Matrix, MatrixEnd, MatrixPart, MatrixRequest
from nfagent.simulate.pod_classes import PodClass, PodClasses, take_snapshot
from nfagent.state.cluster import ClusterState
from nfagent.state.pod_lookup import close_names

MAX_CELLS = 4_000_000
"""Limit of one matrix."""
MAX_RANGES = 500_000
"""Limit of the ranges of ports in all that ends say in one matrix."""
_CELLS_A_PART = 1000
_PODS_A_PART = 2000
_CLASSES_A_PART = 256
_NAMED = 20
_NAMESPACES_NAMED = 500


class MatrixJob:
    """Makes a matrix, step by step, of the objects as they are when it is created."""

    def __init__(  # noqa: PLR0917 - the state, and the request
        self,
        cluster: ClusterState,
        policies: Iterable[Policy],
        policy_options: PolicyOptions,
        asked: MatrixRequest,
        masqueraded: Callable[[str], bool] = lambda _: False,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Take the objects. Raises UsageError for an unknown namespace.

        masqueraded: returns whether packets from Pods of other nodes arrive at an address with their nodes' addresses
        notes:       what may be older than the cluster
        """
        _check_namespace(cluster, asked.namespace)
        self._asked = asked
        self._notes = notes
        self._options = policy_options
        self._masqueraded = masqueraded
        snapshot = take_snapshot(cluster, policies)
        self._pods = len(snapshot.pods)
        self._classes = PodClasses(snapshot, policy_options)
        self._sent = (0, 0)

    def parts(self) -> Iterator[MatrixPart | None]:
        """Yield the parts as they are made; None after a step that makes none."""
        told = 0
        for _ in self._classes.steps():
            if self._classes.done >= told:
                told += _PODS_A_PART
                yield MatrixPart("pods", self._pods, self._classes.done)
            else:
                yield None
        outcomes = CellOutcomes(self._classes, self._options, self._asked.ports, self._masqueraded)
        groups = yield from self._rows(outcomes)
        total = len(groups) ** 2
        if total > MAX_CELLS:
            yield MatrixPart(
                "pairs", total, error=f"{len(groups):,} groups of Pods that policies tell apart are too many"
            )
            return
        ends: list[MatrixEnd] = []
        names: list[str] = []
        for name in class_names(self._classes.found, self._classes.sight):
            names.append(name)
            yield None
        for group in groups:
            yield None
            ends.append(self._end(group, names))
        yield MatrixPart("pairs", total, ends=tuple(ends))
        yield from self._cells(outcomes, [group[0] for group in groups])

    def _cells(self, outcomes: CellOutcomes, rows: list[PodClass]) -> Iterator[MatrixPart | None]:
        total, done = len(rows) ** 2, 0
        cells: list[Cell | None] = []
        for client in rows:
            for server in rows:
                done += 1
                judged = self._is_inside(client) or self._is_inside(server)
                cells.append((yield from outcomes.cell(client, server)) if judged else None)
                if len(cells) < _CELLS_A_PART:
                    yield None
                    continue
                yield self._part(outcomes, total, done, cells)
                cells.clear()
                if outcomes.ranges > MAX_RANGES:
                    yield MatrixPart("pairs", total, done, error="rules tell too many ports apart for a matrix")
                    return
        last = self._part(outcomes, total, done, cells)
        yield msgspec.structs.replace(last, notes=self._notes, complete=True)

    def _part(self, outcomes: CellOutcomes, total: int, done: int, cells: list[Cell | None]) -> MatrixPart:
        reasons, said = self._sent
        self._sent = (len(outcomes.reasons), len(outcomes.found))
        return MatrixPart(
            "pairs",
            total,
            done,
            reasons=tuple(outcomes.reasons[reasons:]),
            said=tuple(outcomes.found[said:]),
            verdicts="".join([NOT_JUDGED if cell is None else LETTERS[cell.verdict] for cell in cells]),
            egress=tuple([-1 if cell is None else cell.egress for cell in cells]),
            ingress=tuple([-1 if cell is None else cell.ingress for cell in cells]),
        )

    def _rows(self, outcomes: CellOutcomes) -> Generator[MatrixPart | None, None, list[list[PodClass]]]:
        """Return the classes of each row, in steps; the first stands for the others, which have the same verdicts."""
        inside = [one for one in self._classes.found if self._is_inside(one)]
        alike: dict[object, list[PodClass]] = {}
        for one in self._classes.found:
            if self._is_inside(one):
                continue
            if one.number % _CLASSES_A_PART == 0:
                yield MatrixPart("pods", self._pods, self._pods)  # a reader whose connection is silent gives up
            key: list[object] = []
            for here in inside:
                for ends in ((one, here), (here, one)):
                    cell = yield from outcomes.cell(*ends)
                    # Where a part of the traffic is allowed, which part counts too.
                    key.append((cell.egress, cell.ingress) if cell.verdict == "some" else cell.verdict)
                yield None
            alike.setdefault(tuple(key), []).append(one)
        return [*([one] for one in inside), *alike.values()]

    def _is_inside(self, one: PodClass) -> bool:
        return self._asked.namespace in {"", one.key.namespace}

    def _end(self, group: list[PodClass], names: list[str]) -> MatrixEnd:
        namespaces = sorted({one.key.namespace for one in group})
        name = names[group[0].number]
        if len(namespaces) > 1:
            more = ", …" if len(namespaces) > 2 else ""
            name = f"{len(namespaces)} namespaces ({', '.join(namespaces[:2])}{more})"
        elif len(group) > 1:
            name = f"{name} and {len(group) - 1} more groups"
        labels = dict.fromkeys(text for one in group for text in map(labels_text, one.labels))
        return MatrixEnd(
            name=name,
            pods=sum(len(one.pods) for one in group),
            namespaces=tuple(namespaces[:_NAMESPACES_NAMED]),
            namespace_count=len(namespaces),
            labels=tuple(islice(labels, _NAMED)),
            label_sets=len(labels),
            names=tuple(islice((pod.ref.path for one in group for pod in one.pods), _NAMED)),
            inside=self._is_inside(group[0]),
            groups=len(group),
        )


def matrix_of(desired: DesiredState, asked: MatrixRequest, notes: tuple[str, ...] = ()) -> MatrixJob:
    """Return the matrix of a state as of its last `prepare`. Raises UsageError for an unknown namespace."""

    def masqueraded(address: str) -> bool:
        return desired.translation(None, address).kind in {"node", "gateway"}

    policies = desired.index.policies.values()
    return MatrixJob(desired.cluster, policies, desired.policy_options, asked, masqueraded, notes)


def run(job: MatrixJob, told: Callable[[MatrixPart], None] = lambda _: None) -> Matrix:
    """Return the matrix of a job, run without pauses. Raises UsageError."""
    found = Matrix()
    for part in job.parts():
        if part is not None:
            found.add(part)
            told(part)
    return found


def _check_namespace(cluster: ClusterState, namespace: str) -> None:
    if not namespace or namespace in cluster.by_namespace:
        return
    if namespace in cluster.namespaces:
        raise UsageError(f"namespace {namespace} has no Pods", hint="`nfagent matrix` without -n shows all")
    near = close_names(namespace, {*cluster.namespaces, *cluster.by_namespace})
    hint = f"did you mean {' or '.join(near)}?" if near else "`nfagent dump state` lists all Pods"
    raise UsageError(f"there is no namespace {namespace}", hint=hint)
