r"""A record as an entry of the systemd journal, in its native protocol: fields with structure, for `journalctl`.

A field is `NAME=value\n`; a value with a newline is `NAME\n`, its length as 64 bits little-endian, the value and `\n`,
so that no value can begin another field (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from nfagent.model.netaddr import endpoint
from nfagent.model.plurals import counted
from nfagent.model.printable import printable
from nfagent.verdicts.records import PolicyName, Record, RecordEndpoint

MESSAGE_ID = "3c0f2ab6d1d94f7c9a3e5b0c7f64d218"
"""Of every record: `journalctl MESSAGE_ID=…` shows them alone."""
IDENTIFIER = "nfagent-verdicts"
_INFO = "6"
_MAX_POLICY_FIELDS = 400
"""journald discards entries of more than 1,024 fields; NFAGENT_RECORD has all policies."""
_MAX_NAMED = 10
_LENGTH = struct.Struct("<Q")


def encode_entry(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode names and values as one entry; names are of A-Z, 0-9 and _, values of any characters."""
    return b"".join(_field(name.encode(), value.encode(errors="backslashreplace")) for name, value in fields)


def record_fields(record: Record, line: bytes) -> Iterator[tuple[str, str]]:
    """Yield names and values of a record's entry; a field is left out where the record has none.

    line: the record's line of JSON, which is the field NFAGENT_RECORD
    """
    connection = record.connection
    yield "MESSAGE", _message(record)
    yield "MESSAGE_ID", MESSAGE_ID
    yield "PRIORITY", _INFO
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    yield "NFAGENT_DISPOSITION", record.disposition
    yield "NFAGENT_DIRECTION", connection.direction
    yield "NFAGENT_PROTOCOL", connection.protocol
    yield from _end_fields("SRC", connection.src_ip, connection.src_port, record.src)
    yield from _end_fields("DEST", connection.dest_ip, connection.dest_port, record.dest)
    for policy in record.policies[:_MAX_POLICY_FIELDS]:
        yield "NFAGENT_POLICY", _policy(policy)
    for policy in record.isolating_policies[:_MAX_POLICY_FIELDS]:
        yield "NFAGENT_ISOLATING_POLICY", _policy(policy)
    yield "NFAGENT_COUNT", str(record.count)
    if record.node_name:
        yield "NFAGENT_NODE", record.node_name
    yield "NFAGENT_TIMESTAMP", record.timestamp
    yield "NFAGENT_RECORD", line.decode(errors="backslashreplace").rstrip("\n")


def _end_fields(end: str, address: str, port: int | None, found: RecordEndpoint) -> Iterator[tuple[str, str]]:
    yield f"NFAGENT_{end}_IP", address
    if port is not None:
        yield f"NFAGENT_{end}_PORT", str(port)
    if found.pod_name:
        yield f"NFAGENT_{end}_NAMESPACE", found.pod_namespace
        yield f"NFAGENT_{end}_POD", found.pod_name
        yield f"NFAGENT_{end}_WORKLOAD_KIND", found.workload_kind
        yield f"NFAGENT_{end}_WORKLOAD_NAME", found.workload_name


def _message(record: Record) -> str:
    """Return `deny ingress shop/web -> shop/db:5432/tcp by NetworkPolicy shop/all (2 packets)`, as one line."""
    connection = record.connection
    host = endpoint(record.dest.name, connection.dest_port)
    policies = (*record.policies, *record.isolating_policies)
    more = f" and {len(policies) - _MAX_NAMED} more" if len(policies) > _MAX_NAMED else ""
    by = f" by {', '.join(map(_policy, policies[:_MAX_NAMED]))}{more}" if policies else ""
    packets = f" ({counted(record.count, 'packet')})" if record.count > 1 else ""
    return printable(
        f"{record.disposition} {connection.direction} {record.src.name} -> {host}/{connection.protocol}{by}{packets}"
    )


def _policy(policy: PolicyName) -> str:
    return f"{policy.kind} {policy.path}"


def _field(name: bytes, value: bytes) -> bytes:
    if b"\n" in value:
        return name + b"\n" + _LENGTH.pack(len(value)) + value + b"\n"
    return name + b"=" + value + b"\n"
