"""`nfagent lab latency`: how long until a change takes effect, by nftables and by eBPF in turns.

For each number of background policies, a lab for each path is built; each scenario's changes are made in both in
turns, the order alternating; then rates are measured. Samples are written after each scenario: an interrupted run keeps
what it has, marked as incomplete.
"""

from __future__ import annotations

import datetime as dt
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from nfagent.errors import HostError, NfagentError
from nfagent.lab.cluster.plan import LabSource
from nfagent.lab.cluster.running_labs import scratch_prefix, sweep_killed
from nfagent.lab.ebpf.check import ebpf_check
from nfagent.lab.latency.cluster import LatencyCluster, latency_cluster
from nfagent.lab.latency.labs import TAG, Background, build_lab, plain_topology
from nfagent.lab.latency.machine_facts import machine, versions
from nfagent.lab.latency.prober import INTERVAL_US
from nfagent.lab.latency.progress import LatencyProgress
from nfagent.lab.latency.rates import ROUNDS, measure_rates, resident_bytes
from nfagent.lab.latency.samples import (
    DataPath,
    LabSamples,
    LabSettings,
    Rate,
    RatePath,
    ScenarioName,
    Series,
    Try,
    encode_samples,
)
from nfagent.lab.latency.scenarios import Cycle, admitting, cycles
from nfagent.lab.latency.try_ import MeasuredLab, Outcome
from nfagent.lab.machine import requirements
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import Attachment
from nfagent.system.interrupts import interrupting

WARMUP = 5
"""Tries that aren't recorded, before those that are."""

_MORE_TURNS = 1.5
"""Turns of a scenario at most, as a multiple of the tries: disturbed ones are made again."""
_SPARE_TURNS = 20
"""Turns beside the tries that a run of few tries may have: else a few disturbed ones are a scenario without samples."""

_BASE_MIB, _POD_MIB, _POLICY_MIB, _PLANE_MIB = 200, 0.03, 0.02, 1500


class LatencyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure.

    policies: numbers of background policies; pods: of the cluster
    tries:    of each scenario, number of policies and path, after `warmup` others
    """

    output: Path
    scenarios: tuple[ScenarioName, ...]
    policies: tuple[int, ...]
    pods: int
    tries: int
    warmup: int = WARMUP
    source: LabSource = "manifests"
    paths: tuple[DataPath, ...] = ("nftables", "ebpf")
    attachment: Attachment = "routed"
    seed: int = 20_240


def run_latency(options: LatencyOptions, progress: LatencyProgress) -> LabSamples:
    """Measure, and return the samples, which were written to the file by then.

    Raises UsageError for options that can't be had, HostError for what the machine lacks, KernelError, ClusterError,
    KeyboardInterrupt; by then the samples so far were written.
    """
    cluster = latency_cluster(options.pods, max(options.policies), options.seed, options.attachment)
    _check(options)
    sweep_killed()
    run = _Run(options, cluster, progress)
    with interrupting(), tempfile.TemporaryDirectory(prefix=scratch_prefix(TAG)) as folder:
        try:
            for policies in options.policies:
                run.measure_size(policies, Path(folder, str(policies)))
        except KeyboardInterrupt:
            run.write("interrupted")
            raise
        except NfagentError as error:
            run.write(str(error))
            raise
    return run.write()


def _check(options: LatencyOptions) -> None:
    requirements.check_root()
    requirements.check_programs(("ip", "nft", "setpriv"))
    requirements.check_compiler()
    if "ebpf" in options.paths:
        for lack in (check for check in ebpf_check() if check.result == "FAIL"):
            fix = f"{lack.fix}; or measure nftables alone: --paths nftables"
            raise HostError(f"the eBPF path lacks {lack.name}: {lack.found}", hint=fix)
    requirements.check_writable(options.output)
    labs = len(options.paths)
    mib = labs * (_BASE_MIB + options.pods * _POD_MIB + max(options.policies) * _POLICY_MIB)
    mib += labs * _PLANE_MIB * (options.source == "apiserver")
    requirements.check_memory(round(mib), "measure a smaller cluster, as with --pods 1000 --policies 0,1000")


class _Run:
    """One run: what was measured so far."""

    def __init__(self, options: LatencyOptions, cluster: LatencyCluster, progress: LatencyProgress) -> None:
        self._options = options
        self._cluster = cluster
        self._progress = progress
        self._began = time.monotonic()
        self._started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self._order = random.Random(options.seed)  # noqa: S311 - an order of measurements
        self._series: list[Series] = []
        self._rates: list[Rate] = []
        self._cycles = [each for each in cycles(cluster) if set(each.scenarios) & set(options.scenarios)]
        turns = options.tries + options.warmup
        self._progress.plan([len(options.policies) * turns * cycle.weight for cycle in self._cycles])

    def measure_size(self, policies: int, folder: Path) -> None:
        """Measure all scenarios and rates with so many background policies."""
        options = self._options
        background = Background(self._cluster, self._cluster.documents(policies), options.source)
        with ExitStack() as stack:
            topologies: dict[RatePath, NetnsTopology] = {}
            labs = []
            for path in options.paths:
                self._progress.say(f"{policies:,} policies: lab with {path}")
                lab, topologies[path] = build_lab(stack, path, background, folder / path)
                labs.append(lab)
            for cycle in self._cycles:
                self._progress.say(f"{policies:,} policies: {', '.join(cycle.scenarios)}")
                self._measure_cycle(labs, cycle, policies)
                self.write("still running")
            self._progress.say(f"{policies:,} policies: rates")
            topologies["none"] = stack.enter_context(plain_topology(self._cluster))
            self._measure_rates(labs, topologies, policies)

    def _measure_cycle(self, labs: Sequence[MeasuredLab], cycle: Cycle, policies: int) -> None:
        options = self._options
        for lab in labs:
            lab.settle(cycle.standing)
        found: dict[tuple[ScenarioName, DataPath], list[Outcome]] = {
            (scenario, lab.path): [] for scenario in cycle.scenarios for lab in labs
        }
        disturbed = 0
        with self._kept(found, policies):
            most = max(round(options.tries * _MORE_TURNS), options.tries + _SPARE_TURNS)
            for turn in range(options.warmup + most):
                self._progress.turn(cycle.weight)
                for key, outcome in _outcomes(labs if turn % 2 else labs[::-1], cycle):
                    if turn < options.warmup:
                        continue
                    if outcome.disturbed:
                        disturbed += 1
                    elif len(found[key]) < options.tries:
                        found[key].append(outcome)
                if all(len(outcomes) == options.tries for outcomes in found.values()):
                    break
        wanted = {key: outcomes for key, outcomes in found.items() if key[0] in options.scenarios}
        self._progress.series(policies, wanted, disturbed)
        self._progress.relapses({lab.path: lab.relapses for lab in labs if lab.relapses})

    @contextmanager
    def _kept(self, found: dict[tuple[ScenarioName, DataPath], list[Outcome]], policies: int) -> Iterator[None]:
        """Keep what was found, also after an interrupt."""
        try:
            yield
        finally:
            self._series += [
                Series(scenario, policies, self._options.pods, path, [_sample(each) for each in outcomes])
                for (scenario, path), outcomes in found.items()
                if outcomes and scenario in self._options.scenarios
            ]

    def _measure_rates(
        self, labs: Sequence[MeasuredLab], topologies: dict[RatePath, NetnsTopology], policies: int
    ) -> None:
        size = policies, self._options.pods
        for lab in labs:
            lab.settle(admitting(self._cluster))
        rounds = min(ROUNDS, self._options.tries)
        self._rates += measure_rates(topologies, self._cluster, size, self._order, rounds=rounds)
        self._rates += [Rate(lab.path, "rss_bytes", *size, [resident_bytes(lab.pid)]) for lab in labs]

    def write(self, incomplete: str = "") -> LabSamples:
        """Write the samples so far; incomplete: why these aren't all."""
        options = self._options
        samples = LabSamples(
            lab="latency",
            driver="netns",
            command=["nfagent", *sys.argv[1:]],
            started=self._started,
            seconds=round(time.monotonic() - self._began, 1),
            machine=machine(),
            versions=versions(),
            settings=LabSettings(
                nodes=len(self._cluster.nodes),
                pods_per_node=1,
                attachment=options.attachment,
                source=options.source,
                tries=options.tries,
                warmup=options.warmup,
                probe_interval_us=INTERVAL_US,
                seed=options.seed,
            ),
            series=self._series,
            rates=self._rates,
            incomplete=incomplete,
        )
        beside = options.output.with_name(f".{options.output.name}.new")
        beside.write_bytes(encode_samples(samples))
        beside.rename(options.output)
        return samples


def _outcomes(labs: Sequence[MeasuredLab], cycle: Cycle) -> Iterator[tuple[tuple[ScenarioName, DataPath], Outcome]]:
    """Make the changes of a cycle in each lab, in the order of the labs; yield those that are recorded."""
    pids = [lab.pid for lab in labs]
    for step in cycle.steps:
        for lab in labs:
            outcome = lab.try_step(step, pids)
            if step.scenario is not None:
                yield (step.scenario, lab.path), outcome


def _sample(outcome: Outcome) -> Try:
    return Try(outcome.latency, outcome.stages, outcome.write)
