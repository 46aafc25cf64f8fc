"""The policy log's record: one JSON object a line, in the shape that log shippers already read.

Fields, names, order and what is omitted when empty follow the managed product's policy log. Ours on top: the protocols
sctp and icmpv6, and `isolating_policies` in a deny.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Literal, TypeAlias

import msgspec

from nfagent.errors import DecodeError
from nfagent.model.objects import Direction, Pod
from nfagent.model.printable import printable_json

Disposition: TypeAlias = Literal["allow", "deny"]
LoggedProtocol: TypeAlias = Literal["tcp", "udp", "sctp", "icmp", "icmpv6", "unknown"]
Port: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Timestamp: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$")]
"""RFC 3339 in UTC with nine digits of fraction, as `timestamp` writes it: text order is order in time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PolicyName(msgspec.Struct, frozen=True, order=True):
    """Names a policy: name, namespace ('' for cluster-scoped kinds), kind; always all three."""

    name: str
    namespace: str
    kind: str


class RecordConnection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who spoke to whom: canonical addresses; ports None where the protocol has none; direction from the Pod judged."""

    src_ip: str
    dest_ip: str
    src_port: Port | None = None
    dest_port: Port | None = None
    protocol: LoggedProtocol
    direction: Direction


class RecordEndpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One end of a connection: a Pod with all five of its fields, or `instance`, an address that is no Pod's.

    namespace: the same as pod_namespace; the product's log has both
    """

    pod_name: str = ""
    workload_kind: str = ""
    workload_name: str = ""
    pod_namespace: str = ""
    namespace: str = ""
    instance: str = ""

    def __post_init__(self) -> None:
        """Refuse what is neither or both, with ValueError (DecodeError while decoding)."""
        of_pod = (self.pod_name, self.workload_kind, self.workload_name, self.pod_namespace, self.namespace)
        if any(of_pod) if self.instance else not all(of_pod):
            raise ValueError("an endpoint is a Pod with all its fields, or an instance")

    @classmethod
    def of_pod(cls, pod: Pod) -> RecordEndpoint:
        """Describe a Pod; one that nothing controls is its own workload."""
        return cls(
            pod_name=pod.name,
            workload_kind=pod.workload_kind,
            workload_name=pod.workload_name or pod.name,
            pod_namespace=pod.namespace,
            namespace=pod.namespace,
        )


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One final verdict.

    policies:           of an allow: every policy that allows the connection
    isolating_policies: of a deny: the NetworkPolicies that isolate the Pod in this direction, or the policy of a
                        tier that denies
    count:              packets that an aggregated deny stands for; 1 for an allow
    """

    connection: RecordConnection
    disposition: Disposition
    policies: tuple[PolicyName, ...] = ()
    isolating_policies: tuple[PolicyName, ...] = ()
    src: RecordEndpoint
    dest: RecordEndpoint
    count: Annotated[int, msgspec.Meta(ge=1)]
    node_name: str = ""
    timestamp: Timestamp


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """Write a record as one line of JSON, its newline included."""
    line = _encoder.encode(record)
    if not line.isascii() or b"\x7f" in line:
        line = printable_json(line.decode()).encode()
    return line + b"\n"


def decode(line: bytes) -> Record:
    """Read a line, with or without its newline; fields that we don't know are passed over.

    Raises DecodeError with the field at fault.
    """
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"no policy log record: {error}") from None


def timestamp(nanoseconds: int) -> str:
    """Write nanoseconds since the epoch as RFC 3339 in UTC: '2020-06-13T21:29:31.445836587Z'.

    Raises OverflowError outside the years 1 to 9999.
    """
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return f"{_second(seconds)}.{fraction:09d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    """Write a second once: thousands of records share it."""
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}"
