"""Verdicts and comparisons as values for `-o json`; a figure that isn't known is null, and so is one without bound."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from nfagent.lab.report.comparison import Comparison
from nfagent.lab.report.statistics import Estimate, ratio_estimate
from nfagent.lab.report.summary import Summary
from nfagent.lab.report.verdict import AIM, RatioVerdict


def summary_values(summary: Summary) -> dict[str, Any]:
    """Return the verdict of a run."""
    return {
        "headline": summary.headline,
        "aim": AIM,
        "complete": not summary.gaps,
        "gaps": list(summary.gaps),
        "findings": [finding.text for finding in summary.findings],
        "verdicts": [
            {
                "scenario": verdict.pair.scenario,
                "policies": verdict.pair.policies,
                "pods": verdict.pair.pods,
                "outcome": verdict.outcome,
                **{f"p{quantile.percent}": _verdict_values(quantile) for quantile in verdict.quantiles},
            }
            for verdict in summary.verdicts
        ],
    }


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison."""
    return {
        "headline": comparison.headline,
        "complete": not comparison.gaps,
        "gaps": list(comparison.gaps),
        "differences": list(comparison.differences),
        "changes": [
            {
                "scenario": change.scenario,
                "policies": change.policies,
                "pods": change.pods,
                "path": change.path,
                **{
                    f"p{quantile.percent}": {
                        "change": quantile.change,
                        "ratio": _estimate_values(quantile.ratio),
                        "reason": quantile.reason,
                    }
                    for quantile in change.quantiles
                },
            }
            for change in comparison.changes
        ],
        "rates": [
            {
                **msgspec.structs.asdict(change.key),
                "path": change.path,
                "ratio": _estimate_values(ratio_estimate(change.b, change.a, 50)),
            }
            for change in comparison.rates
        ],
    }


def _verdict_values(verdict: RatioVerdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome,
        "ratio": _estimate_values(verdict.ratio),
        "reason": verdict.reason,
        "stage": verdict.stage,
        "stage_us": verdict.stage_us,
    }


def _estimate_values(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    figures = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: figure if math.isfinite(figure) else None for name, figure in figures.items()}
