"""The settings of the running agent: the first line of its log, what a reload changes, and GET /v1/config.

GET /v1/config answers with the settings in force, each with its default and its origin; `pending` has those that the
files have otherwise since a reload, and that take effect with a restart.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping

import msgspec
from aiohttp import web

from nfagent import __version__
from nfagent.config import Settings
from nfagent.errors import SettingError
from nfagent.loaded_settings import ConfigView, LoadedSettings, SettingEntry, setting_text
from nfagent.setting_layers import Origin, unknown_variables
from nfagent.system.own_log import OwnLog

log = logging.getLogger(__name__)

LIVE = (
    "allow_unknown_node",
    "log_level",
    "log_format",
    "logging.file_max_bytes",
    "logging.file_backups",
    "logging.records_per_second",
    "logging.burst",
    "reconcile.resync_seconds",
    "reconcile.retry_max_seconds",
    "boot.max_age_seconds",
)
"""The settings that a reload changes; the others take effect with a restart."""


class SettingsParts:
    """The settings in force, and their reload.

    problem: why the last reload kept the settings as they were; '' where it did not
    """

    def __init__(self, load: Callable[[], LoadedSettings], own_log: OwnLog | None = None) -> None:
        """Load the settings. own_log: the log that log_level and log_format are for. Raises SettingError."""
        self._load = load
        self._own_log = own_log
        self._loaded = load()
        self._pending: tuple[SettingEntry, ...] = ()
        self.problem = ""
        self._unknown = tuple(unknown_variables(os.environ, Settings))
        self._apply: dict[str, Callable[[Settings], None]] = {}

    @property
    def current(self) -> Settings:
        """The settings in force."""
        return self._loaded.settings

    @property
    def route(self) -> web.RouteDef:
        """The route for the agent's socket."""

        async def config(_: web.Request) -> web.Response:
            return web.Response(body=msgspec.json.encode(self.view()), content_type="application/json")

        return web.get("/v1/config", config)

    def view(self) -> ConfigView:
        """Return the answer of /v1/config."""
        return ConfigView(
            version=__version__,
            node=self.current.node_name,
            settings=tuple(self._loaded.entries()),
            pending=self._pending,
            problem=self.problem,
            unknown=self._unknown,
        )

    def announce(self) -> None:
        """Log the first lines: version, node, source, and the settings that differ from the default."""
        differing = [f"{entry} ({entry.origin})" for entry in self._loaded.entries() if entry.value != entry.default]
        log.info(
            "nfagent %s on node %s, objects from %s; %s",
            __version__,
            self.current.node_name,
            described_source(self.current),
            f"settings: {', '.join(differing)}" if differing else "every setting has its default",
        )
        for words in self._unknown:
            log.warning("%s", words)

    def apply_with(self, apply: Mapping[str, Callable[[Settings], None]]) -> None:
        """Call a function after a reload that changed settings; apply: by a section's name or a setting's key."""
        self._apply |= apply

    async def reload(self) -> None:
        """Load the settings again, apply those that can change while the agent runs, and log what changed.

        The files are read in a thread: their disk may not answer.
        """
        try:
            loaded = await asyncio.to_thread(self._load)
        except SettingError as error:
            self.problem = str(error)
            log.error("reload: every setting stays as it was: %s", error)
            return
        self.problem = ""
        before = {entry.key: entry for entry in self._loaded.entries()}
        changed = [entry for entry in loaded.entries() if entry.value != before[entry.key].value]
        applied = [entry for entry in changed if entry.key in LIVE]
        self._pending = tuple(entry for entry in changed if entry.key not in LIVE)
        was = self.current
        self._loaded = _with(self._loaded, applied)
        # Meanwhile the more verbose level: the line about a level is written in either direction.
        self._configure_log(min(was.log_level, self.current.log_level, key=_level))
        for entry in applied:
            log.info("reload: %s (%s), was %s", entry, entry.origin, setting_text(before[entry.key].value))
        for entry in self._pending:
            now = setting_text(before[entry.key].value)
            log.warning("reload: %s (%s) needs a restart; until then it is %s", entry, entry.origin, now)
        if not changed:
            log.info("reload: no setting has changed")
        self._configure_log(self.current.log_level)
        for apply in {_applied_by(entry.key): None for entry in applied}:
            self._apply.get(apply, _nothing)(self.current)

    def _configure_log(self, level: str) -> None:
        if self._own_log is not None:
            self._own_log.configure(level, self.current.log_format)


def fixed(settings: Settings) -> SettingsParts:
    """Return settings that a reload doesn't change: they come from no file."""
    return SettingsParts(lambda: LoadedSettings(settings, {}))


def described_source(settings: Settings) -> str:
    """Return where objects come from, by the settings."""
    if settings.manifests:
        return f"the manifests in {settings.manifests}"
    if settings.kubeconfig:
        return f"the API server of kubeconfig {settings.kubeconfig}"
    return "the API server of $KUBECONFIG, the service account or the node's own kubeconfig"


def _with(loaded: LoadedSettings, entries: Iterable[SettingEntry]) -> LoadedSettings:
    """Return settings with the values and origins of other entries."""
    settings, origins = msgspec.to_builtins(loaded.settings), dict(loaded.origins)
    for entry in entries:
        section, _, name = entry.key.rpartition(".")
        (settings[section] if section else settings)[name] = entry.value
        if entry.origin == Origin():
            origins.pop(entry.key, None)
        else:
            origins[entry.key] = entry.origin
    return LoadedSettings(msgspec.convert(settings, Settings), origins)


def _applied_by(key: str) -> str:
    """Return the name by which a setting's change is applied: its section, or its key without one."""
    return key.partition(".")[0]


def _level(name: str) -> int:
    return logging.getLevelNamesMapping()[name.upper()]


def _nothing(_settings: Settings) -> None:
    """Apply nothing: the value is read when it is needed."""
