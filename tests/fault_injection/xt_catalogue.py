"""The faults of writing and reading rules in iptables and ipset: netlink requests about sets, and runs of programs."""

from __future__ import annotations

import errno

from tests.fault_injection.fault import Fault, Trigger
from tests.fault_injection.fault_table import Action, Call, Kind, Rule
from tests.fault_injection.rule_forms import code, fails, few, hangs, lost, refused, short
from tests.fault_injection.xt_programs import ProgramFault


def set_changes() -> tuple[Fault, ...]:
    """Return the faults of changing sets."""
    kind = Kind.IPSET
    refusals = (errno.EBUSY, errno.ENOENT, errno.EEXIST, errno.ENOMEM, errno.EPERM, errno.ENOSPC, errno.EINTR)
    sending = (errno.ENOBUFS, errno.ENOMEM, errno.EPERM)

    def fault(name: str, rule: Rule, reported: str = "ruleset") -> Fault:
        return Fault(name=f"set change: {name}", boundary="kernel", rules=(rule,), reported=reported)

    return (
        *(fault(f"refused by {code(number)}", refused(kind, number)) for number in refusals),
        *(fault(f"sending fails with {code(number)}", fails(Call.SEND, kind, number)) for number in sending),
        fault("sending is interrupted (EINTR)", fails(Call.SEND, kind, errno.EINTR), ""),
        fault("sending hangs", hangs(Call.SEND, kind), ""),
        fault("the reply is lost (ENOBUFS)", lost(kind)),
        fault("the reply is cut short", short(Call.RECV, kind, 20)),
        fault("the reply is interrupted (EINTR)", fails(Call.RECV, kind, errno.EINTR), ""),
    )


def program_runs() -> tuple[Fault, ...]:
    """Return the faults of iptables-restore and of iptables-save, which a reload runs before the next change."""

    def writing(name: str, program: ProgramFault, reported: str = "ruleset") -> Fault:
        return Fault(name=f"iptables-restore: {name}", boundary="programs", program=program, reported=reported)

    def reading(name: str, program: ProgramFault, reported: str = "ruleset") -> Fault:
        return Fault(
            name=f"iptables-save: {name}", boundary="programs", program=program, reported=reported, trigger="reload"
        )

    no_pipe = Rule(calls=Call.PIPE, kinds=Kind.OTHER, action=Action.FAIL, error=errno.EMFILE)
    return (
        writing("refuses", ProgramFault("restore", "refuse")),
        writing("is killed", ProgramFault("restore", "die")),
        writing("hangs", ProgramFault("restore", "hang"), ""),
        # What one run has changed is found by the next try: the problem can be over before metrics and STATUS have it.
        writing("changes, and fails", ProgramFault("restore", "late"), ""),
        writing("finds the lock held", ProgramFault("restore", "locked")),
        Fault(
            name="iptables-restore: no descriptor for a pipe (EMFILE)",
            boundary="programs",
            rules=(no_pipe,),
            reported="ruleset",
        ),
        reading("fails", ProgramFault("save", "refuse")),
        reading("is killed", ProgramFault("save", "die")),
        reading("hangs", ProgramFault("save", "hang"), ""),
        reading("prints a part", ProgramFault("save", "cut"), ""),
    )


def set_listings() -> tuple[Fault, ...]:
    """Return the faults of reading sets, which a reload does before the next change."""
    kind = Kind.IPSET_LIST

    def fault(name: str, rule: Rule, reported: str = "ruleset") -> Fault:
        # What is left of a listing is received, too, before the next request.
        most_calls = 500.0 if rule.calls == Call.RECV else 50.0
        return Fault(
            name=f"set listing: {name}",
            boundary="kernel",
            rules=(rule,),
            trigger="reload",
            reported=reported,
            most_calls=most_calls,
        )

    return (
        *(
            fault(f"refused by {code(number)}", refused(kind, number))
            for number in (errno.EBUSY, errno.ENOMEM, errno.EPERM)
        ),
        fault("refused by EINTR five times", few(refused(kind, errno.EINTR)), ""),
        fault("sending fails with ENOBUFS", fails(Call.SEND, kind, errno.ENOBUFS)),
        fault("the reply is lost (ENOBUFS)", lost(kind)),
        fault("the reply is cut short", short(Call.RECV, kind, 24)),
        fault("the reply hangs", hangs(Call.RECV, kind), ""),
    )


def looks() -> tuple[Fault, ...]:
    """Return the faults of looking for changes by other programs, while one changes our part of iptables."""

    def fault(name: str, rule: Rule, trigger: Trigger = "drift", reported: str = "notifications") -> Fault:
        return Fault(name=f"look: {name}", boundary="kernel", rules=(rule,), trigger=trigger, reported=reported)

    return (
        fault("sets can't be listed (ENOMEM)", fails(Call.SEND, Kind.IPSET_LIST, errno.ENOMEM)),
        fault("the reply is lost (ENOBUFS)", lost(Kind.IPSET_LIST), "drift", "ruleset"),
        fault("no descriptor to read a table (EMFILE)", fails(Call.SOCKET, Kind.INET, errno.EMFILE)),
        fault("receiving hangs", hangs(Call.RECV, Kind.IPSET_LIST), "drift", ""),
    )
