"""`nfagent top`: Pods and policies by the packets that they allow and deny, as a live table."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from nfagent.cli.options import color_option, config_option, output_option, settings_of

if TYPE_CHECKING:
    from nfagent.cli.count_sampler import CountSampler
    from nfagent.cli.packet_rates import CountSample, SortKey

_HEADER = ("", "dir", "allowed", "/s", "denied", "/s", "audited")
_NUMBERS = {2, 3, 4, 5, 6}
_DUMB = {"dumb", "unknown"}
"""Terminals by their TERM that have no cursor to move: rich shows no live table there."""


@click.command(
    epilog="""\b
Example: nfagent top
         nfagent top -o json -n 10 --interval 5"""
)
@click.option("--sort", type=click.Choice(("denied", "allowed", "name")), default="denied", show_default=True)
@click.option("--interval", metavar="SECONDS", type=click.FloatRange(1, 3600), default=2.0, show_default=True)
@click.option("-n", "--samples", metavar="N", type=click.IntRange(1), help="End after so many samples.")
@config_option
@color_option
@output_option("text", "json")
@click.pass_context
def top(
    context: click.Context,
    *,
    sort: str,
    interval: float,
    samples: int | None,
    config: Path | None,
    output: str,
) -> None:
    """Show this node's Pods and policies by the packets that they allow and deny, with rates: a live table.

    Keys: d, a and n sort by denied, allowed and name; q leaves. Elsewhere than on a terminal it is one table, with the
    rates of one interval, or N tables.

    Counts are those of the kernel's counters, whether verdicts are logged or not: the first packet of each allowed
    connection, and every denied packet. The verdict log isn't read. `-` is not counted, or not known yet: a direction
    to which no policy applies, a verdict that a policy can't give, a rate where a count began anew or the agent was
    restarted.

    -o json is one sample, or N, each an object in a line; the first has no rates. While no agent answers, a line has
    `error`.

    Exit code 0: shown; 2: the agent didn't answer, or didn't know the counts of now (`problem`), at least once where it
    isn't live.
    """
    from nfagent.cli.count_sampler import CountSampler

    sampler = CountSampler(settings_of(config).socket_path, interval)
    by = cast("SortKey", sort)
    if output == "json":
        context.exit(_write_json(sampler, samples or 1, by))
    if sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "") not in _DUMB:
        from nfagent.cli.top_live import show_live

        context.exit(show_live(sampler, samples, by))
    context.exit(_write_tables(sampler, samples, by))


def _write_json(sampler: CountSampler, samples: int, by: SortKey) -> int:
    import json

    import msgspec

    from nfagent.cli.output import write_remark
    from nfagent.cli.packet_rates import ordered
    from nfagent.model.printable import printable_json

    code = 0
    for found in sampler.samples(samples):
        if isinstance(found, str):
            code = 2
            write_remark("error", found)
            value = {"error": found}
        else:
            code = 2 if found.problem else code
            pods, policies = ordered(found.pods, by), ordered(found.policies, by)
            value = msgspec.to_builtins(msgspec.structs.replace(found, pods=pods, policies=policies))
        click.echo(printable_json(json.dumps(value, ensure_ascii=False)))
        sys.stdout.flush()
    return code


def _write_tables(sampler: CountSampler, samples: int | None, by: SortKey) -> int:
    """Write one table with rates, or one for each sample; return the exit code. Raises UsageError without an agent."""
    from nfagent.cli.output import write_lines, write_remark
    from nfagent.cli.packet_rates import uncounted
    from nfagent.errors import UsageError

    code = 0
    for number, found in enumerate(sampler.samples(samples or 2)):
        if isinstance(found, str):
            hint = "" if "; " in found else "see: systemctl status nfagent; `nfagent check` says what this node lacks"
            raise UsageError(found, hint=hint)
        if samples is None and number == 0:
            continue
        if samples is not None and number:
            write_lines([""])
        write_lines(table_lines(found, by))
        if found.problem:
            write_remark("not known", found.problem)
        if remark := uncounted(found):
            write_remark("note", remark)
        code = 2 if found.problem else code
    return code


def table_lines(sample: CountSample, by: SortKey) -> list[str]:
    """Return the tables of Pods and of policies."""
    from nfagent.cli.packet_rates import ordered, row_cells
    from nfagent.cli.tables import table

    lines: list[str] = []
    for title, rows in (("Pod", sample.pods), ("policy", sample.policies)):
        lines += [""] if lines else []
        if rows:
            cells = (list(row_cells(row)) for row in ordered(rows, by))
            lines += table((title, *_HEADER[1:]), cells, _NUMBERS)
        else:
            none = "no Pod of this node" if title == "Pod" else "no policy selects a Pod of this node"
            lines.append(f"{none}{', as far as is known' if sample.problem else ''}")
    return lines
