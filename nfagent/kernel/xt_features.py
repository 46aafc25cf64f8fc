"""Tries what nfagent needs of iptables and ipset in this kernel, by rules in a chain that nothing leads to."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import suppress

import msgspec

from nfagent.errors import HostError, KernelError
from nfagent.kernel.ipset_refusals import SetRefusedError
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.iptables_save import legacy_tables
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.xt_errors import RestoreRefusedError
from nfagent.kernel.xt_extensions import PROBE, Extension, lacking, refusal
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_programs import XtPrograms
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.xtables.objects import TABLES, IpSet, SetType, TableName
from nfagent.xtables.options import LoweringOptions

_SET_TYPES: tuple[SetType, ...] = (
    "hash:ip",
    "hash:net",
    "hash:ip,port",
    "hash:ip,port,ip",
    "hash:net,iface",
    "bitmap:port",
)
_LOSSES: dict[TableName, str] = {
    "nat": "nothing is masqueraded or translated",
    "raw": "packets for one host in frames for many are not dropped",
}
"""What goes without a table; without mangle nothing of the family is there."""
_ACCOUNT = Extension("nfacct", f"-m nfacct --nfacct-name {PROBE} -j RETURN")


class XtFeatures(msgspec.Struct, frozen=True):
    """What the kernel has.

    logs:     target NFLOG
    accounts: match nfacct, with its counters
    absent:   tables that it lacks, of these families
    lacking:  matches and targets that it lacks, of these families
    made:     tables that came to be as they were tried: iptables-legacy has none before its first rule
    problems: what is missing, each with what goes without and the command that fixes it
    """

    families: tuple[Family, ...]
    logs: bool
    accounts: bool
    absent: frozenset[tuple[Family, TableName]]
    lacking: frozenset[tuple[Family, str]]
    problems: tuple[str, ...]
    made: tuple[str, ...] = ()


def open_xt_kernel(programs: XtPrograms) -> tuple[XtKernel, XtFeatures]:
    """Open the sockets and try what the kernel has.

    Raises HostError, KernelError without what nothing works without: ipset, IPv4's tables, the conntrack match.
    """
    sets = IpSetSocket()
    accounts: NfacctSocket | None = None
    try:
        for kind in _SET_TYPES:
            _require_type(sets, kind)
        accounts = NfacctSocket()
        _create_probe(sets)
        try:
            features = _tried(programs, accounts)
        finally:
            with suppress(SetRefusedError):  # another nfagent tries it at this moment
                sets.destroy(PROBE)
    except BaseException:
        sets.close()
        if accounts is not None:
            accounts.close()
        raise
    if not features.accounts:
        accounts.close()
        accounts = None
    return XtKernel(programs, features.families, sets, accounts, features.absent), features


def _create_probe(sets: IpSetSocket) -> None:
    """Create the set that rules are tried with, in place of one of an agent that was killed as it tried."""
    with suppress(SetRefusedError):
        sets.destroy(PROBE)
    try:
        sets.create(PROBE, IpSet("bitmap:port", 4))  # of no family
    except SetRefusedError as error:
        if error.code != errno.EEXIST:  # another nfagent tries at this moment, by an equal one
            raise


def kernel_options(options: LoweringOptions, kernel: XtKernel, features: XtFeatures) -> LoweringOptions:
    """Return options of the lowering with what a kernel has and lacks."""
    return msgspec.structs.replace(
        options,
        families=kernel.families,
        absent=kernel.absent,
        accounts=options.accounts and kernel.accounts is not None,
        lacking=features.lacking,
        logs=features.logs,
    )


def _require_type(sets: IpSetSocket, kind: SetType) -> None:
    try:
        sets.supported(kind, 4)
    except SetRefusedError as error:
        raise HostError(f"this kernel lacks the ipset type {kind}", hint=error.hint) from None


def _tried(programs: XtPrograms, accounts: NfacctSocket) -> XtFeatures:
    problems: list[str] = []
    families: list[Family] = []
    absent: set[tuple[Family, TableName]] = set()
    lacks: set[tuple[Family, str]] = set()
    before = _legacy_tables(programs)
    for family in FAMILIES:
        try:
            programs.restore(family, "*mangle\nCOMMIT\n")
            gone = dict(_absent_tables(programs, family))
            lost = list(lacking(programs, family, [table for table in TABLES if table not in gone]))
            _require(lost, family)
        except (HostError, RestoreRefusedError) as error:
            if family == 4:
                raise
            problems.append(f"IPv6 isn't filtered, masqueraded or logged: {error}")
            continue
        families.append(family)
        absent |= {(family, table) for table in gone}
        lacks |= {(family, item.name) for item, _ in lost}
        problems += [f"IPv{family}: {_LOSSES[table]}: {error}" for table, error in gone.items()]
        problems += [_problem(item, family) for item, _ in lost]
    counts = _counts(programs, accounts)
    if not counts:
        problems.append("packets aren't counted by policy: this kernel lacks the match nfacct; modprobe xt_nfacct")
    return XtFeatures(
        families=tuple(families),
        logs=not any((family, "NFLOG") in lacks for family in families),
        accounts=counts,
        absent=frozenset(absent),
        lacking=frozenset(lacks),
        problems=tuple(problems),
        made=tuple(sorted(_legacy_tables(programs) - before)),
    )


def _require(lost: Iterable[tuple[Extension, RestoreRefusedError]], family: Family) -> None:
    """Raise HostError where something is missing without which nothing of the family works."""
    for item, error in lost:
        if not item.loss:
            raise HostError(f"{item.name} is needed: {error.reason}", hint=error.hint or item.hint(family))


def _problem(item: Extension, family: Family) -> str:
    return f"IPv{family}: {item.loss}: this kernel lacks {item.name}; {item.hint(family)}"


def _legacy_tables(programs: XtPrograms) -> set[str]:
    """Return the tables that are there, in words; those of nft are nothing before they have a rule."""
    if programs.variant != "legacy":
        return set()
    return {
        f"{table} of IPv{family}"
        for family in FAMILIES
        for table in legacy_tables("iptables-legacy" if family == 4 else "ip6tables-legacy") or ()
    }


def _counts(programs: XtPrograms, accounts: NfacctSocket) -> bool:
    """Return whether rules count by nfacct. Raises what tells nothing of it: LockHeldError, KernelError."""
    try:
        accounts.create(PROBE)
    except HostError:
        return False
    try:
        return refusal(programs, 4, "mangle", [_ACCOUNT]) is None
    finally:
        with suppress(KernelError, HostError):
            accounts.delete(PROBE)


def _absent_tables(programs: XtPrograms, family: Family) -> Iterator[tuple[TableName, HostError | KernelError]]:
    for table in _LOSSES:
        try:
            programs.restore(family, f"*{table}\nCOMMIT\n")
        except (HostError, RestoreRefusedError) as error:
            yield table, error
