"""`nfagent lab demo`: all features of nfagent in under a minute, on this machine, in network namespaces.

Two nodes with two Pods each and an outside host; an agent on each node, with the manifests of `examples/demo/`. Each
step prints its name and its result, and reports a result that isn't the expected one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.errors import KernelError, UsageError
from nfagent.lab.cluster.agents import LabAgent, LabCluster
from nfagent.lab.cluster.running_labs import scratch_prefix, sweep_killed
from nfagent.lab.demo.egress import EgressNatStep
from nfagent.lab.demo.output import DemoOutput
from nfagent.lab.machine import requirements
from nfagent.lab.machine.patience import patient
from nfagent.lab.probes.first_packet import watch_change
from nfagent.lab.probes.listeners import Endpoint, Listeners, ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe, ProbeResult, run_probes
from nfagent.lab.probes.traffic import StreamPlan, TrafficStreams
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, OutsideHost, PodPlan
from nfagent.manifests.snapshot import read_state

TAG = "demo"
OUTSIDE = OutsideHost("outside", ("198.51.100.10", "10.200.0.10", "2001:db8:99::10"))
_POLICY = "policy-db.yaml"
_EGRESS = "egress-web.yaml"
_PORTS: list[tuple[ProbeProtocol, int]] = [("tcp", 80), ("tcp", 5432)]
_TARGETS = (("shop", "web", 80), ("shop", "api", 80), ("shop", "db", 80), ("shop", "db", 5432))
_ROUNDS = 20
_STREAM, _STREAMED = 7000, 100
_RECORD_SECONDS, _VERDICT_SECONDS = patient(30.0), patient(30.0)


def run_demo(*, output: Literal["text", "json"] = "text") -> int:
    """Run the demo and print its steps; return 0 when all results are as expected, otherwise 1. Raises HostError."""
    requirements.check_root()
    requirements.check_programs(("ip", "nft", "setpriv"))
    printer = DemoOutput(quiet=output == "json")
    sweep_killed()
    before = signal.signal(signal.SIGTERM, _interrupt)
    scratch = Path(tempfile.mkdtemp(prefix=scratch_prefix(TAG)))
    try:
        result = _Demo(printer, scratch, _examples()).run()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)
    if output == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")
    return 0 if result["as_expected"] else 1


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _examples() -> Path:
    for parent in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (parent / "examples" / "demo").is_dir():
            return parent / "examples" / "demo"
    raise UsageError("no folder examples/demo here; run the demo in a checkout of nfagent: make demo")


def plans(desired: DesiredState) -> tuple[tuple[NodePlan, ...], tuple[PodPlan, ...]]:
    """Return the plans of the manifests' nodes and Pods."""
    nodes = tuple(
        NodePlan(node.name, node.addresses, tuple(map(str, node.pod_cidrs))) for node in desired.cluster.nodes.values()
    )
    pods = tuple(
        PodPlan(pod.namespace, pod.name, pod.node, pod.addresses)
        for pod in desired.cluster.pods.values()
        if pod.holds_addresses
    )
    return nodes, pods


class _Demo:
    """One run of the demo: its topology, agents and results."""

    def __init__(self, printer: DemoOutput, scratch: Path, examples: Path) -> None:
        self._printer = printer
        self._scratch = scratch
        self._examples = examples
        self._manifests = scratch / "manifests"
        self._desired, _ = read_state(examples, "node-a", MasqueradeSettings(), 100)
        self._result: dict[str, Any] = {"as_expected": True}
        self._servers = Listeners()
        self._topology: NetnsTopology
        self._cluster: LabCluster

    def run(self) -> dict[str, Any]:
        """Build the topology, run the steps, remove everything; return the result for `-o json`."""
        began = time.monotonic()
        self._manifests.mkdir()
        for path in sorted(self._examples.iterdir()):
            if path.name not in {_POLICY, _EGRESS}:
                shutil.copy(path, self._manifests)
        self._printer.title("nfagent: two nodes, four Pods and an outside host, in network namespaces")
        with contextlib.ExitStack() as stack:
            self._build(stack)
            self._before()
            self._with_policy()
            self._live()
            self._outside()
            self._egress()
            self._records()
            self._explain()
            self._damage()
            self._latency()
            self._printer.step("Clean up")
        left = netns.named(netns.prefix(TAG, os.getpid()))
        self._expect(not left, f"left behind: {', '.join(left)}")
        self._result["seconds"] = round(time.monotonic() - began, 1)
        if not left:
            self._printer.text("agents stopped, network namespaces removed")
        self._close()
        return self._result

    def _build(self, stack: contextlib.ExitStack) -> None:
        nodes, pods = plans(self._desired)
        self._printer.step("Build the cluster and start an agent on each node")
        began = time.monotonic()
        self._topology = stack.enter_context(NetnsTopology(nodes, pods, (OUTSIDE,), tag=TAG))
        stack.enter_context(self._servers)
        self._servers.listen(pod_endpoints(self._topology, _PORTS))
        outside = self._topology.outside_namespace(OUTSIDE.name)
        self._servers.listen(Endpoint(outside, address, "tcp", 443) for address in OUTSIDE.addresses)
        self._cluster = LabCluster(self._topology, self._manifests, self._scratch)
        stack.enter_context(self._cluster)
        rows = [[f"{pod.namespace}/{pod.name}", pod.node, *pod.addresses] for pod in pods]
        rows.append([OUTSIDE.name, "(no node)", *OUTSIDE.addresses])
        self._printer.table(["Pod", "node", "addresses"], rows)
        self._printer.text(f"topology built, {len(nodes)} agents ready after {time.monotonic() - began:.1f} s")

    def _before(self) -> None:
        self._printer.step("Without a NetworkPolicy every Pod reaches every Pod")
        reached = self._matrix()
        self._expect(all(reached.values()), "a Pod can't reach another although there is no NetworkPolicy")

    def _with_policy(self) -> None:
        self._printer.step(f"Add {_POLICY}: only shop/api may connect to shop/db, and only to its port postgres")
        text = (self._examples / _POLICY).read_text("utf-8")
        self._printer.block(line for line in text.splitlines() if not line.startswith("#"))
        self._cluster.write(_POLICY, text)
        reached = self._matrix()
        wanted = {key: key[1] != "shop/db" or (key[0], key[2]) == ("shop/api", 5432) for key in reached}
        self._expect(reached == wanted, "the NetworkPolicy isn't enforced as written")

    def _live(self) -> None:
        self._printer.step(
            f"Live connections from shop/db and shop/web to guest/visitor while {_POLICY} is added again"
        )
        self._cluster.delete(_POLICY)
        visitor = self._topology.pod_namespace("guest", "visitor")
        with TrafficStreams() as streams:
            opened = {
                name: streams.open(
                    StreamPlan(
                        client=visitor,
                        server=self._topology.pod_namespace("shop", name),
                        address=self._topology.pods["shop", name].addresses[0],
                        protocol="udp",
                        port=_STREAM,
                        speaker="server",
                    )
                )
                for name in ("db", "web")
            }
            streams.wait_for(_STREAMED, *opened.values())
            self._cluster.write(_POLICY, (self._examples / _POLICY).read_text("utf-8"))
            committed = self._cluster.agent("node-b").ask("/v1/dump/state")["agent"]["revoke"]["suspected_at"]
            streams.wait_until_sent(_STREAMED, *opened.values())
            arrivals = {name: found.received for name, found in opened.items()}
            numbers = opened["web"].numbers()
            after = {name: len(found.passed_after(committed)) for name, found in opened.items()}
        rows = [[f"shop/{name}", str(arrivals[name] - after[name]), str(after[name])] for name in ("db", "web")]
        self._printer.table(["sender", "packets before the commit", "after it"], rows)
        lossless = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        as_promised = not after["db"] and after["web"] > 0 and lossless
        if as_promised:
            self._printer.text("the connection that the policy denies ended with the commit; the other lost no packet")
        self._result["live"] = {"revoked_after_commit": after["db"], "allowed_after_commit": after["web"]}
        self._expect(as_promised, "a denied connection went on, or an allowed one lost packets")

    def _matrix(self) -> dict[tuple[str, str, int], bool]:
        pods = list(self._topology.pods.values())
        probes = {
            (f"{pod.namespace}/{pod.name}", f"{namespace}/{name}", port): [
                Probe(self._topology.pod_namespace(*pod.key), address, "tcp", port)
                for address in self._topology.pods[namespace, name].addresses
            ]
            for pod in pods
            for namespace, name, port in _TARGETS
            if pod.key != (namespace, name)
        }
        outcomes = run_probes(self._servers, (probe for group in probes.values() for probe in group))
        reached = {key: {outcomes[probe].reached for probe in group} for key, group in probes.items()}
        self._expect(all(len(verdicts) == 1 for verdicts in reached.values()), "IPv4 and IPv6 differ")
        targets = [(f"{namespace}/{name}", port) for namespace, name, port in _TARGETS]
        header = ["from \\ to", *(f"{name}:{port}" for name, port in targets)]
        rows = [
            [source, *(self._cell(reached.get((source, *target))) for target in targets)]
            for source in (f"{pod.namespace}/{pod.name}" for pod in pods)
        ]
        self._printer.table(header, rows)
        return {key: verdicts == {True} for key, verdicts in reached.items()}

    def _cell(self, verdicts: set[bool] | None) -> str:
        if verdicts is None:
            return "."
        return self._printer.good("yes") if verdicts == {True} else self._printer.bad("no")

    def _outside(self) -> None:
        self._printer.step("Masquerade by the ip-masq-agent ConfigMap: source addresses that the outside host sees")
        pod = self._topology.pods["shop", "web"]
        namespace = self._topology.pod_namespace(*pod.key)
        probes = [Probe(namespace, address, "tcp", 443) for address in OUTSIDE.addresses]
        outcomes = run_probes(self._servers, probes)
        node = self._desired.cluster.nodes[pod.node]
        rows, seen = [], []
        for probe in probes:
            came = outcomes[probe].seen_from or "nothing"
            seen.append(came in pod.addresses)
            whose = "the Pod's own" if came in pod.addresses else f"{pod.node}'s" if came in node.addresses else "?"
            listed = "in nonMasqueradeCIDRs" if probe.destination.startswith("10.") else "not in nonMasqueradeCIDRs"
            rows.append(["shop/web", probe.destination, listed, came, whose])
        self._printer.table(["from", "to outside host", "", "source seen", "which is"], rows)
        self._result["masquerade"] = [dict(zip(("to", "seen_as"), (row[1], row[3]), strict=True)) for row in rows]
        reached = all(outcome.reached for outcome in outcomes.values())
        self._expect(seen == [False, True, False] and reached, "a connection has the wrong source")

    def _egress(self) -> None:
        self._printer.step(f"Add {_EGRESS}: some Pods keep their addresses towards a network, by their labels")
        step = EgressNatStep(self._printer, self._servers, self._topology, self._cluster, OUTSIDE.addresses[0])
        step.run(_EGRESS, (self._examples / _EGRESS).read_text("utf-8"))
        self._result["egress_nat"] = step.result
        self._expect(not step.failures, "; ".join(step.failures))

    def _records(self) -> None:
        self._printer.step("The verdict log of a denied connection: guest/visitor to shop/db")
        self._denied_attempt()
        agent = self._cluster.agent("node-b")
        wanted = ["logs", "--verdict", "deny", "--pod", "guest/visitor"]
        shown = self._await(lambda: self._output(agent, *wanted), lambda text: "shop/db" in text)
        self._printer.command(f"nfagent {' '.join(wanted)}", shown.splitlines()[-2:])
        record = self._output(agent, *wanted, "-o", "json").splitlines()[-1:]
        self._printer.block(record)
        self._expect(any('"isolating_policies"' in line for line in record), "the denial wasn't logged")

    def _denied_attempt(self) -> ProbeResult:
        source = self._topology.pod_namespace("guest", "visitor")
        probe = Probe(source, self._topology.pods["shop", "db"].addresses[0], "tcp", 5432)
        return run_probes(self._servers, [probe], deadline=patient(0.3))[probe]

    def _explain(self) -> None:
        self._printer.step("Why? `nfagent explain` on the node of shop/db")
        agent = self._cluster.agent("node-b")
        for source, verdict in (("guest/visitor", 1), ("shop/api", 0)):
            done = agent.run("explain", source, "shop/db:5432/tcp")
            self._printer.command(f"nfagent explain {source} shop/db:5432/tcp", done.stdout.splitlines())
            self._expect(done.returncode == verdict, f"explain exits with {done.returncode}: {done.stderr}")

    def _damage(self) -> None:
        self._printer.step("Another program changes the table: the agent repairs it and names the program")
        agent = self._cluster.agent("node-b")
        damage = "flush chain inet nfagent ingress/shop/db; add rule inet nfagent forward-ingress accept"
        source = self._topology.pod_namespace("guest", "visitor")
        address = self._topology.pods["shop", "db"].addresses[0]
        with ThreadPoolExecutor(1) as pool:
            passing = pool.submit(watch_change, source, address, "tcp", 5432, want=True, deadline=patient(2.0))
            began = time.monotonic()
            agent.nft(damage)
            opened = passing.result()
            closed = self._watch((source, address), want=False)
        self._printer.command(f"nft '{damage}'", [])
        if opened is None:
            self._printer.text("no packet from guest/visitor reached shop/db")
        elif closed is not None:
            took = (closed - began) * 1000
            self._printer.text(
                f"guest/visitor reached shop/db, and was denied again {took:.0f} ms after the command started"
            )
        shown = self._await(lambda: self._output(agent, "dump", "state"), lambda text: "last by nft (process" in text)
        drift = [line.strip() for line in shown.splitlines() if "last by nft (process" in line]
        self._printer.command("nfagent dump state", drift)
        diff = agent.run("dump", "diff")
        self._printer.command("nfagent dump diff", diff.stdout.splitlines())
        self._expect(closed is not None and diff.returncode == 0, "the agent didn't repair the table")
        self._expect(bool(drift), "the agent doesn't know which program changed the table")

    def _latency(self) -> None:
        self._printer.step(f"Time from changed manifest to first packet with the new verdict, {_ROUNDS} times each")
        source = self._topology.pod_namespace("guest", "visitor")
        address = self._topology.pods["shop", "db"].addresses[0]
        text = (self._examples / _POLICY).read_text("utf-8")
        took: dict[str, list[float]] = {"policy deleted": [], "policy created": []}
        with ThreadPoolExecutor(1) as pool:
            for turn in range(_ROUNDS):
                for what, want in (("policy deleted", True), ("policy created", False)):
                    self._printer.progress(f"{what}, {turn + 1} of {_ROUNDS}")
                    watch = pool.submit(self._watch, (source, address), want=want)
                    began = time.monotonic()
                    if want:
                        (self._manifests / _POLICY).unlink()
                    else:
                        self._cluster.place(_POLICY, text)
                    first = watch.result()
                    late = f"{what}: no packet had the new verdict within {_VERDICT_SECONDS:.0f} s"
                    self._expect(first is not None, late)
                    took[what].append(((first or began) - began) * 1000)
                    self._cluster.wait_until_enforced()
        self._printer.progress("")
        rows = [[what, f"{statistics.median(times):.1f} ms", f"{max(times):.1f} ms"] for what, times in took.items()]
        self._printer.table(["change", "median", "slowest"], rows)
        self._result["latency_ms"] = {what: [round(value, 2) for value in times] for what, times in took.items()}

    def _watch(self, ends: tuple[str, str], *, want: bool) -> float | None:
        """Return when the first packet to a server's port met the wanted verdict; None where none did in time."""
        return watch_change(*ends, "tcp", 5432, want=want, deadline=_VERDICT_SECONDS, servers=self._servers)

    def _close(self) -> None:
        every = [value for times in self._result["latency_ms"].values() for value in times]
        self._printer.summary(
            f"From change to packet: median {statistics.median(every):.1f} ms, slowest {max(every):.1f} ms "
            f"({len(every)} changes). The demo took {self._result['seconds']} s.",
            as_expected=self._result["as_expected"],
        )

    def _output(self, agent: LabAgent, *arguments: str) -> str:
        done = agent.run(*arguments)
        if done.returncode not in {0, 1}:
            raise KernelError(f"nfagent {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _await(self, read: Callable[[], str], is_complete: Callable[[str], bool]) -> str:
        end = time.monotonic() + _RECORD_SECONDS
        text = read()
        while not is_complete(text) and time.monotonic() < end:
            text = read()
        return text

    def _expect(self, condition: bool, otherwise: str) -> None:  # noqa: FBT001 - the condition is what it is about
        if not condition:
            self._result["as_expected"] = False
            self._result.setdefault("failures", []).append(otherwise)
            self._printer.fail(otherwise)
