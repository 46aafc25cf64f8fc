"""`nfagent dump syncs`: how long the agent's last changes took, step by step."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator

import msgspec

from nfagent.cli.output import emit, write_lines
from nfagent.cli.tables import table
from nfagent.config import Settings
from nfagent.controllers.sync_trace import SyncsReply
from nfagent.errors import UsageError
from nfagent.introspection.agent_client import get_json
from nfagent.introspection.answer_format import answer_format

_HEADER = ("committed at", "events", "read", "wait", "compute", "commit", "total ms")


def dump_syncs(settings: Settings, output: str, *, narrowed: bool) -> None:
    """Write the running agent's syncs. narrowed: -n, --pod or --manifests was given. Raises UsageError, HostError."""
    if narrowed:
        raise UsageError("syncs are all of the running agent's: leave out -n, --pod and --manifests")
    if output == "nft":
        raise UsageError("-o nft is for ruleset, kernel and diff; syncs has -o text, json and yaml")
    content = get_json(settings.socket_path, "/v1/syncs", {})
    if output in {"json", "yaml"}:
        emit(content, output)
        return
    with answer_format("the running agent's syncs have"):
        found = msgspec.convert(content, SyncsReply)
    rows = list(_rows(found, time.time()))
    write_lines(table(_HEADER, rows, right=range(1, len(_HEADER))) if rows else ["no sync yet"])


def _rows(found: SyncsReply, now: float) -> Iterator[list[str]]:
    """Yield a row for each sync. now: seconds since the epoch, at the reply's monotonic time."""
    for sync in found.syncs:
        at = dt.datetime.fromtimestamp(now - (found.monotonic - sync.committed)).astimezone()
        steps = (
            sync.decoded - sync.received,
            max(0.0, sync.begun - sync.decoded),
            sync.computed - max(sync.begun, sync.decoded),
            sync.committed - sync.computed,
            sync.committed - sync.received,
        )
        time_of_day = at.strftime("%H:%M:%S.%f")[:-3]
        yield [time_of_day, str(sync.events), *(f"{max(0.0, step) * 1e3:.2f}" for step in steps)]
