"""Text of a matrix: a grid where it fits the terminal, lists of what each group reaches otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeAlias

from nfagent.cli.tables import coloured, marked, strong, terminal_width
from nfagent.model.plurals import counted
from nfagent.model.printable import printable
from nfagent.simulate.cell_outcomes import CellVerdict
from nfagent.simulate.class_verdicts import PortSpan
from nfagent.simulate.matrix_answer import Matrix, MatrixEnd, MatrixRequest, TrafficVerdict, span_text

_SYMBOLS: dict[CellVerdict, str] = {"allowed": "+", "denied": "-", "some": "~", "unknown": "?", "none": "."}
_COLOURS: dict[CellVerdict, str] = {"allowed": "green", "denied": "red", "some": "yellow", "unknown": "yellow"}
_LEGEND: dict[CellVerdict, str] = {
    "allowed": "allowed",
    "denied": "denied",
    "some": "a part of the traffic",
    "unknown": "not known",
    "none": "no such connection",
}
_NAME_LEAST, _NAME_MOST = 18, 60
_REASONS_SHOWN = 30
_NAMES_SHOWN = 6
_LABELS_SHOWN = 5
_PORTS_SHOWN = 4
_WIDTH = 100
_INDENT, _APART = "  ", "   "
_Where: TypeAlias = tuple[int, str]
"""A family and the relation of the nodes, as TrafficVerdict has them."""


def matrix_lines(found: Matrix, asked: MatrixRequest) -> Iterator[str]:
    """Yield the lines; sentences aren't broken yet."""
    width = terminal_width() or _WIDTH
    pods = sum(end.pods for end in found.ends)
    where = f"namespace {asked.namespace}" if asked.namespace else "all namespaces"
    traffic = _listed(map(span_text, asked.ports), _NAMES_SHOWN) if asked.ports else "all traffic"
    heading = f"{where}, {traffic}: {counted(len(found.ends), 'group')} of {counted(pods, 'Pod')}"
    yield strong(printable(heading))
    if not found.ends:
        return
    cell = len(str(len(found.ends))) + 1
    if len(found.ends) * cell + _NAME_LEAST + cell <= width:
        yield ""
        yield from _grid(found, width, cell)
        yield from _parts(found, asked.ports)
        yield from _denials(found)
    else:
        yield from _lists(found, asked.ports)


def allowed_text(traffic: Iterable[TrafficVerdict], ports: tuple[PortSpan, ...] = ()) -> str:
    """Return the traffic of a cell that is allowed: `5432/tcp`, `80/tcp by IPv4`, `anything but 25/tcp`.

    ports: those that were asked for; the rest isn't known, so `anything` isn't said of them
    """
    listed = list(traffic)
    lanes = dict.fromkeys((item.family, item.nodes) for item in listed)
    allowed, denied = ([item for item in listed if item.allowed is wanted] for wanted in (True, False))
    if not denied:
        return _listed(map(span_text, ports), _PORTS_SHOWN) if ports else "anything"
    if len(lanes) == 1 and len(denied) < len(allowed) and not ports:
        return f"anything but {_listed(_ranges(denied), _PORTS_SHOWN)}"
    found: dict[str, list[_Where]] = {}
    for lane in lanes:
        items = [item for item in allowed if (item.family, item.nodes) == lane]
        whole = ports and any(item.protocol == "any" for item in items)
        for words in map(span_text, ports) if whole else _ranges(items):
            found.setdefault(words, []).append(lane)
    return _listed(
        [f"{words}{'' if len(where) == len(lanes) else _conditions(where)}" for words, where in found.items()],
        _PORTS_SHOWN,
    )


def _ranges(items: list[TrafficVerdict]) -> list[str]:
    """Return ranges of one lane as text, adjacent ones joined: rules that differ only in the reason don't show here."""
    joined: list[TrafficVerdict] = []
    for item in items:
        last = joined[-1] if joined else None
        if last is not None and item.first == last.last + 1 and item.protocol == last.protocol:
            joined[-1] = TrafficVerdict(last.protocol, last.allowed, 0, 0, last.first, item.last)
        else:
            joined.append(item)
    return list(map(str, joined))


def _conditions(lanes: Iterable[_Where]) -> str:
    nodes = {"": "", "same": "on the same node", "other": "from other nodes"}
    each = (" ".join(filter(None, (f"by IPv{family}" if family else "", nodes[node]))) for family, node in lanes)
    return f" {' and '.join(each)}"


def _grid(found: Matrix, width: int, cell: int) -> Iterator[str]:
    count = len(found.ends)
    columns = min(_NAME_MOST, width - count * cell - cell)
    shown = [_shortened(f"{printable(end.name)} ({end.pods})", columns) for end in found.ends]
    columns = max(map(len, shown))
    heads = "".join(f"{number:>{cell}}" for number in range(1, count + 1))
    yield strong(f"{'FROM':<{cell + columns}}{'  TO' if count > 1 else ' TO'}")
    yield strong(f"{'':<{cell + columns}}{heads}")
    for client in range(count):
        cells = "".join(_symbol(found.verdict(client, server), cell) for server in range(count))
        yield f"{client + 1:<{cell}}{shown[client]:<{columns}}{cells}".rstrip()
    seen = {found.verdict(client, server) for client in range(count) for server in range(count)}
    yield ""
    yield from _legend([name for name in _LEGEND if name in seen], width)


def _legend(verdicts: list[CellVerdict], width: int) -> Iterator[str]:
    line, used = "", 0
    for verdict in verdicts:
        size = len(_LEGEND[verdict]) + 2
        if line and used + len(_APART) + size > width:
            yield line
            line, used = "", 0
        line += f"{_APART if line else ''}{_symbol(verdict, 1)} {_LEGEND[verdict]}"
        used += size + (len(_APART) if used else 0)
    yield line


def _symbol(verdict: CellVerdict | None, cell: int) -> str:
    if verdict is None:
        return " " * cell
    mark = _SYMBOLS[verdict]
    blank = " " * (cell - 1)
    return blank + (marked(mark, _COLOURS[verdict]) if verdict in _COLOURS and coloured() else mark)


def _parts(found: Matrix, ports: tuple[PortSpan, ...]) -> Iterator[str]:
    """Yield what is allowed where only a part of the traffic is."""
    alike: dict[tuple[int, str], list[int]] = {}
    for client, server in _pairs(found):
        if found.verdict(client, server) == "some":
            alike.setdefault((server, allowed_text(found.traffic(client, server), ports)), []).append(client)
    if alike:
        yield ""
        yield strong("ALLOWED IN PART")
    for (server, words), clients in sorted(alike.items()):
        yield f"{_numbers(clients)} -> {server + 1}: {words}"


def _denials(found: Matrix) -> Iterator[str]:
    """Yield why connections are denied, or not known."""
    alike: dict[tuple[int, str, str], dict[int, None]] = {}
    for client, server in _pairs(found):
        verdict = found.verdict(client, server)
        if verdict == "unknown":
            item = found.traffic(client, server)[0]
            alike.setdefault((server, "not known: ", found.reasons[item.ingress].words), {})[client] = None
        if verdict not in {"denied", "some"}:
            continue
        for item in found.traffic(client, server):
            ends = ((client, "egress", item.egress, server), (server, "ingress", item.ingress, client))
            for here, direction, reason, there in ends:
                if not found.reasons[reason].allowed:
                    alike.setdefault((here, direction, found.reasons[reason].words), {})[there] = None
    if alike:
        yield ""
        yield strong("WHY NOT")
    for (here, direction, words), others in islice(sorted(alike.items(), key=lambda item: item[0]), _REASONS_SHOWN):
        arrow = f"{here + 1} -> {_numbers(others)}" if direction == "egress" else f"{_numbers(others)} -> {here + 1}"
        said = f"{direction}: " if direction in {"egress", "ingress"} else direction
        yield f"{arrow}: {said}{printable(words)}"
    if len(alike) > _REASONS_SHOWN:
        yield f"and {len(alike) - _REASONS_SHOWN} more: the page of -o html has the reasons of every cell"


def _lists(found: Matrix, ports: tuple[PortSpan, ...]) -> Iterator[str]:
    """Yield what each group reaches, and what reaches it where a namespace was asked for."""
    count = range(len(found.ends))
    places = Names(found.ends)
    narrowed = not all(end.inside for end in found.ends)
    for at, end in enumerate(found.ends):
        if not end.inside:
            continue
        yield ""
        yield strong(f"{printable(end.name)} ({counted(end.pods, 'Pod')})")
        yield from _list(found, "to", [(at, other) for other in count], places, ports=ports)
        if narrowed:
            yield from _list(found, "from", [(other, at) for other in count], places, ports=ports)


def _list(
    found: Matrix,
    word: str,
    pairs: list[tuple[int, int]],
    places: Names,
    *,
    ports: tuple[PortSpan, ...],
) -> Iterator[str]:
    """Yield the lines about one group, in one direction: what most others have is counted, not named."""
    whole: dict[str, list[int]] = {"allowed": [], "not known": [], "denied": []}
    parts: dict[str, list[int]] = {}
    for other, (client, server) in enumerate(pairs):
        verdict = found.verdict(client, server)
        if verdict == "some":
            parts.setdefault(allowed_text(found.traffic(client, server), ports), []).append(other)
        elif verdict is not None and verdict != "none":
            whole[_LEGEND[verdict]].append(other)
    first, *last = whole
    labels = {first: whole[first], **_most_common(parts), **{label: whole[label] for label in last}}
    most = max(map(len, labels.values()))
    for label, others in labels.items():
        if not others:
            continue
        named = places.listed(others)
        if len(others) == most and most > _NAMES_SHOWN and len(named) > _NAMES_SHOWN:
            words = f"the {most} others" if sum(map(bool, labels.values())) > 1 else f"all {most}"
        else:
            words = _listed(named, _NAMES_SHOWN, "; ")
        yield f"{_INDENT}{label} {word} {words}"


def _most_common(parts: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return the parts of traffic that most groups have; the others together, without their ports."""
    ranked = sorted(parts.items(), key=lambda item: -len(item[1]))
    found = dict(ranked[:_LABELS_SHOWN])
    others = sorted(place for _, places in ranked[_LABELS_SHOWN:] for place in places)
    return {**found, "another part of the traffic": others} if others else found


class Names:
    """Names of many groups in few words: a namespace once, and without its groups where all of them are meant."""

    def __init__(self, ends: Iterable[MatrixEnd]) -> None:
        """Store the groups of a matrix."""
        self._ends = list(ends)
        self._sizes: dict[str, int] = {}
        for end in self._ends:
            if end.namespace_count == 1 and end.inside:
                self._sizes[end.namespaces[0]] = self._sizes.get(end.namespaces[0], 0) + 1

    def listed(self, places: Iterable[int]) -> list[str]:
        """Return words for these groups."""
        found: dict[str, list[str]] = {}
        for place in places:
            end = self._ends[place]
            single = end.namespace_count == 1
            group = found.setdefault(end.namespaces[0] if single else end.name, [])
            if single:
                group.append(end.name)
        words: list[str] = []
        for namespace, names in found.items():
            if len(names) > 1 and len(names) == self._sizes.get(namespace):
                words.append(printable(f"{namespace} (all {len(names)})"))
            else:
                words += map(printable, names or [namespace])
        return words


def _pairs(found: Matrix) -> Iterator[tuple[int, int]]:
    count = len(found.ends)
    return ((client, server) for client in range(count) for server in range(count))


def _numbers(places: Iterable[int]) -> str:
    """Return places as numbers from 1, runs of them joined: `1-3,7`."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and runs[-1][1] == place:
            runs[-1][1] = place + 1
        else:
            runs.append([place + 1, place + 1])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _shortened(words: str, columns: int) -> str:
    return words if len(words) <= columns else f"{words[: columns - 1]}…"


def _listed(words: Iterable[str], most: int, gap: str = ", ") -> str:
    known = list(words)
    more = len(known) - most
    return gap.join([*known[:most], *([f"{more} more"] if more > 0 else [])])
