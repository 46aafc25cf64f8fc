"""The faults of an agent that follows a folder of manifests, by boundary; `api_lab` has those of an API server.

`xt_catalogue` has those of writing and reading rules where the backend is iptables.
"""

from __future__ import annotations

import errno
from pathlib import Path

from nfagent.kernel.backend_choice import BackendName
from tests.fault_injection.fault import Fault, Trigger
from tests.fault_injection.fault_table import Action, Call, Kind, Rule
from tests.fault_injection.rule_forms import code, fails, few, hangs, lost, refused, short
from tests.fault_injection.xt_catalogue import looks, program_runs, set_changes, set_listings

_HOUR = 3600.0
_PACKETS = 3000.0
"""Calls a second that each denied packet may cause."""


def commits() -> tuple[Fault, ...]:
    """Return the faults of writing the ruleset."""
    kind = Kind.NFT_COMMIT
    refusals = (errno.EBUSY, errno.ENOENT, errno.EEXIST, errno.ENOMEM, errno.EPERM, errno.ENOSPC, errno.EINTR)
    sending = (errno.ENOBUFS, errno.ENOMEM, errno.EPERM)

    def fault(name: str, rule: Rule, reported: str = "ruleset") -> Fault:
        return Fault(name=f"commit: {name}", boundary="kernel", rules=(rule,), reported=reported)

    return (
        *(fault(f"refused by {code(number)}", refused(kind, number)) for number in refusals),
        *(fault(f"sending fails with {code(number)}", fails(Call.SEND, kind, number)) for number in sending),
        fault("sending is interrupted (EINTR)", fails(Call.SEND, kind, errno.EINTR), ""),
        fault("sending hangs", hangs(Call.SEND, kind), ""),
        # The batch is in force then, which the next comparison finds; what isn't retried meanwhile is the revocation.
        fault("the reply is lost (ENOBUFS)", lost(kind), "conntrack"),
        fault("the reply is cut short", short(Call.RECV, kind, 20), "conntrack"),
        fault("the reply is interrupted (EINTR)", fails(Call.RECV, kind, errno.EINTR), ""),
    )


def listings() -> tuple[Fault, ...]:
    """Return the faults of reading the ruleset, which a reload does before the next commit."""
    kind = Kind.NFT_LIST | Kind.NFT_COUNTERS

    def fault(name: str, rule: Rule, reported: str = "ruleset") -> Fault:
        rules = (rule,)
        return Fault(name=f"listing: {name}", boundary="kernel", rules=rules, trigger="reload", reported=reported)

    return (
        *(
            fault(f"refused by {code(number)}", refused(kind, number))
            for number in (errno.EBUSY, errno.ENOENT, errno.ENOMEM, errno.EPERM)
        ),
        fault("refused by EINTR five times", few(refused(kind, errno.EINTR)), ""),
        fault("sending fails with ENOBUFS", fails(Call.SEND, kind, errno.ENOBUFS)),
        fault("the reply is lost (ENOBUFS)", lost(kind)),
        fault("the reply is cut short", short(Call.RECV, kind, 24)),
        fault("the reply hangs", hangs(Call.RECV, kind), ""),
        fault("no descriptor (EMFILE)", fails(Call.SOCKET, kind, errno.EMFILE)),
        fault("no descriptor in the system (ENFILE)", fails(Call.SOCKET, kind, errno.ENFILE)),
        Fault(name="listing: nft crashes at another program's rule", boundary="kernel", trigger="unlistable rule"),
    )


def notifications() -> tuple[Fault, ...]:
    """Return the faults of the kernel's reports of changes, while another program changes our table."""
    kind = Kind.NFT_EVENTS

    def fault(name: str, rule: Rule, reported: str = "") -> Fault:
        rules = (rule,)
        return Fault(name=f"notifications: {name}", boundary="kernel", rules=rules, trigger="drift", reported=reported)

    return (
        fault("lost (ENOBUFS)", lost(kind, most=20)),
        fault("the socket fails (ENOMEM)", fails(Call.RECV, kind, errno.ENOMEM, most=1), "notifications"),
        fault("cut short", short(Call.RECV, kind, 24)),
        fault("receiving hangs", hangs(Call.RECV, kind)),
        fault("receiving is interrupted (EINTR)", fails(Call.RECV, kind, errno.EINTR)),
        Fault(
            name="notifications: the event loop can watch no descriptor more (ENOSPC)",
            boundary="kernel",
            # Those of inotify too: manifests are polled.
            rules=(fails(Call.RECV, kind, errno.ENOMEM, most=1), fails(Call.WATCH, Kind.OTHER, errno.ENOSPC)),
            trigger="drift",
            reported="notifications",
        ),
    )


def counters() -> tuple[Fault, ...]:
    """Return the faults of reading packet counters, which `nfagent status` does: no rule depends on them."""
    kind = Kind.NFT_COUNTERS

    def fault(name: str, rule: Rule, reported: str = "packet counters") -> Fault:
        rules = (rule,)
        return Fault(name=f"counters: {name}", boundary="kernel", rules=rules, trigger="status", reported=reported)

    return (
        *(fault(f"refused by {code(number)}", refused(kind, number)) for number in (errno.ENOMEM, errno.EPERM)),
        fault("the reply is lost (ENOBUFS)", lost(kind)),
        fault("the reply is cut short", short(Call.RECV, kind, 24)),
        fault("the reply hangs", hangs(Call.RECV, kind), ""),
        fault("no descriptor (EMFILE)", fails(Call.SOCKET, Kind.NFT_LIST, errno.EMFILE)),
    )


def connections() -> tuple[Fault, ...]:
    """Return the faults of conntrack, by which live connections are ended."""
    kind = Kind.CONNTRACK

    def fault(name: str, rule: Rule, reported: str = "conntrack") -> Fault:
        return Fault(name=f"conntrack: {name}", boundary="kernel", rules=(rule,), reported=reported)

    return (
        *(
            fault(f"refused by {code(number)}", refused(kind, number))
            for number in (errno.EBUSY, errno.ENOMEM, errno.EPERM)
        ),
        fault("sending fails with ENOBUFS", fails(Call.SEND, kind, errno.ENOBUFS)),
        fault("the reply is lost (ENOBUFS)", lost(kind)),
        fault("the reply is cut short", short(Call.RECV, kind, 40)),
        fault("the reply hangs", hangs(Call.RECV, kind), ""),
        fault("the reply is interrupted (EINTR)", fails(Call.RECV, kind, errno.EINTR), ""),
    )


def packet_logs() -> tuple[Fault, ...]:
    """Return the faults of NFLOG: records are lost, and no rule is."""
    kind = Kind.NFLOG

    def fault(name: str, rule: Rule, reported: str = "") -> Fault:
        rules = (rule,)
        return Fault(name=f"NFLOG: {name}", boundary="kernel", rules=rules, reported=reported, most_calls=_PACKETS)

    return (
        fault("records are lost (ENOBUFS)", lost(kind), "verdict log"),
        fault("the socket fails (ENOMEM)", fails(Call.RECV, kind, errno.ENOMEM, most=1), "verdict log"),
        fault("records are cut short", short(Call.RECV, kind, 40), "verdict log"),
        fault("receiving hangs", hangs(Call.RECV, kind)),
        fault("receiving is interrupted (EINTR)", fails(Call.RECV, kind, errno.EINTR)),
    )


def links() -> tuple[Fault, ...]:
    """Return the faults of rtnetlink, asked for the interface of a Pod that is new."""
    kind = Kind.ROUTE

    def fault(name: str, rule: Rule, reported: str = "links") -> Fault:
        return Fault(name=f"rtnetlink: {name}", boundary="kernel", rules=(rule,), reported=reported, pods=True)

    return (
        *(fault(f"refused by {code(number)}", refused(kind, number)) for number in (errno.EBUSY, errno.ENOMEM)),
        fault("the reply is lost (ENOBUFS)", lost(kind)),
        fault("the reply hangs", hangs(Call.RECV, kind), ""),
        fault("no descriptor (EMFILE)", fails(Call.SOCKET, kind, errno.EMFILE)),
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
                f"manifest: opening fails with {code(number)}",
                fails(Call.OPEN, Kind.FILES, number, path=policy),
                "input",
            )
            for number in (errno.EIO, errno.EACCES, errno.EMFILE, errno.ENFILE)
        ),
        fault("manifest: reading fails with EIO", fails(Call.READ, Kind.FILES, errno.EIO, path=policy), "input"),
        fault("manifest: reading is interrupted (EINTR)", fails(Call.READ, Kind.FILES, errno.EINTR, path=policy), ""),
        fault("manifest: short reads of 7 bytes", short(Call.READ, Kind.FILES, 7, path=policy), ""),
        fault("manifest: reading hangs", hangs(Call.READ, Kind.FILES, path=policy), ""),
        fault(
            "manifests: listing the folder fails with EIO",
            fails(Call.SCAN, Kind.FILES, errno.EIO, path=folder),
            "input",
            "reload",
        ),
        *(
            fault(
                f"state: writing fails with {code(number)}",
                fails(Call.WRITE, Kind.FILES, number, path=kept),
                "last good objects",
            )
            for number in (errno.ENOSPC, errno.EIO)
        ),
        fault("state: short writes of 9 bytes", short(Call.WRITE, Kind.FILES, 9, path=kept), ""),
        fault("state: writing is interrupted (EINTR)", fails(Call.WRITE, Kind.FILES, errno.EINTR, path=kept), ""),
        fault("state: writing hangs", hangs(Call.WRITE, Kind.FILES, path=kept), ""),
        *(
            fault(
                f"verdict log: writing fails with {code(number)}",
                fails(Call.WRITE, Kind.FILES, number, path=log),
                "verdict log",
            )
            for number in (errno.ENOSPC, errno.EIO, errno.EROFS)
        ),
        fault("verdict log: short writes of 9 bytes", short(Call.WRITE, Kind.FILES, 9, path=log), ""),
        fault("verdict log: writing is interrupted (EINTR)", fails(Call.WRITE, Kind.FILES, errno.EINTR, path=log), ""),
        fault("verdict log: writing hangs", hangs(Call.WRITE, Kind.FILES, path=log), ""),
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
            fails(Call.ACCEPT, Kind.UNIX, errno.EMFILE, path=str(own)),
            unanswered=True,
        ),
        fault(
            "own socket: accepting fails with ECONNABORTED",
            fails(Call.ACCEPT, Kind.UNIX, errno.ECONNABORTED, path=str(own), most=5),
        ),
        fault("own socket: replies fail with EPIPE", fails(Call.SEND, Kind.UNIX, errno.EPIPE, path=str(own))),
        fault("own socket: replies in pieces of 100 bytes", short(Call.SEND, Kind.UNIX, 100, path=str(own))),
        fault(
            "sd_notify: sending fails with ECONNREFUSED",
            fails(Call.SEND, Kind.UNIX, errno.ECONNREFUSED, path=str(systemd)),
            "reload",
        ),
        fault(
            "sd_notify: sending fails with EAGAIN",
            fails(Call.SEND, Kind.UNIX, errno.EAGAIN, path=str(systemd)),
            "reload",
        ),
    )


def threads() -> tuple[Fault, ...]:
    """Return a node on which no thread more can be started: its manifests are read by one."""
    rules = (fails(Call.THREAD, Kind.OTHER, errno.EAGAIN),)
    name = "threads: none can be started (EAGAIN)"
    return (Fault(name=name, boundary="process", rules=rules, trigger="reload", reported="input"),)


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


def faults_of(
    manifests: Path, state_dir: Path, log_dir: Path, own: Path, systemd: Path, *, backend: BackendName = "nftables"
) -> tuple[Fault, ...]:
    """Return all faults of an agent with these paths."""
    rules = (
        (*commits(), *listings(), *notifications(), *counters())
        if backend == "nftables"
        else (*set_changes(), *program_runs(), *set_listings(), *looks())
    )
    others = (*connections(), *packet_logs(), *links())
    return (*rules, *others, *files(manifests, state_dir, log_dir), *sockets(own, systemd), *threads(), *clocks())
