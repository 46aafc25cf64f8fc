"""The exceptions of nfagent, and ValidationIssue, a problem with the input.

    NfagentError                 base of all
    ├── UsageError               the caller requested something impossible (exit code 2)
    │   └── SettingError         a setting in the file, the environment or a flag is wrong
    ├── HostError               this machine lacks something: root, nf_tables, libnftables (exit code 2)
    ├── DecodeError              bytes or documents of an unexpected format
    │   ├── ObjectError          a Kubernetes object breaks its API's validation
    │   └── WireError            bytes from the kernel or from a packet that can't be read
    ├── ClusterError             the API server refused, or is unreachable
    │   ├── UnreachableError     no connection to its address: refused, no route, no such name
    │   └── ReadTimeoutError     a connection on which it sent nothing for too long
    └── KernelError              the kernel refused a transaction
        ├── SetFullError         a set is full
        └── UnlistableError      a table has what nft can't list

Every message says what is wrong, where, and what to do instead.
"""

from __future__ import annotations

import msgspec


class ValidationIssue(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with the input, as `dump`, the log and Events show it.

    place:  where it was found: `FILE:LINE` for manifests, empty where there is none
    object: the object at fault as `Kind namespace/name`, or empty for a whole file
    field:  path of the field, `spec.ingress[0].ports[1].endPort`, or empty
    value:  the offending value as text, or empty
    reason: what is wrong and what to write instead
    """

    reason: str
    place: str = ""
    object: str = ""
    field: str = ""
    value: str = ""

    def __str__(self) -> str:
        """Return one line: `place: object: field: 'value': reason`."""
        shown = f"{self.field} {self.value!r}" if self.value else self.field
        return ": ".join(part for part in (self.place, self.object, shown, self.reason) if part)


class NfagentError(Exception):
    """Base of the exceptions that nfagent raises on purpose.

    reason: what is wrong
    hint:   what to do about it, often a command; empty where the reason says it
    """

    def __init__(self, reason: str = "", *, hint: str = "") -> None:
        """Build the message from the reason and the hint."""
        super().__init__(f"{reason}; {hint}" if hint else reason)
        self.reason = reason
        self.hint = hint


class UsageError(NfagentError):
    """The caller asked for something that can't be done; the message says what to write instead."""


class SettingError(UsageError):
    """A setting is unknown or has a value that can't be used; the message names file, key and value."""


class HostError(NfagentError):
    """The machine lacks something that nfagent needs; the message names the command that fixes it."""


class TableHeldError(HostError):
    """Another agent holds the table of this network namespace."""


class DecodeError(NfagentError):
    """Input of an unexpected format."""


class ObjectError(DecodeError):
    """A Kubernetes object that breaks its API's validation.

    `problem` has the object, field, value and reason.
    """

    def __init__(self, problem: ValidationIssue) -> None:
        """Keep the problem, whose text is the message."""
        super().__init__(str(problem))
        self.problem = problem


class WireError(DecodeError):
    """Bytes that can't be read: a netlink message, an attribute, a packet header."""


class ClusterError(NfagentError):
    """The API server refused, can't be reached, or there are no credentials for it; the message says what to do."""


class UnreachableError(ClusterError):
    """No connection to the API server's address: refused, no route, name not resolved, reset while connecting."""


class ReadTimeoutError(ClusterError):
    """The API server sent nothing for longer than the read timeout of its connection."""


class KernelError(NfagentError):
    """The kernel, or libnftables on its behalf, refused; the message is the kernel's."""


class SetFullError(KernelError):
    """A set is too small for a transaction's elements; the transaction was not applied."""


class UnlistableError(KernelError):
    """A table has rules at which nft crashes, or objects that it leaves out, so that it can't be listed."""


def leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions of a group, also those of groups in it; of another exception, itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in leaves(inner)]
