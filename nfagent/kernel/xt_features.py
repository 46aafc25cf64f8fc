"""Tries what nfagent needs of iptables and ipset in this kernel, by rules in a chain that nothing leads to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import product

import msgspec

from nfagent.errors import HostError, KernelError
from nfagent.kernel.ipset_refusals import SetRefusedError
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.xt_errors import RestoreRefusedError
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_programs import XtPrograms
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.xtables.names import TEMPORARY_PREFIX
from nfagent.xtables.objects import IpSet, SetType, TableName

_CHAIN = f"{TEMPORARY_PREFIX}probe"
_SET_TYPES: tuple[SetType, ...] = (
    "hash:ip",
    "hash:net",
    "hash:ip,port",
    "hash:ip,port,ip",
    "hash:net,iface",
    "bitmap:port",
)
_NEEDED = {
    "conntrack": "-m conntrack --ctstate NEW -j RETURN",
    "mark": "-m mark --mark 0x1/0x1 -j MARK --set-xmark 0x0/0x1",
    "addrtype": "-m addrtype --src-type LOCAL -j RETURN",
    "comment": "-m comment --comment x -j RETURN",
    "set": f"-m set --match-set {_CHAIN} src -j RETURN",
}
_LOSSES: dict[TableName, str] = {
    "nat": "nothing is masqueraded or translated",
    "raw": "packets for one host in frames for many are not dropped",
}
"""What goes without a table; without mangle nothing of the family is there."""
_NFLOG = "-j NFLOG --nflog-group 100"
_ACCOUNT = f"-m nfacct --nfacct-name {_CHAIN}"


class XtFeatures(msgspec.Struct, frozen=True):
    """What the kernel has.

    logs:     target NFLOG
    accounts: match nfacct, with its counters
    absent:   tables that it lacks, of these families
    problems: what is missing, each with what goes without and the command that fixes it
    """

    families: tuple[Family, ...]
    logs: bool
    accounts: bool
    absent: frozenset[tuple[Family, TableName]]
    problems: tuple[str, ...]


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
        sets.create(_CHAIN, IpSet("hash:ip", 4))
        try:
            features = _tried(programs, accounts)
        finally:
            with suppress(SetRefusedError):  # another nfagent tries it at this moment
                sets.destroy(_CHAIN)
    except BaseException:
        sets.close()
        if accounts is not None:
            accounts.close()
        raise
    if not features.accounts:
        accounts.close()
        accounts = None
    return XtKernel(programs, features.families, sets, accounts, features.absent), features


def _require_type(sets: IpSetSocket, kind: SetType) -> None:
    try:
        sets.supported(kind, 4)
    except SetRefusedError as error:
        raise HostError(f"this kernel lacks the ipset type {kind}", hint=error.hint) from None


def _tried(programs: XtPrograms, accounts: NfacctSocket) -> XtFeatures:
    problems: list[str] = []
    families: list[Family] = []
    for family in FAMILIES:
        try:
            programs.restore(family, "*mangle\nCOMMIT\n")
            families.append(family)
        except (HostError, RestoreRefusedError) as error:
            if family == 4:
                raise
            problems.append(f"IPv6 isn't filtered, masqueraded or logged: {error}")
    absent = dict(_absent_tables(programs, families))
    problems += [f"IPv{family}: {_LOSSES[table]}: {error}" for (family, table), error in absent.items()]
    for name, rule in _NEEDED.items():
        try:
            _try_rule(programs, rule)
        except RestoreRefusedError as error:
            raise HostError(
                f"the match {name} is needed: {error.reason}", hint=error.hint or f"modprobe xt_{name}"
            ) from None
    logs = _is_taken(programs, _NFLOG)
    if not logs:
        problems.append("no verdict is logged: this kernel lacks the target NFLOG; modprobe xt_NFLOG")
    counts = _counts(programs, accounts)
    if not counts:
        problems.append("packets aren't counted by policy: this kernel lacks the match nfacct; modprobe xt_nfacct")
    return XtFeatures(tuple(families), logs, counts, frozenset(absent), tuple(problems))


def _counts(programs: XtPrograms, accounts: NfacctSocket) -> bool:
    """Return whether rules count by nfacct. Raises what tells nothing of it: LockHeldError, HostError."""
    try:
        accounts.create(_CHAIN)
    except (KernelError, HostError):
        return False
    try:
        return _is_taken(programs, _ACCOUNT)
    finally:
        with suppress(KernelError, HostError):
            accounts.delete(_CHAIN)


def _absent_tables(
    programs: XtPrograms, families: Iterable[Family]
) -> Iterator[tuple[tuple[Family, TableName], HostError | KernelError]]:
    for family, table in product(families, _LOSSES):
        try:
            programs.restore(family, f"*{table}\nCOMMIT\n")
        except (HostError, RestoreRefusedError) as error:
            yield (family, table), error


def _is_taken(programs: XtPrograms, rule: str) -> bool:
    try:
        _try_rule(programs, rule)
    except RestoreRefusedError:
        return False
    return True


def _try_rule(programs: XtPrograms, rule: str) -> None:
    """Put a rule into a chain of its own, and delete both. Raises RestoreRefusedError."""
    programs.restore(4, f"*mangle\n:{_CHAIN} - [0:0]\n-A {_CHAIN} {rule}\nCOMMIT\n")
    programs.restore(4, f"*mangle\n:{_CHAIN} - [0:0]\n-X {_CHAIN}\nCOMMIT\n")
