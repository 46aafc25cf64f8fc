"""Records of the verdict log: one JSON object a line, in the format that log shippers already parse.

Fields, their names and order, and which ones are omitted when empty follow the policy logging of GKE. Added
here: the protocols sctp and icmpv6, and `isolating_policies` in a deny.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Literal, TypeAlias

import msgspec

from nfagent.errors import DecodeError
from nfagent.model.objects import Direction, Pod
from nfagent.model.printable import printable_json

Disposition: TypeAlias = Literal["allow", "deny", "audit-deny"]
"""audit-deny: the packet passed; policies in audit mode, those of `isolating_policies`, would deny it."""
LoggedProtocol: TypeAlias = Literal["tcp", "udp", "sctp", "icmp", "icmpv6", "unknown"]
Port: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Timestamp: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$")]
"""RFC 3339 in UTC with nine decimal places, as `timestamp` writes it: sorting as text sorts by time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PolicyName(msgspec.Struct, frozen=True, order=True, omit_defaults=True):
    """The name of a policy: name, namespace ('' for cluster-scoped kinds) and kind, always all three.

    rule: the name of the rule that decided, of a policy of a tier; '' if that rule has none
    """

    name: str
    namespace: str
    kind: str
    rule: str = ""

    @property
    def path(self) -> str:
        """The qualified name: NAMESPACE/NAME, or the name of a cluster-scoped policy."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class RecordConnection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A connection: canonical addresses; ports, None where the protocol has none; direction of the evaluated Pod."""

    src_ip: str
    dest_ip: str
    src_port: Port | None = None
    dest_port: Port | None = None
    protocol: LoggedProtocol
    direction: Direction


class RecordEndpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One end of a connection: a Pod with all five of its fields, or `instance`, an address that no Pod holds.

    namespace: the same as pod_namespace; the format has both
    """

    pod_name: str = ""
    workload_kind: str = ""
    workload_name: str = ""
    pod_namespace: str = ""
    namespace: str = ""
    instance: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for neither or both (DecodeError while decoding)."""
        of_pod = (self.pod_name, self.workload_kind, self.workload_name, self.pod_namespace, self.namespace)
        if any(of_pod) if self.instance else not all(of_pod):
            raise ValueError("an endpoint is a Pod with all its fields, or an instance")

    @property
    def pod_path(self) -> str:
        """The Pod as NAMESPACE/NAME; '' for an instance."""
        return f"{self.pod_namespace}/{self.pod_name}" if self.pod_name else ""

    @property
    def name(self) -> str:
        """The address of an instance, or the Pod as NAMESPACE/NAME."""
        return self.instance or self.pod_path

    @classmethod
    def of_pod(cls, pod: Pod) -> RecordEndpoint:
        """Return the end of a Pod; a Pod without a controller is its own workload."""
        return cls(
            pod_name=pod.name,
            workload_kind=pod.workload_kind,
            workload_name=pod.workload_name or pod.name,
            pod_namespace=pod.namespace,
            namespace=pod.namespace,
        )


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One final verdict.

    policies:           for an allow: every policy that allows the connection
    isolating_policies: for a deny: the NetworkPolicies that isolate the Pod in this direction, or the admin policy
                        that denies; for an audit-deny those that would
    count:              number of packets of an aggregated deny, of connections of an audit-deny; 1 for an allow
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
    """Encode a record as one line of JSON with its newline."""
    line = _encoder.encode(record)
    if not line.isascii() or b"\x7f" in line:
        line = printable_json(line.decode()).encode()
    return line + b"\n"


def decode(line: bytes) -> Record:
    """Decode a line, with or without its newline; unknown fields are ignored.

    Raises DecodeError with the field at fault.
    """
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a verdict log record: {error}") from None


def timestamp(nanoseconds: int) -> str:
    """Return nanoseconds since the epoch as RFC 3339 in UTC: '2020-06-13T21:29:31.445836587Z'.

    Raises OverflowError outside the years 1 to 9999.
    """
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return f"{_second(seconds)}.{fraction:09d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    """Return the text of a second; cached, since thousands of records share it."""
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}"
