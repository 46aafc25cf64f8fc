"""The parts of the source: the API server or a folder of manifests, and what is written back to the cluster."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from nfagent.checkpoint.store import CheckpointStore
from nfagent.clock import WallClock
from nfagent.config import Settings
from nfagent.controllers.status_reporter import StatusReporter
from nfagent.desired.state import DesiredState
from nfagent.kube.client import ApiClient
from nfagent.kube.credentials import find_client_config
from nfagent.kube.informers import Informers
from nfagent.manifests.folder_source import FolderSource
from nfagent.object_source import EventSink, ObjectSource
from nfagent.part_problems import PartProblems


def make_source(
    settings: Settings,
    sink: EventSink,
    desired: DesiredState,
    clock: WallClock,
    checkpoint: CheckpointStore,
    *,
    part_problems: PartProblems,
    synced: Callable[[], bool],
) -> tuple[ObjectSource, StatusReporter | None]:
    """Return the source of objects, and the status reporter where the source is an API server."""
    if settings.manifests:
        return FolderSource(Path(settings.manifests), sink, checkpoint), None
    server = ApiClient(partial(find_client_config, settings.kubeconfig, settings.context, settings.token_file))
    source = Informers(server, clock, sink, desired.keys, checkpoint)
    faults = part_problems.node_faults
    reporter = StatusReporter(desired, server, clock, lambda: source.faults, faults, synced=synced)
    part_problems.also["credentials"] = lambda: server.credential_problem
    # Where the API server can't be reached, the source says so.
    part_problems.also["reports"] = lambda: "" if source.trouble else reporter.problem
    return source, reporter
