"""Reads what libnftables replied, and says how a process ended that ran it."""

from __future__ import annotations

import signal

from nfagent.errors import HostError, KernelError, UnlistableError
from nfagent.kernel.sockets import AS_ROOT, NEEDS_ROOT

_ABSENT_MESSAGE = "No such file or directory"
_DENIED_MESSAGE = "Operation not permitted"
_CRASHES = frozenset((signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE))
_UNLISTABLE_HINT = "remove the rules that this nft can't list, or install a later one"
_LEFT_OUT = "netlink: Error: "


def printed(status: int, output: bytes, refusal: bytes) -> str:
    """Return what libnftables printed. Raises KernelError, HostError for a status that isn't 0."""
    if status != 0:
        error = str(refusal, "utf-8", "replace")
        if _DENIED_MESSAGE in error:
            raise HostError(NEEDS_ROOT, hint=AS_ROOT)
        raise KernelError(_first_line(error))
    return str(output, "utf-8", "replace")


def listed(status: int, output: bytes, refusal: bytes) -> str | None:
    """Return what libnftables printed for a list command, None where its object doesn't exist. Raises as `printed`."""
    try:
        return printed(status, output, refusal)
    except KernelError as error:
        if _ABSENT_MESSAGE in str(error):
            return None
        raise


def listed_whole(command: str, status: int, output: bytes, refusal: bytes) -> str | None:
    """Return what libnftables printed of a table, with all of it, None without the table.

    command: for the error
    Raises UnlistableError, KernelError, HostError.
    It leaves out sets whose types it doesn't know, and the parts of rules that it can't read: with status 0, and words.
    """
    said = str(refusal, "utf-8", "replace").splitlines() if status == 0 else []
    for line in said:
        if line.startswith(_LEFT_OUT):
            raise UnlistableError(f"`{command}` lists a part only: {line.strip()}", hint=_UNLISTABLE_HINT)
    return listed(status, output, refusal)


def ended(command: str, code: int, stderr: bytes) -> KernelError:
    """Return the error of a command whose process ended without a reply.

    code:   as Popen.returncode: the exit code, or the negative number of a signal
    stderr: what the process said
    A crash is an UnlistableError: the rules are the cause. A process ended by another one says nothing of them.
    """
    last = stderr.decode(errors="replace").strip().rpartition("\n")[2]
    by = f"was ended by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
    reason = f"`{command}` {by}: {last}" if last else f"`{command}` {by}"
    return UnlistableError(reason, hint=_UNLISTABLE_HINT) if -code in _CRASHES else KernelError(reason)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _first_line(error: str) -> str:
    """Return libnftables' first error, and the command that it is about, as one line."""
    lines = [line.strip() for line in error.strip().splitlines() if line.strip(" ^~")]
    return " | ".join(lines[:2])[:500] or "libnftables failed without a message"
