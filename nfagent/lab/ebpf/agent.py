"""`python -m nfagent.lab.ebpf.agent`: an agent that enforces by eBPF instead of nftables, for comparison only.

Source, decoding, cluster state, selectors and compiled rules are nfagent's own; only the last step differs, map entries
instead of a transaction. It runs in the node's network namespace, finds the Pods' links itself, and unloads everything
when it stops. On its unix socket:

    GET /v1/syncs        the last syncs, as nfagent's (controllers.sync_trace)
    GET /v1/dump/state   what was read, whether the maps have it, which Pods have no link, what isn't covered
    GET /v1/events       the last verdicts on connections, where a NetworkLogging object asks for them
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import signal
import socket
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from aiohttp import web

from nfagent.checkpoint.store import CheckpointStore
from nfagent.clock import SystemClock
from nfagent.config import Settings, load_settings
from nfagent.controllers.event_applier import EventApplier
from nfagent.controllers.sync_latency import SyncLatency
from nfagent.errors import KernelError, NfagentError, UsageError, leaves
from nfagent.explain.explanation import Explanation
from nfagent.introspection import http_server
from nfagent.introspection.syncs_route import syncs_route
from nfagent.introspection.view_filter import ViewFilter
from nfagent.kernel import route_events
from nfagent.kube.client import ApiClient
from nfagent.kube.credentials import find_client_config
from nfagent.kube.informers import Informers
from nfagent.lab.ebpf import nat as ebpf_nat
from nfagent.lab.ebpf.codec import EbpfSettings
from nfagent.lab.ebpf.datapath import EbpfDatapath
from nfagent.lab.ebpf.events import EventReader
from nfagent.lab.ebpf.links import pod_links
from nfagent.lab.ebpf.program import EbpfProgram, Maps
from nfagent.lab.ebpf.state import EbpfState
from nfagent.manifests.folder_source import FolderSource
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.object_source import ObjectSource
from nfagent.simulate.policy_files import PolicyFiles
from nfagent.simulate.simulation import PolicySimulation
from nfagent.system import systemd
from nfagent.system.descriptors import raise_limit
from nfagent.system.gc_tuning import collect_and_freeze, limit_free_memory, relax_collection

log = logging.getLogger("nfagent.lab.ebpf.agent")
_RESCAN_SECONDS = 0.05
_DEBOUNCE_SECONDS = 0.005
"""How long to wait for further changes of links before they are listed."""


class EbpfAgent:
    """One node's eBPF agent. Satisfies object_source.EventSink and http_server.AnswerProvider."""

    def __init__(self, settings: Settings, program: EbpfProgram) -> None:
        """Connect a loaded program. Raises KernelError."""
        self._settings = settings
        self._clock = SystemClock()
        self._state = EbpfState(settings.node_name, settings.masquerade_settings())
        self._maps = program.maps
        self._datapath = EbpfDatapath(program)
        self._events = EventReader(program.maps.events, program.maps.lost_events)
        self._link_events = route_events.event_socket(route_events.LINKS)
        self._wake = asyncio.Event()
        self._undivided = asyncio.Event()
        self._latency = SyncLatency()
        self._applier = EventApplier(self._state, self._clock, self._wake.set, self._undivided, self._latency)
        self._links_changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._synced = self._ready = False
        self._refused: tuple[str, ...] = ()
        self._checkpoint = CheckpointStore(Path(settings.state_dir), settings.node_name)
        self._source = self._make_source()

    def _make_source(self) -> ObjectSource:
        settings = self._settings
        if settings.manifests:
            return FolderSource(Path(settings.manifests), self, self._checkpoint)
        server = ApiClient(partial(find_client_config, settings.kubeconfig, settings.context, settings.token_file))
        return Informers(server, self._clock, self, self._state.keys, self._checkpoint)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises NfagentError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        relax_collection()
        limit_free_memory()
        routes = (syncs_route(self._latency.trace, self._clock), web.get("/v1/events", self._show_events))
        serving = await http_server.serve(self._settings.socket_path, self, routes=routes)
        loop.add_reader(self._events.fileno(), self._events.read)
        loop.add_reader(self._link_events, self._links_changed.set)
        try:
            if self._state.masquerade_families:
                ebpf_nat.load(random_fully=self._settings.masquerade.random_fully)
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._run_source())]
                running += [tasks.create_task(task) for task in (self._reconcile(), self._follow_links())]
                running.append(tasks.create_task(self._checkpoint.run()))
                await self._stop.wait()
                for task in running:
                    task.cancel()
        finally:
            systemd.notify("STOPPING=1")
            loop.remove_reader(self._link_events)
            loop.remove_reader(self._events.fileno())
            await serving.cleanup()
            await self._source.close()
            await self._checkpoint.close()
            self._link_events.close()
            self._events.close()
            if self._state.masquerade_families:
                with contextlib.suppress(KernelError):
                    ebpf_nat.unload()

    async def apply(self, changes: Iterable[Item | ObjectRef], received: float | None = None) -> None:
        """Apply changes to the state, in their order; received: as in EventSink."""
        await self._applier.apply(changes, received)
        for problem in self._source.news()[0]:
            log.warning("%s", problem)

    def on_synced(self) -> None:
        """Begin to write entries: the source has read everything once."""
        self._synced = True
        self._applier.open()

    async def view(self, name: str, scope: ViewFilter) -> dict[str, Any]:  # noqa: ARG002 - the protocol's signature
        """Return the state of this agent. Raises UsageError for another view, KernelError."""
        if name != "state":
            raise UsageError(f"the eBPF path has no view {name}: it has state")
        self._scan_if_changed()
        in_sync = self._ready and not (self._wake.is_set() or self._applier.busy or self._refused)
        events = self._events
        return {
            "agent": {
                "path": "ebpf",
                "reconcile": {"in_sync": in_sync},
                "revoke": {"suspects": []},
                "links": {"missing": self._datapath.missing_links},
                "refused": list(self._refused),
                "map_bytes": {name: getattr(self._maps, name).memory_bytes() for name in Maps.__struct_fields__},
                "events": {
                    "allowed": events.allowed,
                    "denied": events.denied,
                    "lost": events.lost,
                    "unreadable": events.unreadable,
                },
                **self._source.status(),
            }
        }

    async def explain(self, source: str, destination: str) -> Explanation:
        """Raise UsageError: nfagent explains."""
        raise UsageError(f"the eBPF path explains nothing: ask nfagent explain {source} {destination}")

    def start_simulation(self, given: PolicyFiles, *, delete: bool) -> PolicySimulation:  # noqa: ARG002
        """Raise UsageError: nfagent simulates."""
        raise UsageError("the eBPF path simulates nothing: ask nfagent try")

    async def _show_events(self, _request: web.Request) -> web.Response:
        self._events.read()
        pods = self._datapath.pods
        shown = [{"pod": pods.get(event.endpoint, ""), **msgspec.to_builtins(event)} for event in self._events.kept]
        return web.json_response({"events": shown, "lost": self._events.lost})

    async def _run_source(self) -> None:
        await self._source.start()
        await self._source.run()

    async def _reconcile(self) -> NoReturn:
        while True:
            await self._wake.wait()
            await self._undivided.wait()
            self._wake.clear()
            began = self._clock.monotonic()
            self._latency.begin(began)
            self._latency.cover(began)
            change = self._state.drain()
            self._latency.computed(self._clock.monotonic())
            self._note_refusals()
            if change.is_empty:
                self._latency.discard()
            else:
                self._datapath.apply(change, self._wanted_settings())
                self._latency.committed(self._clock.monotonic())
            if change.endpoints:
                self._scan()
            if not self._ready:
                self._ready = True
                collect_and_freeze()
                systemd.notify("READY=1\nSTATUS=enforcing by eBPF")

    def _wanted_settings(self) -> EbpfSettings:
        families = self._state.masquerade_families
        logging_switch = self._state.logging
        return EbpfSettings(
            reports_allows=logging_switch.allow.log,
            reports_denies=logging_switch.deny.log,
            masquerades_ipv4=4 in families,
            masquerades_ipv6=6 in families,
        )

    def _note_refusals(self) -> None:
        before, self._refused = set(self._refused), self._state.coverage.refusals
        for reason in self._refused:
            if reason not in before:
                log.error("%s", reason)

    async def _follow_links(self) -> NoReturn:
        while True:
            left = _RESCAN_SECONDS if self._datapath.missing_links else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._links_changed.wait()
                await asyncio.sleep(_DEBOUNCE_SECONDS)
            self._scan()

    def _scan_if_changed(self) -> None:
        """List the links if any may have changed: what the kernel announced counts, read or not."""
        if self._datapath.missing_links or self._links_changed.is_set() or _is_readable(self._link_events):
            self._scan()

    def _scan(self) -> None:
        self._links_changed.clear()
        route_events.drain(self._link_events)
        try:
            self._datapath.follow_links(pod_links())
        except KernelError as error:
            # A link that is removed meanwhile can't be attached to: its Pod has none, and links are listed again.
            log.info("%s; retrying", error)


def check_settings(settings: Settings) -> None:
    """Raise UsageError for a setting that the eBPF path doesn't cover."""
    uncovered = (
        ("policy.own_node", settings.policy.own_node, "judged"),
        ("policy.unrouted_sources", settings.policy.unrouted_sources, "dropped"),
        ("policy.unknown_pods", settings.policy.unknown_pods, "passed"),
        ("masquerade.to_ports", settings.masquerade.to_ports, ()),
    )
    for key, value, covered in uncovered:
        if value != covered:
            raise UsageError(f"{key} = {value!r}: the eBPF path covers {covered!r} alone; leave the setting out")


def _is_readable(opened: socket.socket) -> bool:
    return bool(select.select([opened], [], [], 0)[0])


@click.command()
@click.option("--manifests", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Follow this folder.")
@click.option("--kubeconfig", default="", help="Follow the cluster of this kubeconfig.")
@click.option("--node", required=True, help="The Node's name.")
def main(manifests: Path | None, kubeconfig: str, node: str) -> None:
    """Enforce NetworkPolicies by eBPF in this network namespace until stopped, for comparison only.

    Exit code: 0 after SIGTERM, 2 where it can't run.
    """
    failed = False
    try:
        if (manifests is None) == (not kubeconfig):
            raise UsageError("give one of --manifests and --kubeconfig")
        flags = {"node": node, "manifests": str(manifests or ""), "kubeconfig": kubeconfig}
        settings = load_settings(flags=flags)
        check_settings(settings)
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("nfagent").setLevel(settings.log_level.upper())
        raise_limit()
        with EbpfProgram() as program:
            asyncio.run(EbpfAgent(settings, program).run())
    except* NfagentError as group:
        failed = True
        click.echo("\n".join(f"ebpf_agent: {error}" for error in leaves(group)), err=True)
    if failed:
        sys.exit(2)


if __name__ == "__main__":
    main()
