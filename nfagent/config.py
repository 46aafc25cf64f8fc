"""Settings from the file, its drop-in files, the environment and flags; each overrides those before it.

`/etc/nfagent/nfagent.toml` is TOML 1.0, and so are the files `conf.d/*.toml` beside it. An environment variable is
named after its key: `NFAGENT_LOG_DIR` for `log_dir`, `NFAGENT_MASQUERADE_ENABLED` for `enabled` in `[masquerade]`;
lists are comma-separated there. An empty variable sets nothing, except a list, which it empties.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from nfagent.egress.gateways import MarkBits
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.errors import SettingError
from nfagent.model.ip_masq import DEFAULT_CIDRS, IpMasqConfig
from nfagent.model.listen_address import ListenAddress, parse_listen_address, parse_loopback
from nfagent.model.netaddr import AddressError, Range, parse_cidr
from nfagent.policy.options import PolicyOptions
from nfagent.setting_layers import Layer, Origin, environment_layer, file_layers, merged, require_text, setting_keys
from nfagent.verdicts.rate_limit import DRAINS_A_SECOND, RecordLimits
from nfagent.xtables.options import ACCEPTED_BIT, UNROUTED_BIT, LoweringOptions

DEFAULT_FILE = Path("/etc/nfagent/nfagent.toml")
_PORTS = re.compile(r"(?P<first>\d{1,5})(-(?P<last>\d{1,5}))?", re.ASCII)
_LAST_PORT = 65535
_MASK = re.compile(r"0x[0-9a-fA-F]{1,8}|[1-9][0-9]{0,9}", re.ASCII)
_MARKS = 2**32
_EIGHT_BITS = 0xFF
SINKS = ("file", "journald", "stdout")
LOG_LEVELS = ("debug", "info", "warning", "error")
LIMITS: Mapping[str, tuple[float, float]] = {
    "logging.group": (0, 65535),
    "logging.file_max_bytes": (4096, 2**40),
    "logging.file_backups": (0, 1000),
    "logging.receive_buffer": (65536, 2**30),
    "logging.aggregation_seconds": (0, 300),
    "logging.aggregation_keys": (1, 20_000),
    "logging.records_per_second": (1, 1_000_000),
    "logging.burst": (1, 1_000_000),
    "masquerade.resync_interval_seconds": (0.1, 3600),
    "reconcile.resync_seconds": (1, 86400),
    "boot.max_age_seconds": (0, 3_153_600_000),
    "boot.wait_seconds": (0, 86400),
    "reconcile.retry_max_seconds": (0.1, 3600),
}
"""The least and the largest value of a section's key."""
_UNKNOWN = re.compile("Object contains unknown field `(?P<name>.*)`", re.DOTALL)


class ClusterSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[cluster]`: cluster ranges beyond the podCIDRs of Node objects; never translated."""

    pod_cidrs: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = ()


class MasqueradeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[masquerade]`: source NAT of Pod traffic that leaves the cluster."""

    enabled: bool = True
    ipv4: bool = True
    ipv6: bool = True
    random_fully: bool = True
    to_ports: tuple[str, ...] = ()
    all_reserved_ranges: bool = False
    create_default_policy: bool = True
    non_masquerade_cidrs: tuple[str, ...] = tuple(map(str, DEFAULT_CIDRS))
    masquerade_cidrs: tuple[str, ...] = ("0.0.0.0/0", "::/0")
    masq_link_local: bool = False
    masq_link_local_ipv6: bool = False
    config_file: str = "/etc/config/ip-masq-agent"
    resync_interval_seconds: float = 1
    gateway_mark: int | str = 0x0FF00000


class LoggingSection(RecordLimits, frozen=True, forbid_unknown_fields=True):
    """`[logging]`: the verdict log, and the limits of its records. Sizes in bytes."""

    group: int = 100
    sinks: tuple[str, ...] = ("file",)
    file_max_bytes: int = 10_000_000
    file_backups: int = 5
    receive_buffer: int = 8 * 1024 * 1024


class MetricsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[metrics]`: where metrics are served beside the agent's socket; '' for nowhere."""

    listen: str = ""


class UiSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[ui]`: where the agent serves the live page, on loopback; '' for nowhere."""

    listen: str = ""


class ReconcileSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[reconcile]`: times in seconds."""

    resync_seconds: float = 3600
    retry_max_seconds: float = 30


class BridgesSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[bridges]`: frames between Pods on a bridge that policies can't match."""

    unjudged_frames: Literal["dropped", "passed"] = "dropped"


class IptablesSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[iptables]`: bits of the packet mark that nfagent's chains of iptables use."""

    mark_bit: int | str = ACCEPTED_BIT
    route_mark_bit: int | str = UNROUTED_BIT


class BootSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[boot]`: what holds from a node's boot until the cluster was read. Times in seconds."""

    save_ruleset: bool = True
    max_age_seconds: float = 2_592_000
    wait_seconds: float = 45


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings; `systemd/nfagent.toml` documents each of them."""

    node: str = ""
    allow_unknown_node: bool = False
    backend: Literal["auto", "nftables", "iptables"] = "auto"
    manifests: str = ""
    kubeconfig: str = ""
    context: str = ""
    token_file: str = ""
    runtime_dir: str = "/run/nfagent"
    log_dir: str = "/var/log/network"
    state_dir: str = "/var/lib/nfagent"
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"
    cluster: ClusterSection = ClusterSection()
    masquerade: MasqueradeSection = MasqueradeSection()
    logging: LoggingSection = LoggingSection()
    metrics: MetricsSection = MetricsSection()
    ui: UiSection = UiSection()
    reconcile: ReconcileSection = ReconcileSection()
    policy: PolicyOptions = PolicyOptions()
    bridges: BridgesSection = BridgesSection()
    iptables: IptablesSection = IptablesSection()
    boot: BootSection = BootSection()

    @property
    def node_name(self) -> str:
        """The name of this node: the setting, or the machine's host name in lower case, as kubelet has it."""
        return self.node or socket.gethostname().lower()

    @property
    def socket_path(self) -> Path:
        """The socket of the running agent."""
        return Path(self.runtime_dir) / "agent.sock"

    @property
    def verdict_log(self) -> Path:
        """The file of the verdict log."""
        return Path(self.log_dir) / "policy_action.log"

    def metrics_address(self) -> ListenAddress | None:
        """Return where metrics are served over TCP; None for nowhere. Raises SettingError."""
        return _address("metrics.listen", self.metrics.listen, parse_listen_address)

    def ui_address(self) -> ListenAddress | None:
        """Return where the agent serves the live page; None for nowhere. Raises SettingError."""
        return _address("ui.listen", self.ui.listen, parse_loopback)

    def masquerade_settings(self) -> MasqueradeSettings:
        """Return the settings of the egress package. Raises SettingError for a range that is no CIDR."""
        ranges = [_range(key, cidr) for key, cidr in _cluster_cidrs(self)]
        return MasqueradeSettings(
            enabled=self.masquerade.enabled,
            ipv4=self.masquerade.ipv4,
            ipv6=self.masquerade.ipv6,
            random_fully=self.masquerade.random_fully,
            all_reserved_ranges=self.masquerade.all_reserved_ranges,
            to_ports=_port_ranges(self.masquerade.to_ports),
            gateway_mark=_mark_bits(self.masquerade.gateway_mark),
            cluster_ranges=tuple(ranges),
            create_default=self.masquerade.create_default_policy,
            ip_masq=IpMasqConfig(
                _listed("non_masquerade_cidrs", self.masquerade),
                (self.masquerade.masq_link_local, self.masquerade.masq_link_local_ipv6),
                translated=_listed("masquerade_cidrs", self.masquerade),
            ),
        )


def mark_bits(section: IptablesSection) -> tuple[int, int]:
    """Return mark_bit and route_mark_bit of `[iptables]`. Raises SettingError."""
    found: list[int] = []
    for key, written in (("mark_bit", section.mark_bit), ("route_mark_bit", section.route_mark_bit)):
        bit = int(written, 0) if isinstance(written, str) and _MASK.fullmatch(written) is not None else written
        if not isinstance(bit, int) or not 0 < bit < _MARKS or bit & (bit - 1) or bit in found:
            raise SettingError(f"iptables.{key} = {written!r}: write one bit, other than the other's, like 0x1000")
        found.append(bit)
    return found[0], found[1]


def lowering_options(section: IptablesSection) -> LoweringOptions:
    """Return what the settings say of how rules become those of iptables. Raises SettingError."""
    accepted, unrouted = mark_bits(section)
    return LoweringOptions(accepted_bit=accepted, unrouted_bit=unrouted)


def load_settings(
    file: Path | None = None, environment: Mapping[str, str] = os.environ, flags: Mapping[str, object] | None = None
) -> Settings:
    """Return the settings; without `file`, those of the default file, if it exists. Raises SettingError.

    flags: top-level settings from the command line; None and '' override nothing
    """
    return load_layers(file, environment, flags)[0]


def load_layers(
    file: Path | None, environment: Mapping[str, str], flags: Mapping[str, object] | None
) -> tuple[Settings, dict[str, Origin]]:
    """Return what `load_settings` does, and the origin of each value that some layer has. Raises SettingError."""
    given = {key: value for key, value in (flags or {}).items() if value is not None and value != ""}
    layers = (
        *file_layers(file, DEFAULT_FILE),
        environment_layer(environment, Settings),
        Layer("command line", given, "flag"),
    )
    for layer in layers:
        # Each layer is checked alone first, so that the error names the layer, even if a later one overrides it.
        require_text(layer)
        _converted(layer.name, layer.values)
    values, origins = merged(layers)
    if given.get("kubeconfig"):
        values["manifests"] = ""  # the flag names the API server as the source
        origins["manifests"] = Origin("flag", "--kubeconfig")
    return _converted("settings", values), origins


def _converted(source: str, layer: dict[str, Any]) -> Settings:
    try:
        settings = msgspec.convert(layer, Settings, strict=False)
        settings.masquerade_settings()
        settings.metrics_address()
        settings.ui_address()
        mark_bits(settings.iptables)
        _check(settings)
    except msgspec.ValidationError as error:
        raise SettingError(f"{source}: {_describe(str(error), layer)}") from None
    except SettingError as error:
        raise SettingError(f"{source}: {error}") from None
    return settings


def _describe(message: str, layer: dict[str, Any]) -> str:
    """Return msgspec's `Expected `int`, got `str` - at `$.logging.group`` as `logging.group = 'x': …`."""
    reason, _, path = message.partition(" - at ")
    key = path.strip("`").removeprefix("$").removeprefix(".")
    if (unknown := _UNKNOWN.fullmatch(reason)) is not None:
        name = f"{key}.{unknown['name']}" if key else unknown["name"]
        near = get_close_matches(name, [known for known, _ in setting_keys(Settings)], 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return f"unknown setting {name}; systemd/nfagent.toml lists all settings{meant}"
    value: Any = layer
    for part in re.findall(r"\w+", key):
        value = value[int(part)] if isinstance(value, list | tuple) and part.isdecimal() else value[part]
    if choices := _choices(key):
        return f"{key} = {value!r}: write {' or '.join(choices)}"
    return f"{key} = {value!r}: {reason[:1].lower()}{reason[1:].replace('`', '')}"


def _choices(key: str) -> tuple[str, ...]:
    """Return the values that a setting may have, where they are few words; none for other settings and for a part."""
    kind = dict(setting_keys(Settings)).get(key)
    values = get_args(kind) if get_origin(kind) is Literal else ()
    return tuple(json.dumps(value) for value in values)


def _cluster_cidrs(settings: Settings) -> Iterator[tuple[str, str]]:
    for key in ("pod_cidrs", "service_cidrs"):
        for cidr in getattr(settings.cluster, key):
            yield f"cluster.{key}", cidr


def _address(key: str, written: str, parse: Callable[[str], ListenAddress]) -> ListenAddress | None:
    try:
        return parse(written) if written else None
    except AddressError as error:
        raise SettingError(f"{key} = {written!r}: {error}") from None


def _check(settings: Settings) -> None:
    for key in ("runtime_dir", "log_dir", "state_dir"):
        if not getattr(settings, key):
            raise SettingError(f"{key} = '': write a folder's path")
    for key, (least, most) in LIMITS.items():
        section, _, name = key.partition(".")
        value: float = getattr(getattr(settings, section), name)
        if not least <= value <= most:
            raise SettingError(f"{key} = {value}: write {least} to {most}")
    burst, rate = settings.logging.burst, settings.logging.records_per_second
    if burst * DRAINS_A_SECOND < rate:
        least = math.ceil(rate / DRAINS_A_SECOND)
        raise SettingError(f"logging.burst = {burst}: write {least} or more, for records_per_second = {rate:g}")
    for sink in settings.logging.sinks:
        if sink not in SINKS:
            raise SettingError(f"logging.sinks = {sink!r}: write {', '.join(SINKS)}")
        if settings.logging.sinks.count(sink) > 1:
            raise SettingError(f"logging.sinks: {sink!r} is there twice; write each sink once")
    if settings.log_level not in LOG_LEVELS:
        raise SettingError(f"log_level = {settings.log_level!r}: write {', '.join(LOG_LEVELS)}")


def _port_ranges(written: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Return the ranges of masquerade.to_ports in ascending order. Raises SettingError."""
    found = sorted(map(_port_range, written))
    for (_, last), (first, _) in pairwise(found):
        if first <= last:
            raise SettingError(f"masquerade.to_ports: port {first} is in two ranges; write each port once")
    return tuple(found)


def _port_range(written: str) -> tuple[int, int]:
    match = _PORTS.fullmatch(written)
    first, last = (int(match["first"]), int(match["last"] or match["first"])) if match is not None else (0, 0)
    if not 1 <= first <= last <= _LAST_PORT:
        raise SettingError(f"masquerade.to_ports = {written!r}: write ranges of ports, like 1024-29999")
    return first, last


def _mark_bits(written: int | str) -> MarkBits:
    """Return the bits of masquerade.gateway_mark. Raises SettingError."""
    mask = int(written, 0) if isinstance(written, str) and _MASK.fullmatch(written) is not None else written
    if not isinstance(mask, int) or not 0 < mask < _MARKS or mask // (mask & -mask) != _EIGHT_BITS:
        raise SettingError(
            f"masquerade.gateway_mark = {written!r}: write a mask of eight bits in a row, like 0x0ff00000"
        )
    return MarkBits(mask)


def _listed(key: str, section: MasqueradeSection) -> tuple[Range, ...] | None:
    """Return a list of ip-masq-agent, which allows no host bits; None for the default, as for an omitted key."""
    cidrs: tuple[str, ...] = getattr(section, key)
    if cidrs == getattr(MasqueradeSection(), key):
        return None
    return tuple(_range(f"masquerade.{key}", cidr, strict=True) for cidr in cidrs)


def _range(key: str, cidr: str, *, strict: bool = False) -> Range:
    try:
        return parse_cidr(cidr, strict=strict)
    except AddressError as error:
        raise SettingError(f"{key} = {cidr!r}: {error}") from None
