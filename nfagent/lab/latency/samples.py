"""The raw samples of a latency run, as JSON: what `lab latency` writes and `lab report` reads.

Times of a try are differences of CLOCK_MONOTONIC of one machine, in microseconds.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec

from nfagent.errors import UsageError
from nfagent.system.regular_file import read_regular

SCHEMA = 1
"""Incremented when samples of an older version would be read with another meaning."""

Stage: TypeAlias = Literal["source", "decode", "compile", "commit", "first_packet"]
"""A part of a try's latency, in the order in which they pass.

source:       from the change sent to the event received by the agent
decode:       until the objects are decoded and applied
compile:      until the commands for the kernel are computed
commit:       until the kernel has taken them
first_packet: until the first packet with the new verdict was sent
"""
STAGES: tuple[Stage, ...] = get_args(Stage)

DataPath: TypeAlias = Literal["nftables", "ebpf"]
"""The path whose verdicts a series measures."""

ScenarioName: TypeAlias = Literal[
    "policy-created",
    "policy-deleted",
    "pod-added-to-peer-set",
    "pod-relabelled",
    "namespace-relabelled",
    "masquerade-list-changed",
    "ip-block-10000",
]
SCENARIOS: tuple[ScenarioName, ...] = get_args(ScenarioName)

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Microseconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=3.6e9)]  # an hour is beyond every deadline
_Amount: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine that was measured.

    cpu:            model name of /proc/cpuinfo
    kernel:         release and version of uname
    os:             PRETTY_NAME of /etc/os-release
    virtualization: what systemd-detect-virt prints: `none`, `kvm`, `qemu`, `docker`; '' where it isn't known
    """

    cpu: str
    cores: _Count
    memory_bytes: _Count
    kernel: str
    os: str
    virtualization: str


class LabSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the lab was built and measured with.

    attachment:        how Pods are attached: routed, bridge, vxlan, or the name of a CNI plugin
    tries:             tries of each series that were asked for, without the warm-up
    warmup:            tries before them, which are not in the samples
    probe_interval_us: time between two packets of the probe
    seed:              of what the run chose at random
    """

    nodes: _Count
    pods_per_node: _Count
    attachment: str
    source: Literal["manifests", "apiserver"]
    tries: _Count
    warmup: _Count
    probe_interval_us: _Microseconds
    seed: int


class Try(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change: from the change sent to the first packet with the new verdict.

    latency_us: None where the deadline passed without such a packet
    write_us:   with an API server: its part until the server's response was read; the first packet may be earlier
    stages_us:  the stages that are known; one that the agent's trace lacks is left out
    """

    latency_us: _Microseconds | None
    stages_us: dict[Stage, _Microseconds]
    write_us: _Microseconds | None = None


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tries of one scenario, at one size, on one path; in the order in which they ran.

    policies: background policies that were in force
    pods:     Pods of the whole cluster
    """

    scenario: ScenarioName
    policies: _Count
    pods: _Count
    path: DataPath
    tries: list[Try]


RatePath: TypeAlias = Literal["nftables", "ebpf", "none"]


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Repeated measurements of one quantity, whose name ends in its unit.

    path: `none` for the same machine without any policy
    """

    path: RatePath
    quantity: str
    policies: _Count
    pods: _Count
    values: list[_Amount]


class LabSamples(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that one run measured.

    command:    the command that made it, as arguments
    started:    RFC 3339
    seconds:    how long the run took
    versions:   of nfagent, python, nft, clang, libbpf
    incomplete: why the run ended before its last try, '' for a complete run
    """

    schema: int = SCHEMA
    lab: str
    driver: Literal["netns", "vagrant"]
    command: list[str]
    started: str
    seconds: _Amount
    machine: Machine
    versions: dict[str, str]
    settings: LabSettings
    series: list[Series]
    rates: list[Rate]
    incomplete: str = ""


def encode_samples(samples: LabSamples) -> bytes:
    """Return the samples as JSON, in one line."""
    return msgspec.json.encode(samples) + b"\n"


def decode_samples(text: bytes, file: str) -> LabSamples:
    """Return the samples that a file contains. Raises UsageError, which names file, field and value."""
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{file}: not JSON: {error}", hint=_MEASURE_AGAIN) from None
    if not isinstance(document, dict) or "schema" not in document:
        raise UsageError(f"{file}: not the samples of a latency run: no field schema", hint=_MEASURE_AGAIN)
    schema = document["schema"]
    if type(schema) is not int or schema != SCHEMA:
        raise UsageError(
            f"{file}: schema: {_shown(schema)}: this version of nfagent reads schema {SCHEMA}",
            hint="use the version of nfagent that wrote the file, or measure again with `nfagent lab latency -o FILE`",
        )
    try:
        samples = msgspec.convert(document, LabSamples)
    except (msgspec.ValidationError, RecursionError) as error:
        raise UsageError(f"{file}: {_located(str(error), document)}", hint=_MEASURE_AGAIN) from None
    _check(samples, file)
    return samples


def read_samples(path: Path) -> LabSamples:
    """Read a file of samples. Raises UsageError."""
    try:
        text = read_regular(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", hint=_MEASURE_AGAIN) from None
    return decode_samples(text, str(path))


_MEASURE_AGAIN = "give a file that `nfagent lab latency -o FILE` wrote"


def _check(samples: LabSamples, file: str) -> None:
    """Refuse what has the right types, and no meaning. Raises UsageError."""
    try:
        aware = dt.datetime.fromisoformat(samples.started).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise UsageError(
            f"{file}: started: {_shown(samples.started)}: not a time with its zone",
            hint="write it as RFC 3339, like 2026-01-31T12:00:00Z",
        )
    seen: dict[object, int] = {}
    for position, series in enumerate(samples.series):
        key = (series.scenario, series.policies, series.pods, series.path)
        if key in seen:
            raise UsageError(
                f"{file}: series[{position}]: the same scenario, policies, pods and path {key} as series[{seen[key]}]",
                hint="put all tries of one scenario, size and path into one series",
            )
        seen[key] = position


_LOCATED = re.compile(r"(?P<reason>.*?)(?: - at (?P<of>`key` in )?`\$(?P<path>.*)`)?\Z", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_LONGEST_VALUE = 120


def _located(message: str, document: object) -> str:
    """Return a message of msgspec as `field: value: reason`."""
    match = _LOCATED.match(message)
    path = (match["path"] if match else "") or ""
    reason = match["reason"] if match else message
    if not path:
        return reason
    field = path.removeprefix(".")
    if match and match["of"]:
        return f"{field}: a key of it: {reason}"
    found: Any = document
    for name, position in _STEP.findall(path):
        try:
            found = found[name] if name else found[int(position)]
        except (KeyError, IndexError, TypeError):
            return f"{field}: {reason}"
    return f"{field}: {_shown(found)}: {reason}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
