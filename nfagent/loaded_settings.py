"""Settings with the origin of each value, as `nfagent config`, the agent's log and GET /v1/config show them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from nfagent.config import Settings, load_layers
from nfagent.setting_layers import Origin, flat, setting_keys


class LoadedSettings(msgspec.Struct, frozen=True):
    """Settings, and where each that isn't a default comes from, by its key (`logging.group`)."""

    settings: Settings
    origins: dict[str, Origin]

    def entries(self) -> Iterator[SettingEntry]:
        """Yield every setting, in the order of the settings file."""
        values, defaults = _values(self.settings), _values(Settings())
        for key, _ in setting_keys(Settings):
            yield SettingEntry(key, values[key], defaults[key], self.origins.get(key, Origin()))


class SettingEntry(msgspec.Struct, frozen=True):
    """One setting: its value, its default, and where the value comes from."""

    key: str
    value: Any
    default: Any
    origin: Origin

    def __str__(self) -> str:
        """Return it as in the settings file: `log_level = "debug"`."""
        return f"{self.key} = {setting_text(self.value)}"


def setting_text(value: object) -> str:
    """Return a value as it is written in the settings file."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


class ConfigView(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of GET /v1/config.

    settings: those in force
    pending:  those that a reload found changed, and that need a restart
    problem:  why the last reload kept the settings as they were; '' where it did not
    unknown:  what is said of each variable NFAGENT_* that is no setting
    """

    version: str
    node: str
    settings: tuple[SettingEntry, ...]
    pending: tuple[SettingEntry, ...] = ()
    problem: str = ""
    unknown: tuple[str, ...] = ()


def load_with_origins(
    file: Path | None = None, environment: Mapping[str, str] = os.environ, flags: Mapping[str, object] | None = None
) -> LoadedSettings:
    """Return what `config.load_settings` does, with the origin of each value. Raises SettingError."""
    return LoadedSettings(*load_layers(file, environment, flags))


def _values(settings: Settings) -> dict[str, Any]:
    """Return the values by key, as JSON has them: a list where there is a tuple."""
    found = flat(msgspec.to_builtins(settings))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}
