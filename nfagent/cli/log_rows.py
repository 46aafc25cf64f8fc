"""Records of `nfagent logs` as text: a table, or lines for each record where the terminal is narrow."""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.cli.log_times import DEFAULT_FORMAT, shown_time
from nfagent.cli.tables import broken, line, paint, row_lines, strong, terminal_width, widths
from nfagent.cli.wrapping import GAP, share
from nfagent.model.netaddr import endpoint
from nfagent.verdicts.record_summary import served
from nfagent.verdicts.records import PolicyName, Record, RecordEndpoint, encode

_HEADERS = {
    "compact": ("TIME", "VERDICT", "DIRECTION", "CONNECTION", "POLICIES", "COUNT"),
    "wide": ("TIME", "NODE", "VERDICT", "DIRECTION", "SOURCE", "DESTINATION", "PROTOCOL", "POLICIES", "COUNT"),
}
_LEAST = {"compact": (24, 7, 9, 40, 20, 5), "wide": (24, 8, 7, 9, 40, 40, 8, 30, 5)}
"""Widths that a table begins with: a column grows, and never shrinks below that; long cells go on in their column."""


def json_lines(records: list[Record]) -> Iterator[str]:
    """Yield records as they are in the log."""
    return (encode(record).decode().rstrip("\n") for record in records)


class TextLines:
    """Formats rows in aligned columns, batch by batch; in a narrow terminal each record has lines of its own."""

    def __init__(self, form: str, time_format: str = DEFAULT_FORMAT) -> None:
        """Choose between a table and lines by the terminal's width. form: compact or wide."""
        self._wide = form == "wide"
        self._time_format = time_format
        self._header = _HEADERS[form]
        time_width = len(shown_time("2026-01-01T00:00:00.000000000Z", time_format))
        self._columns = [time_width, *_LEAST[form][1:]]
        self._least = tuple(self._columns)
        self._limit = terminal_width()
        needed = sum(self._columns) + GAP * (len(self._columns) - 1)
        self._narrow = self._limit is not None and self._limit < needed
        self._begun = False

    def __call__(self, records: list[Record]) -> Iterator[str]:
        """Yield the lines of some records."""
        if self._narrow:
            for record in records:
                yield from self._lines(record)
            return
        rows = [self._row(record) for record in records]
        last = {len(self._header) - 1}
        self._columns = widths([self._header, *rows], self._columns)
        if self._limit is not None:  # which the least columns fit
            self._columns = share(self._columns, self._least, self._limit) or self._columns
        if rows and not self._begun:
            self._begun = True
            yield strong(line(self._header, self._columns, last))
        for row in rows:
            yield from row_lines(row, self._columns, last)

    def _row(self, record: Record) -> list[str]:
        time, verdict = shown_time(record.timestamp, self._time_format), paint(record.disposition)
        direction = record.connection.direction
        if not self._wide:
            return [time, verdict, direction, connection_text(record), _policies(record), str(record.count)]
        connection = record.connection
        return [
            time,
            record.node_name,
            verdict,
            direction,
            _wide_end(record.src, connection.src_ip, connection.src_port),
            _wide_end(record.dest, connection.dest_ip, connection.dest_port),
            connection.protocol,
            ", ".join(map(_wide_policy, (*record.policies, *record.isolating_policies))),
            str(record.count),
        ]

    def _lines(self, record: Record) -> Iterator[str]:
        limit = self._limit or 1
        times = f" {record.count}x" if record.count > 1 else ""
        head = f"{shown_time(record.timestamp, self._time_format)} {paint(record.disposition)}{times}"
        yield from broken(f"{head} {record.connection.direction}", limit)
        details = [connection_text(record)]
        if self._wide:
            _, node, _, _, source, destination, protocol, policies, _ = self._row(record)
            details = [f"from {source}", f"to {destination} {protocol}", f"by {policies or '-'}", f"on {node or '-'}"]
        elif names := _policies(record):
            details.append(f"by {names}")
        for detail in details:
            for number, part in enumerate(broken(detail, limit - 2 * GAP)):
                yield " " * (GAP if number == 0 else 2 * GAP) + part


def connection_text(record: Record) -> str:
    """Return source and destination as `explain` takes them."""
    return f"{record.src.name} -> {served(record)}"


def _policies(record: Record) -> str:
    return ", ".join(policy.path for policy in (*record.policies, *record.isolating_policies))


def _wide_end(end: RecordEndpoint, address: str, port: int | None) -> str:
    where = endpoint(address, port)
    return f"{end.pod_path} ({where})" if end.pod_name else where


def _wide_policy(policy: PolicyName) -> str:
    return f"{policy.kind} {policy.path}" + (f" '{policy.rule}'" if policy.rule else "")
