"""Invented samples of latency runs, from a seed: for tests of the report, never results."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from nfagent.lab.latency.samples import (
    SCENARIOS,
    DataPath,
    LabSamples,
    LabSettings,
    Machine,
    Rate,
    ScenarioName,
    Series,
    Stage,
    Try,
)

_STAGES: dict[DataPath, dict[Stage, float]] = {
    "nftables": {"source": 400.0, "decode": 90.0, "compile": 150.0, "commit": 260.0, "first_packet": 250.0},
    "ebpf": {"source": 400.0, "decode": 90.0, "compile": 120.0, "commit": 40.0, "first_packet": 250.0},
}
"""Medians in microseconds."""


def tries(draw: random.Random, path: DataPath, count: int = 200, *, slower: float = 1.0) -> list[Try]:
    """Return invented tries; `slower` multiplies the stage commit."""
    return [_try(draw, path, slower) for _ in range(count)]


def even_tries(latency_us: float, count: int = 200, spread_us: float = 1.0, **stages_us: float) -> list[Try]:
    """Return tries with latencies evenly spread from `latency_us` on, all with the same stages."""
    stages = msgspec.convert(stages_us, dict[Stage, float])
    return [Try(latency_us + spread_us * number / count, stages) for number in range(count)]


def latency_samples(
    series: Sequence[Series], *, wanted: int = 200, rates: Sequence[Rate] = (), incomplete: str = ""
) -> LabSamples:
    """Return a run with these series."""
    return LabSamples(
        lab="test",
        driver="netns",
        command=["nfagent", "lab", "latency", "-o", "samples.json"],
        started="2026-01-31T12:00:00Z",
        seconds=1234.5,
        machine=Machine("Invented CPU", 2, 8 << 30, "6.1.0-invented", "Debian GNU/Linux 12 (bookworm)", "kvm"),
        versions={"nfagent": "0.0", "python": "3.11.2", "nft": "1.0.6", "clang": "14.0.6", "libbpf": "1.1.0"},
        settings=LabSettings(3, 5000, "routed", "manifests", wanted, 20, 500.0, 7),
        series=list(series),
        rates=list(rates),
        incomplete=incomplete,
    )


def whole_run(
    seed: int = 1,
    *,
    scenarios: Sequence[ScenarioName] = SCENARIOS,
    sizes: Sequence[int] = (0, 1000, 10000),
    count: int = 200,
    slower: float = 1.0,
) -> LabSamples:
    """Return a run of scenarios at sizes; the list of 10,000 elements is slow on nftables."""
    draw = random.Random(seed)  # noqa: S311 - reproducible, not secret
    series = [
        Series(
            scenario,
            policies,
            15000,
            path,
            tries(draw, path, count, slower=slower * _growth(scenario, path, policies)),
        )
        for scenario in scenarios
        for policies in sizes
        for path in _STAGES
    ]
    return latency_samples(series, wanted=count, rates=_rates(draw))


def _growth(scenario: ScenarioName, path: DataPath, policies: int) -> float:
    if path == "ebpf":
        return 1.0
    return (1 + policies / 20000) * (20 if scenario == "ip-block-10000" else 1)


def _try(draw: random.Random, path: DataPath, slower: float) -> Try:
    stages: dict[Stage, float] = {
        stage: round(median * draw.lognormvariate(0, 0.25) * (slower if stage == "commit" else 1), 3)
        for stage, median in _STAGES[path].items()
    }
    return Try(round(sum(stages.values()) + draw.uniform(0, 10), 3), stages)


def _rates(draw: random.Random) -> list[Rate]:
    medians: dict[str, dict[str, float]] = {
        "tcp_bits_per_second": {"nftables": 21e9, "ebpf": 24e9, "none": 25e9},
        "connections_per_second": {"nftables": 31000, "ebpf": 33000, "none": 36000},
        "cpu_ns_per_packet": {"nftables": 1450, "ebpf": 1210, "none": 1000},
        "rss_bytes": {"nftables": 180e6, "ebpf": 150e6},
    }
    return [
        msgspec.convert(
            {
                "path": path,
                "quantity": quantity,
                "policies": 1000,
                "pods": 15000,
                "values": [median * draw.lognormvariate(0, 0.02) for _ in range(5)],
            },
            Rate,
        )
        for quantity, of_path in medians.items()
        for path, median in of_path.items()
    ]
