"""Writes reports: a page, its plots as PNG, and the raw samples, into one folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from nfagent.errors import HostError
from nfagent.lab.latency.samples import LabSamples, encode_samples
from nfagent.lab.report.comparison import Comparison, compare
from nfagent.lab.report.drawing import Plot, require_matplotlib
from nfagent.lab.report.page import comparison_page, report_page
from nfagent.lab.report.plots import cdf_plot, growth_plot, ratio_plot, stage_plot
from nfagent.lab.report.summary import Summary, summarize
from nfagent.lab.report.verdict import LEAST_TRIES, Pair

PAGE, SAMPLES = "report.html", "samples.json"


def write_report(samples: LabSamples, folder: Path) -> Summary:
    """Write report.html, samples.json and a PNG for each plot into a folder, which is made; return the verdict.

    The page is written last. Raises HostError: without matplotlib, or where the folder can't be written.
    """
    require_matplotlib()
    summary = summarize(samples)
    overview = [plot for percent in LEAST_TRIES if (plot := ratio_plot(summary.verdicts, percent))]
    plots = _plots_by_scenario([verdict.pair for verdict in summary.verdicts])
    page = report_page(samples, summary, overview, plots)
    every = [*overview, *(plot for rows in plots.values() for row in rows for plot in row)]
    files = {f"{plot.name}.png": plot.png for plot in every}
    _write(folder, {SAMPLES: encode_samples(samples), **files, PAGE: page.encode()})
    return summary


def write_comparison(runs: tuple[tuple[str, LabSamples], tuple[str, LabSamples]], folder: Path | None) -> Comparison:
    """Compare two runs, each a file's name and its samples; write report.html into a folder, if one is given.

    Raises HostError where the folder can't be written.
    """
    (_, a), (_, b) = runs
    comparison = compare(a, b)
    if folder is not None:
        named = [(letter, *run) for letter, run in zip("AB", runs, strict=True)]
        _write(folder, {PAGE: comparison_page(comparison, named).encode()})
    return comparison


def _plots_by_scenario(pairs: list[Pair]) -> dict[str, list[list[Plot]]]:
    """Return the plots of each scenario in rows: growth, distributions, stages."""
    found: dict[str, list[list[Plot]]] = {}
    for (scenario, _), of_scenario in groupby(pairs, key=lambda pair: (pair.scenario, pair.pods)):
        same = list(of_scenario)
        distributions = [cdf_plot(pair, beside=same) for pair in same]
        stages = [stage_plot(pair, beside=same) for pair in same]
        rows = [[*distributions, *stages]] if len(same) == 1 else [[growth_plot(same)], distributions, stages]
        found.setdefault(scenario, []).extend([plot for plot in row if plot] for row in rows)
    return found


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            _replace(folder / name, content)
    except OSError as error:
        raise HostError(
            f"{error.filename or folder}: cannot be written: {error.strerror}",
            hint="give another folder with --folder DIR",
        ) from None


def _replace(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
