"""`nfagent logs`: the verdict log, filtered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfagent.cli.complete_names import complete_names
from nfagent.cli.options import config_option, namespace_option, output_option, pod_option, settings_of
from nfagent.cli.tables import line, paint, strong, widths
from nfagent.model.netaddr import endpoint
from nfagent.model.plurals import counted

if TYPE_CHECKING:
    from nfagent.config import Settings
    from nfagent.verdicts.records import Record

_AGO = re.compile(r"(\d{1,9}[smhd])+", re.ASCII)
_PART = re.compile(r"(\d+)([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_HEADER = ("TIME", "VERDICT", "DIRECTION", "CONNECTION", "POLICIES", "COUNT")
_LEAST = (24, 7, 9, 40, 20)


def parse_ago(text: str) -> int:
    """Return the seconds of a time span: `90s`, `5m`, `1h30m`, `2d`. Raises click.BadParameter."""
    if not _AGO.fullmatch(text):
        raise click.BadParameter(f"{text!r} is no time span; write one like 90s, 5m, 1h30m, 2d")
    return sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


@click.command(epilog="Example: nfagent logs -f --verdict deny --pod shop/db --since 5m")
@click.option("-f", "--follow", is_flag=True, help="Keep printing new records.")
@click.option("--verdict", type=click.Choice(("allow", "deny", "audit-deny")), help="Only this verdict.")
@namespace_option
@pod_option
@click.option(
    "--policy",
    metavar="NS/NAME",
    default="",
    shell_complete=complete_names("policies"),
    help="Only verdicts by this policy.",
)
@click.option(
    "--since",
    metavar="SPAN",
    callback=lambda _context, _parameter, value: None if value is None else parse_ago(value),
    help="Only the last 90s, 5m, 1h30m or 2d.",
)
@click.option(
    "--file",
    "path",
    metavar="PATH",
    type=click.Path(path_type=Path, readable=False),
    help="Read this file instead.",
)
@config_option
@output_option("text", "json")
@click.pass_context
def logs(  # noqa: PLR0913 - one argument for each option
    context: click.Context,
    *,
    follow: bool,
    verdict: str | None,
    namespace: str,
    pod: str,
    policy: str,
    since: int | None,
    path: Path | None,
    config: Path | None,
    output: str,
) -> None:
    """Show the verdict log, oldest first: allowed and denied connections, with the policies that decided.

    -n and --pod match either end. The NetworkLogging object `default` switches logging on and off. `-o json` prints
    the records unchanged, one a line.

    Where `logging.sinks` has no file, -f shows new records as the running agent makes them.

    Exit code 2: no record matches. Connections that aren't logged have none.
    """
    import time

    from nfagent.verdicts.records import timestamp

    settings = settings_of(config)
    earliest = "" if since is None else timestamp(max(0, time.time_ns() - since * 1_000_000_000))

    def matches(record: Record) -> bool:
        return (
            (verdict is None or record.disposition == verdict)
            and record.timestamp >= earliest
            and (not namespace or namespace in {record.src.pod_namespace, record.dest.pod_namespace})
            and (not pod or pod in {record.src.pod_path, record.dest.pod_path})
            and (not policy or policy in _policies(record))
        )

    form = _json_lines if output == "json" else _TextLines()
    if path is None and "file" not in settings.logging.sinks:
        batches = _streamed(settings, follow=follow)
    else:
        batches = _from_file(path or settings.verdict_log, follow=follow)
    context.exit(0 if _show(batches, matches, form) else 2)


def _streamed(settings: Settings, *, follow: bool) -> Iterator[list[bytes]]:
    """Yield new records of the running agent. Raises UsageError without -f."""
    from nfagent.cli.log_streamed import streamed_batches
    from nfagent.errors import UsageError

    if not follow:
        raise UsageError(
            "the settings write no log file: logging.sinks has none",
            hint="`nfagent logs -f` shows new records, --file PATH reads a file",
        )
    return streamed_batches(settings.socket_path)


def _from_file(log: Path, *, follow: bool) -> Iterator[list[bytes]]:
    """Yield the lines of a file and its older ones. Raises UsageError, HostError."""
    from nfagent.cli.log_follow import LogFollower, NoFileError
    from nfagent.errors import HostError, UsageError

    try:
        follower = LogFollower(log)
        if not follow and not follower.exists():
            raise UsageError(
                f"{log}: no verdict log yet; the NetworkLogging object `default` switches logging on, "
                "and --file PATH reads another file"
            )
        yield from follower.batches(follow=follow)
    except (PermissionError, IsADirectoryError, NoFileError) as error:
        raise HostError(f"{log} can't be read: {error.strerror}; use sudo, or another --file") from None


def _show(
    batches: Iterator[list[bytes]],
    matches: Callable[[Record], bool],
    form: Callable[[list[Record]], Iterator[str]],
) -> bool:
    """Write the matching records; return whether there were any."""
    from nfagent.cli.output import write_lines, write_remark

    total = unread = matching = 0
    try:
        for lines in batches:
            records = list(_decoded(lines))
            total += len(records)
            unread += len(lines) - len(records)
            kept = [record for record in records if matches(record)]
            matching += len(kept)
            if kept:
                write_lines(form(kept))
        if not matching:
            write_remark("note", _nothing(total))
    finally:
        if unread:
            write_remark("warning", f"skipped {counted(unread, 'invalid line')} of the log")
    return bool(matching)


def _nothing(total: int) -> str:
    if total:
        return f"none of {counted(total, 'record')} matches; is logging on for these connections?"
    return "the log has no records; the NetworkLogging object `default` switches logging on"


def _decoded(lines: list[bytes]) -> Iterator[Record]:
    from nfagent.errors import DecodeError
    from nfagent.verdicts.records import decode

    for text in lines:
        try:
            yield decode(text)
        except DecodeError:
            continue


def _json_lines(records: list[Record]) -> Iterator[str]:
    from nfagent.verdicts.records import encode

    return (encode(record).decode().rstrip("\n") for record in records)


class _TextLines:
    """Formats rows in aligned columns, batch by batch: a column grows and never shrinks."""

    def __init__(self) -> None:
        self._columns = list(_LEAST)
        self._begun = False

    def __call__(self, records: list[Record]) -> Iterator[str]:
        rows = [_row(record) for record in records]
        self._columns = widths(rows, self._columns)
        if rows and not self._begun:
            self._begun = True
            yield strong(line(_HEADER, widths([_HEADER], self._columns), {5}))
        columns = widths([_HEADER], self._columns)
        for row in rows:
            yield line(row, columns, {5})


def _row(record: Record) -> list[str]:
    connection = record.connection
    host = endpoint(record.dest.name, connection.dest_port)
    return [
        f"{record.timestamp[:23]}Z",
        paint(record.disposition),
        connection.direction,
        f"{record.src.name} -> {host}/{connection.protocol}",
        ", ".join(_policies(record)),
        str(record.count),
    ]


def _policies(record: Record) -> list[str]:
    return [policy.path for policy in (*record.policies, *record.isolating_policies)]
