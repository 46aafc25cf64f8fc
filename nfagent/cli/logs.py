"""`nfagent logs`: the verdict log, filtered, or added up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfagent.cli.log_filter_options import FilterCommand, filter_of, filter_options
from nfagent.cli.log_times import DEFAULT_FORMAT, TIME_FORMATS, parse_when
from nfagent.cli.options import color_option, config_option, manifests_option, output_option, settings_of

if TYPE_CHECKING:
    from nfagent.cli.log_source import LogSource
    from nfagent.verdicts.records import Record

_LAST_ON_TERMINAL = 20
_NUMBER = click.IntRange(1)
_MOST_ROWS = 100_000


def _timestamp(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    import time

    from nfagent.verdicts.records import timestamp

    return "" if value is None else timestamp(parse_when(value, time.time_ns()))


@click.command(
    cls=FilterCommand,
    epilog="""\b
Example: nfagent logs -f --verdict deny --to shop/db --since 5m
         nfagent logs --from app=web --not --to-port 53 --all
         nfagent logs --top --since 1h""",
)
@click.option("-f", "--follow", is_flag=True, help="Keep printing new records.")
@click.option("--last", metavar="N", type=_NUMBER, help="The last N records; on a terminal 20, elsewhere all.")
@click.option("--first", metavar="N", type=_NUMBER, help="The first N records.")
@click.option("--all", "whole", is_flag=True, help="All records, on a terminal too.")
@click.option(
    "--since", metavar="TIME", callback=_timestamp, help="From 5m, 1h30m or 2d ago, 10:15 or 2026-01-31T10:15."
)
@click.option("--until", metavar="TIME", callback=_timestamp, help="Before that time.")
@filter_options
@click.option(
    "--summary",
    metavar="[N]",
    is_flag=False,
    flag_value=20,
    type=click.IntRange(1, _MOST_ROWS),
    help="Who talks to whom: the N pairs with the most packets, 20 by default.",
)
@click.option(
    "--top",
    metavar="[N]",
    is_flag=False,
    flag_value=10,
    type=click.IntRange(1, _MOST_ROWS),
    help="What is denied most, by source, destination, port and policy: N of each, 10 by default.",
)
@click.option(
    "--time-format",
    type=click.Choice(TIME_FORMATS, case_sensitive=False),
    metavar="NAME",
    default=DEFAULT_FORMAT,
    show_default=True,
    help=f"Format of times: {', '.join(TIME_FORMATS)}. Those of RFC 3339 are UTC, the others local.",
)
@click.option(
    "--file",
    "--input-file",
    "path",
    metavar="PATH",
    type=click.Path(path_type=Path, readable=False),
    help="Read this file instead; - for stdin.",
)
@manifests_option
@config_option
@color_option
@output_option("compact", "wide", "json", "text")
@click.pass_context
def logs(  # noqa: PLR0913 - one argument for each option
    context: click.Context,
    *,
    follow: bool,
    last: int | None,
    first: int | None,
    whole: bool,
    since: str,
    until: str,
    summary: int | None,
    top: int | None,
    time_format: str,
    path: Path | None,
    manifests: Path | None,
    config: Path | None,
    output: str,
) -> None:
    """Show the verdict log, oldest first: allowed and denied connections, with the policies that decided.

    The same filter several times: either value; different filters: all of them. A PEER is shop/web (a Pod),
    'shop/web-*' (Pods by prefix), shop (a namespace), app=web (a label selector), 10.0.0.0/8, node, or world (outside
    the cluster). Labels and Nodes are those of now: the running agent knows them, or --manifests.

    The NetworkLogging object `default` switches logging on and off. `-o json` prints the records unchanged, one a line;
    `text` is another name of `compact`.

    Where `logging.sinks` has no file, the running agent shows the latest 4,095 records, and with -f new ones.

    Exit code 2: no record matches. Connections that aren't logged have none.
    """
    from nfagent.cli.log_reading import Selection
    from nfagent.cli.log_source import LogSource

    added = summary is not None or top is not None
    _check_options(
        {"-f": follow, "--first": first, "--last": last, "--all": whole, "--until": until},
        {"--summary": summary, "--top": top},
    )
    _check_times(since, until)
    source = LogSource(settings_of(config), path, filter_of(context, since, until))
    by_default = sys.stdout.isatty() and not (last or first or whole or since or until or added)
    selection = Selection(first or 0, _LAST_ON_TERMINAL if by_default else last or 0, follow)
    batches = source.batches(selection, manifests)
    try:
        if added:
            _show_sums(batches, source, output, time_format, (summary, top))
        else:
            _show(batches, output, time_format)
    finally:
        source.write_unread()
    source.write_remarks(cut_at=_LAST_ON_TERMINAL if by_default and not follow else 0)
    context.exit(0 if source.counts.matching else 2)


_EXCLUSIVE = (("--first", "--last"), ("--first", "--all"), ("--last", "--all"), ("-f", "--first"), ("-f", "--until"))
"""Options that contradict each other."""


def _check_options(asked: dict[str, object], added: dict[str, object]) -> None:
    """Raise UsageError for options that can't be had together."""
    from nfagent.errors import UsageError

    pairs = [*_EXCLUSIVE, ("--summary", "--top"), ("-f", "--summary"), ("-f", "--top")]
    given = {name for name, value in (asked | added).items() if value}
    for one, other in pairs:
        if {one, other} <= given:
            raise UsageError(f"{one} and {other} exclude each other; leave one of them out")


def _check_times(since: str, until: str) -> None:
    """Raise UsageError for times between which there can be no record."""
    import time

    from nfagent.errors import UsageError
    from nfagent.verdicts.records import timestamp

    if since and until and since >= until:
        raise UsageError(f"--since ({since}) isn't before --until ({until}): no record can be between them")
    if since > timestamp(time.time_ns()):
        raise UsageError(
            f"--since ({since}) is in the future; name the day, as in 2026-01-31T10:15, for an earlier one"
        )


def _show(batches: Iterator[list[Record]], output: str, time_format: str) -> None:
    from nfagent.cli.log_rows import TextLines, json_lines
    from nfagent.cli.output import write_lines, write_whole
    from nfagent.cli.reader import end_with_reader

    form = json_lines if output == "json" else TextLines("wide" if output == "wide" else "compact", time_format)
    write = write_whole if output == "json" else write_lines
    end_with_reader()
    for records in batches:
        if records:
            write(form(records))


def _show_sums(
    batches: Iterator[list[Record]],
    source: LogSource,
    output: str,
    time_format: str,
    numbers: tuple[int | None, int | None],
) -> None:
    """Write who talks to whom, or what is denied most. numbers: of rows, of --summary and --top."""
    import msgspec

    from nfagent.cli.log_summary_text import summary_lines, top_lines
    from nfagent.cli.output import emit, write_lines
    from nfagent.verdicts.record_summary import RecordSummary, SummaryView, TopDenied

    pairs, most = numbers
    found: RecordSummary | TopDenied = RecordSummary() if pairs else TopDenied()
    for records in batches:
        for record in records:
            found.add(record)
    view = msgspec.structs.replace(found.view(pairs or most or 1), unknown_pods=source.unknown_pods)
    if output == "json":
        emit(msgspec.to_builtins(view), "json")
    elif source.counts.matching:
        write_lines(summary_lines(view, time_format) if isinstance(view, SummaryView) else top_lines(view, time_format))
