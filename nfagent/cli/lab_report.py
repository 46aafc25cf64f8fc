"""`nfagent lab report`: what a latency run found, and two runs next to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from nfagent.cli.options import output_option

_FILE = click.Path(path_type=Path, readable=False)


@click.command("report", epilog="Example: nfagent lab report samples.json --folder report")
@click.argument("samples", metavar="[SAMPLES.json]", type=_FILE, required=False)
@click.option("--folder", metavar="DIR", type=_FILE, help="Where to write.  [default: NAME-report beside NAME.json]")
@click.option(
    "--compare", metavar="A B", type=(_FILE, _FILE), help="Two files of samples: how long changes take in B, by A."
)
@output_option("text", "json")
def report_command(
    samples: Path | None, folder: Path | None, compare: tuple[Path, Path] | None, output: Literal["text", "json"]
) -> None:
    """Write the report of a latency run: a page, plots, raw samples.

    The page, report.html, loads nothing from elsewhere; the plots are beside it as PNG. With --compare it compares two
    runs, and writes a page only with --folder.
    """
    if compare is not None:
        if samples is not None:
            raise click.UsageError(f"--compare takes two files, and {samples} is a third one; leave it out")
        _compare(compare, folder, output)
    elif samples is None:
        raise click.UsageError("no samples given; give the file that `nfagent lab latency -o FILE` wrote")
    else:
        _report(samples, folder, output)


def _report(file: Path, folder: Path | None, output: str) -> None:
    from nfagent.cli.lab_report_text import summary_lines
    from nfagent.cli.output import emit, write_lines
    from nfagent.lab.latency.samples import read_samples
    from nfagent.lab.report.folder import PAGE, write_report
    from nfagent.lab.report.values import summary_values

    target = folder or file.with_name(f"{file.name.removesuffix('.json')}-report")
    summary = write_report(read_samples(file), target)
    if output == "json":
        emit({"report": str(target / PAGE), **summary_values(summary)}, output)
    else:
        write_lines([*summary_lines(summary), f"report: {target / PAGE}"])


def _compare(files: tuple[Path, Path], folder: Path | None, output: str) -> None:
    from nfagent.cli.lab_report_text import comparison_lines
    from nfagent.cli.output import emit, write_lines
    from nfagent.lab.latency.samples import read_samples
    from nfagent.lab.report.folder import PAGE, write_comparison
    from nfagent.lab.report.values import comparison_values

    a, b = ((str(file), read_samples(file)) for file in files)
    comparison = write_comparison((a, b), folder)
    if output == "json":
        emit(comparison_values(comparison), output)
    else:
        page = [f"report: {folder / PAGE}"] if folder else []
        write_lines([*comparison_lines(comparison, a[0], b[0]), *page])
