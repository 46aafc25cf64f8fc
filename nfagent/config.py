"""Settings: the file, then the environment, then flags; the later wins.

`/etc/nfagent/nfagent.toml` is TOML 1.0. An environment variable is named after its key:
`NFAGENT_LOG_DIR` for `log_dir`, `NFAGENT_MASQUERADE_ENABLED` for `enabled` in `[masquerade]`;
lists are comma-separated there. An empty variable sets nothing, but for a list, which it empties.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.errors import SettingError
from nfagent.model.netaddr import AddressError, Range, parse_cidr
from nfagent.policy.options import PolicyOptions

DEFAULT_FILE = Path("/etc/nfagent/nfagent.toml")
_UNKNOWN = re.compile("Object contains unknown field `(?P<name>.*)`", re.DOTALL)


class ClusterSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[cluster]`: ranges of the cluster that no Node object names; never translated."""

    pod_cidrs: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = ()


class MasqueradeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[masquerade]`: translation of Pod traffic that leaves the cluster."""

    enabled: bool = True
    ipv4: bool = True
    ipv6: bool = True
    random_fully: bool = True
    all_reserved_ranges: bool = False


class LoggingSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[logging]`: the verdict log. Sizes in bytes."""

    group: int = 100
    file_max_bytes: int = 10_000_000
    file_backups: int = 5
    receive_buffer: int = 8 * 1024 * 1024


class ReconcileSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[reconcile]`: times in seconds."""

    resync_seconds: float = 3600
    retry_max_seconds: float = 30


class BridgesSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[bridges]`: what Pods on a bridge may send to each other besides what the rules judge."""

    unjudged_frames: Literal["dropped", "passed"] = "dropped"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every setting; `systemd/nfagent.toml` says what each is for."""

    node: str = ""
    allow_unknown_node: bool = False
    manifests: str = ""
    kubeconfig: str = ""
    context: str = ""
    token_file: str = ""
    runtime_dir: str = "/run/nfagent"
    log_dir: str = "/var/log/network"
    state_dir: str = "/var/lib/nfagent"
    log_level: str = "info"
    cluster: ClusterSection = ClusterSection()
    masquerade: MasqueradeSection = MasqueradeSection()
    logging: LoggingSection = LoggingSection()
    reconcile: ReconcileSection = ReconcileSection()
    policy: PolicyOptions = PolicyOptions()
    bridges: BridgesSection = BridgesSection()

    @property
    def node_name(self) -> str:
        """The name of this node: the setting, or the machine's host name in lower case, as kubelet has it."""
        return self.node or socket.gethostname().lower()

    @property
    def socket_path(self) -> Path:
        """Where the running agent answers."""
        return Path(self.runtime_dir) / "agent.sock"

    @property
    def verdict_log(self) -> Path:
        """The file that verdict records are written to."""
        return Path(self.log_dir) / "policy_action.log"

    def masquerade_settings(self) -> MasqueradeSettings:
        """Give what the egress room needs. Raises SettingError for a range that is no CIDR."""
        ranges = [_range(key, cidr) for key, cidr in _cluster_cidrs(self)]
        return MasqueradeSettings(
            enabled=self.masquerade.enabled,
            ipv4=self.masquerade.ipv4,
            ipv6=self.masquerade.ipv6,
            random_fully=self.masquerade.random_fully,
            all_reserved_ranges=self.masquerade.all_reserved_ranges,
            cluster_ranges=tuple(ranges),
        )


def load_settings(
    file: Path | None = None, environment: Mapping[str, str] = os.environ, flags: Mapping[str, object] | None = None
) -> Settings:
    """Read the settings. Without `file` the default file counts, where it exists. Raises SettingError.

    flags: top-level settings from the command line; None and '' leave a setting as it is
    """
    layers = (
        (str(file or DEFAULT_FILE), _from_file(file)),
        ("environment", _from_environment(environment)),
        ("command line", {key: value for key, value in (flags or {}).items() if value is not None and value != ""}),
    )
    merged: dict[str, Any] = {}
    for source, layer in layers:
        # Each by itself first, so that the message names the one that is wrong, even where a later one wins.
        _converted(source, layer)
        _overlay(merged, layer)
    if (flags or {}).get("kubeconfig"):
        merged["manifests"] = ""  # whoever names an API server doesn't want the settings' folder
    return _converted("settings", merged)


def _converted(source: str, layer: dict[str, Any]) -> Settings:
    try:
        settings = msgspec.convert(layer, Settings, strict=False)
        settings.masquerade_settings()
        _check(settings)
    except msgspec.ValidationError as error:
        raise SettingError(f"{source}: {_in_words(str(error), layer)}") from None
    except SettingError as error:
        raise SettingError(f"{source}: {error}") from None
    return settings


def _in_words(message: str, layer: dict[str, Any]) -> str:
    """Say msgspec's `Expected `int`, got `str` - at `$.logging.group`` as `logging.group = 'x': …`."""
    reason, _, path = message.partition(" - at ")
    key = path.strip("`").removeprefix("$").removeprefix(".")
    if (unknown := _UNKNOWN.fullmatch(reason)) is not None:
        name = f"{key}.{unknown['name']}" if key else unknown["name"]
        return f"{name} is no setting; every setting is in systemd/nfagent.toml, with its default"
    value: Any = layer
    for part in re.findall(r"\w+", key):
        value = value[int(part)] if isinstance(value, list | tuple) and part.isdecimal() else value[part]
    return f"{key} = {value!r}: {reason[:1].lower()}{reason[1:].replace('`', '')}"


def _cluster_cidrs(settings: Settings) -> Iterator[tuple[str, str]]:
    for key in ("pod_cidrs", "service_cidrs"):
        for cidr in getattr(settings.cluster, key):
            yield f"cluster.{key}", cidr


def _check(settings: Settings) -> None:
    for key in ("runtime_dir", "log_dir", "state_dir"):
        if not getattr(settings, key):
            raise SettingError(f"{key} = '': write a folder's path")
    limits = (
        ("logging.group", settings.logging.group, 0, 65535),
        ("logging.file_max_bytes", settings.logging.file_max_bytes, 4096, 2**40),
        ("logging.file_backups", settings.logging.file_backups, 0, 1000),
        ("logging.receive_buffer", settings.logging.receive_buffer, 65536, 2**30),
        ("reconcile.resync_seconds", settings.reconcile.resync_seconds, 1, 86400),
        ("reconcile.retry_max_seconds", settings.reconcile.retry_max_seconds, 0.1, 3600),
    )
    for key, value, least, most in limits:
        if not least <= value <= most:
            raise SettingError(f"{key} = {value}: write {least} to {most}")
    levels = ("debug", "info", "warning", "error")
    if settings.log_level not in levels:
        raise SettingError(f"log_level = {settings.log_level!r}: write {', '.join(levels)}")


def _range(key: str, cidr: str) -> Range:
    try:
        return parse_cidr(cidr)
    except AddressError as error:
        raise SettingError(f"{key} = {cidr!r}: {error}") from None


def _from_file(file: Path | None) -> dict[str, Any]:
    path = file or DEFAULT_FILE
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if file is None:
            return {}
        raise SettingError(f"{path}: there is no such file; give the right one with --config") from None
    except OSError as error:
        raise SettingError(f"{path}: {error.strerror}; give another with --config") from None
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path}: is not TOML: {error}") from None


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            section = {
                inner.name: _from_text(inner.type, environment[name])
                for inner in msgspec.structs.fields(field.type)
                if (name := f"NFAGENT_{field.name}_{inner.name}".upper()) in environment
                and (environment[name] or inner.type == tuple[str, ...])
            }
            if section:
                found[field.name] = section
        elif text := environment.get(f"NFAGENT_{field.name}".upper()):
            found[field.name] = text
    return found


def _from_text(wanted: object, text: str) -> object:
    return [part.strip() for part in text.split(",") if part.strip()] if wanted == tuple[str, ...] else text


def _overlay(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            below[key].update(value)
        else:
            below[key] = value
