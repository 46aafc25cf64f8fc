"""Where `nfagent logs` looks up labels, Nodes and what is outside the cluster: the running agent, or manifests."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from nfagent.cli.manifest_state import read_manifests
from nfagent.cli.output import write_freshness, write_problems, write_remark
from nfagent.config import Settings
from nfagent.errors import NfagentError, UsageError
from nfagent.introspection.agent_client import NoAgentError, get_json
from nfagent.introspection.answer_format import answer_format
from nfagent.introspection.record_peers import PeersView, SnapshotPeers, StatePeers
from nfagent.verdicts.record_filter import PeerLookup

_REFRESH_SECONDS = 5.0


def peer_lookup(settings: Settings, manifests: Path | None, *, follow: bool) -> PeerLookup:
    """Return the state of the cluster. Raises UsageError, HostError."""
    if manifests is not None:
        desired, problems = read_manifests(settings, manifests)
        write_problems(problems)
        return StatePeers(desired)
    try:
        peers = _asked(settings.socket_path)
    except NoAgentError as error:
        raise UsageError(
            f"label selectors, node and world need the state of the cluster, and {error}",
            hint="start the agent (systemctl start nfagent), or give --manifests DIR",
        ) from None
    return _RefreshedPeers(peers, lambda: _asked(settings.socket_path)) if follow else peers


def _asked(path: Path) -> SnapshotPeers:
    content = get_json(path, "/v1/peers", {})
    with answer_format("the running agent tells Pods and Nodes in"):
        peers = SnapshotPeers(msgspec.convert(content, PeersView))
    write_freshness(content)
    return peers


class _RefreshedPeers:
    """The agent's state, asked for again while records are followed. Implements PeerLookup."""

    def __init__(self, peers: SnapshotPeers, ask: Callable[[], SnapshotPeers]) -> None:
        self._peers = peers
        self._ask = ask
        self._asked_at = time.monotonic()
        self._lost = False

    def labels(self, pod: str) -> Mapping[str, str] | None:
        return self._current().labels(pod)

    def is_node(self, address: str) -> bool:
        return self._current().is_node(address)

    def is_inside(self, address: str) -> bool:
        return self._current().is_inside(address)

    def _current(self) -> SnapshotPeers:
        if time.monotonic() - self._asked_at < _REFRESH_SECONDS:
            return self._peers
        self._asked_at = time.monotonic()
        try:
            self._peers = self._ask()
        except NfagentError as error:
            if not self._lost:
                write_remark("warning", f"Pods and Nodes are those of some time ago: {error}")
            self._lost = True
        else:
            self._lost = False
        return self._peers
