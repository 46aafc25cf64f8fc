"""Faults of calls, as the catalogues name them.

A kernel that refuses says so in its reply; a call that fails is another matter, and so is a reply that was lost. An
error that lasts is there at every retry. EINTR is injected five times: CPython and libnftables repeat such a call by
themselves, and a kernel that interrupts every one for ever doesn't exist.
"""

from __future__ import annotations

import errno

from tests.fault_injection.fault_table import Action, Call, Kind, Rule

_INTERRUPTIONS = 5
_HANG_SECONDS = 1.2


def code(number: int) -> str:
    """Return the name of an errno."""
    return errno.errorcode[number]


def refused(kind: Kind, number: int) -> Rule:
    """Refuse requests in the reply."""
    return Rule(calls=Call.SEND, kinds=kind, action=Action.REFUSE, error=number)


def fails(calls: Call, kind: Kind, number: int, *, path: str = "", most: int = 0) -> Rule:
    """Have calls return an error, and not be made."""
    most = _INTERRUPTIONS if number == errno.EINTR else most
    return Rule(calls=calls, kinds=kind, action=Action.FAIL, error=number, path=path, most=most)


def lost(kind: Kind, number: int = errno.ENOBUFS, most: int = 0) -> Rule:
    """Have replies be dropped."""
    return Rule(calls=Call.RECV, kinds=kind, action=Action.LOSE, error=number, most=most)


def hangs(calls: Call, kind: Kind, *, path: str = "", most: int = 1) -> Rule:
    """Have a call take longer than a second."""
    return Rule(calls=calls, kinds=kind, action=Action.HANG, seconds=_HANG_SECONDS, path=path, most=most)


def short(calls: Call, kind: Kind, size: int, *, path: str = "", most: int = 0) -> Rule:
    """Have calls pass few bytes."""
    return Rule(calls=calls, kinds=kind, action=Action.SHORT, most_bytes=size, path=path, most=most)


def few(rule: Rule) -> Rule:
    """Return a rule that changes a few calls only."""
    return Rule(calls=rule.calls, kinds=rule.kinds, action=rule.action, error=rule.error, most=_INTERRUPTIONS)
