"""The faults of an agent that follows a folder of manifests, by boundary; `api_catalogue` has those of an API server.

A kernel that refuses says so in its reply; a call that fails is another matter, and so is a reply that was lost. An
error that lasts is there at every retry. EINTR is injected five times: CPython and libnftables repeat such a call by
themselves, and a kernel that interrupts every one for ever doesn't exist.
"""

from __future__ import annotations

import errno
from pathlib import Path

from tests.fault_injection.fault_table import Action, Call, Kind, Rule
from tests.fault_injection.trial import Fault, Trigger

_INTERRUPTIONS = 5
_HANG_SECONDS = 1.2
_HOUR = 3600.0
_PACKETS = 3000.0
"""Calls a second that each denied packet may cause."""


def _code(number: int) -> str:
    return errno.errorcode[number]


def _refused(kind: Kind, number: int) -> Rule:
    return Rule(calls=Call.SEND, kinds=kind, action=Action.REFUSE, error=number)


def _fails(calls: Call, kind: Kind, number: int, *, path: str = "", most: int = 0) -> Rule:
    most = _INTERRUPTIONS if number == errno.EINTR else most
    return Rule(calls=calls, kinds=kind, action=Action.FAIL, error=number, path=path, most=most)


def _lost(kind: Kind, number: int = errno.ENOBUFS, most: int = 0) -> Rule:
    return Rule(calls=Call.RECV, kinds=kind, action=Action.LOSE, error=number, most=most)


def _hangs(calls: Call, kind: Kind, *, path: str = "", most: int = 1) -> Rule:
    return Rule(calls=calls, kinds=kind, action=Action.HANG, seconds=_HANG_SECONDS, path=path, most=most)


def _short(calls: Call, kind: Kind, size: int, *, path: str = "", most: int = 0) -> Rule:
    return Rule(calls=calls, kinds=kind, action=Action.SHORT, most_bytes=size, path=path, most=most)


def commits() -> tuple[Fault, ...]:
    """Return the faults of writing the ruleset."""
    kind = Kind.NFT_COMMIT
    refused = (errno.EBUSY, errno.ENOENT, errno.EEXIST, errno.ENOMEM, errno.EPERM, errno.ENOSPC, errno.EINTR)
    sending = (errno.ENOBUFS, errno.ENOMEM, errno.EPERM)

    def fault(name: str, rule: Rule, reported: str = "ruleset") -> Fault:
        return Fault(name=f"commit: {name}", boundary="kernel", rules=(rule,), reported=reported)

    return (
        *(fault(f"refused by {_code(number)}", _refused(kind, number)) for number in refused),
        *(fault(f"sending fails with {_code(number)}", _fails(Call.SEND, kind, number)) for number in sending),
        fault("sending is interrupted (EINTR)", _fails(Call.SEND, kind, errno.EINTR), ""),
        fault("sending hangs", _hangs(Call.SEND, kind), ""),
        # The batch is in force then, which the next comparison finds; what isn't retried meanwhile is the revocation.
        fault("the reply is lost (ENOBUFS)", _lost(kind), "conntrack"),
        fault("the reply is cut short", _short(Call.RECV, kind, 20), "conntrack"),
        fault("the reply is interrupted (EINTR)", _fails(Call.RECV, kind, errno.EINTR), ""),
    )


def listings() -> tuple[Fault, ...]:
    """Return the faults of reading the ruleset, which a reload does before the next commit."""
    kind = Kind.NFT_LIST

    def fault(name: str, rule: Rule, reported: str = "ruleset") -> Fault:
        rules = (rule,)
        return Fault(name=f"listing: {name}", boundary="kernel", rules=rules, trigger="reload", reported=reported)

    return (
        *(
            fault(f"refused by {_code(number)}", _refused(kind, number))
            for number in (errno.EBUSY, errno.ENOENT, errno.ENOMEM, errno.EPERM)
        ),
        fault("refused by EINTR five times", _few(_refused(kind, errno.EINTR)), ""),
        fault("sending fails with ENOBUFS", _fails(Call.SEND, kind, errno.ENOBUFS)),
        fault("the reply is lost (ENOBUFS)", _lost(kind)),
        fault("the reply is cut short", _short(Call.RECV, kind, 24)),
        fault("the reply hangs", _hangs(Call.RECV, kind), ""),
        fault("no descriptor (EMFILE)", _fails(Call.SOCKET, kind, errno.EMFILE)),
        fault("no descriptor in the system (ENFILE)", _fails(Call.SOCKET, kind, errno.ENFILE)),
    )


def _few(rule: Rule) -> Rule:
    return Rule(calls=rule.calls, kinds=rule.kinds, action=rule.action, error=rule.error, most=_INTERRUPTIONS)


def notifications() -> tuple[Fault, ...]:
    """Return the faults of the kernel's reports of changes, while another program changes our table."""
    kind = Kind.NFT_EVENTS

    def fault(name: str, rule: Rule, reported: str = "") -> Fault:
        rules = (rule,)
        return Fault(name=f"notifications: {name}", boundary="kernel", rules=rules, trigger="drift", reported=reported)

    return (
        fault("lost (ENOBUFS)", _lost(kind, most=20)),
        fault("the socket fails (ENOMEM)", _fails(Call.RECV, kind, errno.ENOMEM, most=1), "notifications"),
        fault("cut short", _short(Call.RECV, kind, 24)),
        fault("receiving hangs", _hangs(Call.RECV, kind)),
        fault("receiving is interrupted (EINTR)", _fails(Call.RECV, kind, errno.EINTR)),
    )


def connections() -> tuple[Fault, ...]:
    """Return the faults of conntrack, by which live connections are ended."""
    kind = Kind.CONNTRACK

    def fault(name: str, rule: Rule, reported: str = "conntrack") -> Fault:
        return Fault(name=f"conntrack: {name}", boundary="kernel", rules=(rule,), reported=reported)

    return (
        *(
            fault(f"refused by {_code(number)}", _refused(kind, number))
            for number in (errno.EBUSY, errno.ENOMEM, errno.EPERM)
        ),
        fault("sending fails with ENOBUFS", _fails(Call.SEND, kind, errno.ENOBUFS)),
        fault("the reply is lost (ENOBUFS)", _lost(kind)),
        fault("the reply is cut short", _short(Call.RECV, kind, 40)),
        fault("the reply hangs", _hangs(Call.RECV, kind), ""),
        fault("the reply is interrupted (EINTR)", _fails(Call.RECV, kind, errno.EINTR), ""),
    )


def packet_logs() -> tuple[Fault, ...]:
    """Return the faults of NFLOG: records are lost, and no rule is."""
    kind = Kind.NFLOG

    def fault(name: str, rule: Rule, reported: str = "") -> Fault:
        rules = (rule,)
        return Fault(name=f"NFLOG: {name}", boundary="kernel", rules=rules, reported=reported, most_calls=_PACKETS)

    return (
        fault("records are lost (ENOBUFS)", _lost(kind), "verdict log"),
        fault("the socket fails (ENOMEM)", _fails(Call.RECV, kind, errno.ENOMEM, most=1), "verdict log"),
        fault("records are cut short", _short(Call.RECV, kind, 40), "verdict log"),
        fault("receiving hangs", _hangs(Call.RECV, kind)),
        fault("receiving is interrupted (EINTR)", _fails(Call.RECV, kind, errno.EINTR)),
    )


def links() -> tuple[Fault, ...]:
    """Return the faults of rtnetlink, asked for the interface of a Pod that is new."""
    kind = Kind.ROUTE

    def fault(name: str, rule: Rule, reported: str = "links") -> Fault:
        return Fault(name=f"rtnetlink: {name}", boundary="kernel", rules=(rule,), reported=reported, pods=True)

    return (
        *(fault(f"refused by {_code(number)}", _refused(kind, number)) for number in (errno.EBUSY, errno.ENOMEM)),
        fault("the reply is lost (ENOBUFS)", _lost(kind)),
        fault("the reply hangs", _hangs(Call.RECV, kind), ""),
        fault("no descriptor (EMFILE)", _fails(Call.SOCKET, kind, errno.EMFILE)),
    )


def files(manifests: Path, state_dir: Path, log_dir: Path) -> tuple[Fault, ...]:
    """Return the faults of manifests, of the last good objects and of the verdict log."""
    policy, folder = str(manifests / "policy.yaml"), str(manifests)
    kept, log = str(state_dir), str(log_dir)

    def fault(name: str, rule: Rule, reported: str, trigger: Trigger = "") -> Fault:
        rules = (rule,)
        return Fault(name=name, boundary="files", rules=rules, reported=reported, trigger=trigger, most_calls=_PACKETS)

    return (
        *(
            fault(
                f"manifest: opening fails with {_code(number)}",
                _fails(Call.OPEN, Kind.FILES, number, path=policy),
                "input",
            )
            for number in (errno.EIO, errno.EACCES, errno.EMFILE, errno.ENFILE)
        ),
        fault("manifest: reading fails with EIO", _fails(Call.READ, Kind.FILES, errno.EIO, path=policy), "input"),
        fault("manifest: reading is interrupted (EINTR)", _fails(Call.READ, Kind.FILES, errno.EINTR, path=policy), ""),
        fault("manifest: short reads of 7 bytes", _short(Call.READ, Kind.FILES, 7, path=policy), ""),
        fault("manifest: reading hangs", _hangs(Call.READ, Kind.FILES, path=policy), ""),
        fault(
            "manifests: listing the folder fails with EIO",
            _fails(Call.SCAN, Kind.FILES, errno.EIO, path=folder),
            "input",
            "reload",
        ),
        *(
            fault(
                f"state: writing fails with {_code(number)}",
                _fails(Call.WRITE, Kind.FILES, number, path=kept),
                "last good objects",
            )
            for number in (errno.ENOSPC, errno.EIO)
        ),
        fault("state: short writes of 9 bytes", _short(Call.WRITE, Kind.FILES, 9, path=kept), ""),
        fault("state: writing is interrupted (EINTR)", _fails(Call.WRITE, Kind.FILES, errno.EINTR, path=kept), ""),
        fault("state: writing hangs", _hangs(Call.WRITE, Kind.FILES, path=kept), ""),
        *(
            fault(
                f"verdict log: writing fails with {_code(number)}",
                _fails(Call.WRITE, Kind.FILES, number, path=log),
                "verdict log",
            )
            for number in (errno.ENOSPC, errno.EIO, errno.EROFS)
        ),
        fault("verdict log: short writes of 9 bytes", _short(Call.WRITE, Kind.FILES, 9, path=log), ""),
        fault("verdict log: writing is interrupted (EINTR)", _fails(Call.WRITE, Kind.FILES, errno.EINTR, path=log), ""),
        fault("verdict log: writing hangs", _hangs(Call.WRITE, Kind.FILES, path=log), ""),
    )


def sockets(own: Path, systemd: Path) -> tuple[Fault, ...]:
    """Return the faults of the agent's own unix socket and of sd_notify."""

    def fault(name: str, rule: Rule, trigger: Trigger = "", *, unanswered: bool = False) -> Fault:
        # An answer in pieces is hundreds of calls.
        most_calls, rules = (_PACKETS if rule.action == Action.SHORT else 50.0), (rule,)
        return Fault(
            name=name,
            boundary="sockets",
            rules=rules,
            trigger=trigger,
            unanswered=unanswered,
            most_calls=most_calls,
        )

    return (
        fault(
            "own socket: accepting fails with EMFILE",
            _fails(Call.ACCEPT, Kind.UNIX, errno.EMFILE, path=str(own)),
            unanswered=True,
        ),
        fault(
            "own socket: accepting fails with ECONNABORTED",
            _fails(Call.ACCEPT, Kind.UNIX, errno.ECONNABORTED, path=str(own), most=5),
        ),
        fault("own socket: replies fail with EPIPE", _fails(Call.SEND, Kind.UNIX, errno.EPIPE, path=str(own))),
        fault("own socket: replies in pieces of 100 bytes", _short(Call.SEND, Kind.UNIX, 100, path=str(own))),
        fault(
            "sd_notify: sending fails with ECONNREFUSED",
            _fails(Call.SEND, Kind.UNIX, errno.ECONNREFUSED, path=str(systemd)),
            "reload",
        ),
        fault(
            "sd_notify: sending fails with EAGAIN",
            _fails(Call.SEND, Kind.UNIX, errno.EAGAIN, path=str(systemd)),
            "reload",
        ),
    )


def clocks() -> tuple[Fault, ...]:
    """Return jumps of the wall clock."""
    return tuple(
        Fault(
            name=f"wall clock: {abs(hours)} hours {'forward' if hours > 0 else 'back'}, and again",
            boundary="clock",
            wall_offset=hours * _HOUR,
        )
        for hours in (5, -5, 24 * 365)
    )


def faults_of(manifests: Path, state_dir: Path, log_dir: Path, own: Path, systemd: Path) -> tuple[Fault, ...]:
    """Return all faults of an agent with these paths."""
    kernel = (*commits(), *listings(), *notifications(), *connections(), *packet_logs(), *links())
    return (*kernel, *files(manifests, state_dir, log_dir), *sockets(own, systemd), *clocks())
