"""`nfagent matrix` and `nfagent try --pods` at 5,000 Pods: the agent's longest turn, and what command and agent take.

The agent's own server answers over its unix socket, from a synthetic cluster; the command is a process of its own. A
turn is measured in CPU time of the thread, as in `introspection`; memory is the peak of the resident set, of the agent
beyond what it had before the request.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.harness.command_usage import run_measured
from benchmarks.harness.synthetic_agent import answerer
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from benchmarks.suites.introspection import MeteredLoop
from nfagent.desired.state import DesiredState
from nfagent.introspection import http_server
from nfagent.lab.objects.synthetic import Size, synthetic
from nfagent.system.gc_tuning import collect_and_freeze, relax_collection
from nfagent.time_slices import TimeSlices

_LONGEST_MS = 20
_SIZE, _SMALL = Size(5_000, 1_000, 100, 40), Size(1_000, 200, 50, 20)
_KIB = 1024
_TIER = """
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: wall}
spec:
  priority: 1
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{portNumber: {protocol: TCP, port: 8080}}]}]
"""


class _Taken(msgspec.Struct):
    """What a command took: seconds (of the agent's longest turn, in all, of CPU), memory in MiB, bytes of output."""

    code: int
    longest: float
    seconds: float
    agent_cpu: float
    command_cpu: float
    agent_mib: float
    command_mib: float
    printed: int


@bench("matrix", "`matrix` and `try --pods` at 5,000 Pods: the longest turn of the event loop, time and memory")
def matrix(run: Run) -> Iterator[Row]:
    """Run every command against one agent."""
    size = _SMALL if run.quick else _SIZE
    cluster = synthetic(size, run.seed)
    desired = DesiredState(cluster.node)
    for item in cluster.items():
        desired.put(item)
    desired.ruleset()
    relax_collection()
    collect_and_freeze()
    with tempfile.TemporaryDirectory() as folder:
        wall = Path(folder) / "wall.yaml"
        wall.write_text(_TIER)
        one = cluster.pods[-1].ref
        for words in (
            ("matrix", "-n", one.namespace),
            ("matrix",),
            ("matrix", "--port", "8080"),
            ("matrix", "-o", "html"),
            ("matrix", "-o", "json"),
            ("try", "-f", str(wall), "--pods", "--pod", one.path),
            ("try", "-f", str(wall), "--pods", "-n", one.namespace),
            ("try", "-f", str(wall), "--pods"),
        ):
            shown = " ".join(words).replace(str(wall), "wall.yaml")
            run.progress(shown)
            taken = _measured(desired, Path(folder), words)
            yield Row(
                name=f"{shown}, {size.pods:,} Pods",
                unit="ms",
                values=[taken.longest * 1e3],
                targets=(at_most("max", _LONGEST_MS),),
                note=(
                    f"exit code {taken.code}; {taken.printed:,} bytes in {taken.seconds:.1f} s; CPU: agent "
                    f"{taken.agent_cpu:.1f} s, command {taken.command_cpu:.1f} s; memory: command "
                    f"{taken.command_mib:.0f} MiB, agent {taken.agent_mib:+.0f} MiB"
                ),
            )


def _measured(desired: DesiredState, folder: Path, words: tuple[str, ...]) -> _Taken:
    loop, turns = MeteredLoop(), TimeSlices()

    async def serve() -> _Taken:
        answers = answerer(desired, turns)
        runner = await http_server.serve(folder / "agent.sock", answers, turns, routes=answers.routes)
        before = _reset_peak()
        loop.longest = 0.0
        began, spent = time.monotonic(), time.thread_time()
        used = await asyncio.to_thread(run_measured, words, folder, {"COLUMNS": "100"}, folder / "out")
        taken = _Taken(
            code=used.code,
            longest=loop.longest,
            seconds=time.monotonic() - began,
            agent_cpu=time.thread_time() - spent,
            command_cpu=used.cpu,
            agent_mib=(_memory("VmHWM") - before) / _KIB,
            command_mib=used.mib,
            printed=(folder / "out").stat().st_size,
        )
        await runner.cleanup()
        return taken

    taken = loop.run_until_complete(serve())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    return taken


def _reset_peak() -> int:
    """Have the peak of memory begin anew (proc(5), clear_refs); return the resident set in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
