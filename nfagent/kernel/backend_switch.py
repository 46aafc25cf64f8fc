"""Removes the rules that nfagent wrote by another backend, or by the other variant of iptables.

To be called when the rules of this backend are in force: then no packet passes unfiltered in between.
"""

from __future__ import annotations

from contextlib import closing

import msgspec

from nfagent.errors import HostError, KernelError
from nfagent.kernel.backend_choice import BackendChoice, has_nf_tables
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.iptables_save import INSTALL
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.nft_socket import NftSocket
from nfagent.kernel.table_queries import list_chains, own_table
from nfagent.kernel.xt_listing import XtKernel, XtReader
from nfagent.kernel.xt_programs import Variant, programs_of
from nfagent.kernel.xt_tables import may_have_chains
from nfagent.kernel.xt_writer import XtWriter
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.netlink.nft_messages import FAMILY_NUMBERS
from nfagent.nftables.transaction import AddTable, Delete
from nfagent.xtables.listing import listed
from nfagent.xtables.names import PREFIX
from nfagent.xtables.objects import EMPTY, TABLES, TableName
from nfagent.xtables.saved import is_ours

_VARIANTS: tuple[Variant, Variant] = ("nft", "legacy")
_IP_FAMILIES = (FAMILY_NUMBERS["ip"], FAMILY_NUMBERS["ip6"])


class RemovedRules(msgspec.Struct, frozen=True):
    """What was removed of iptables; left: sets that rules of other programs refer to."""

    chains: int = 0
    rules: int = 0
    sets: int = 0
    left: tuple[str, ...] = ()


def remove_others_rules(choice: BackendChoice) -> tuple[str, ...]:
    """Remove what other backends and variants left; return what that was, in words. Raises KernelError, HostError."""
    if choice.programs is None:
        removed = remove_xt_rules()
        return (f"{removed.chains} chains and {removed.sets} sets of iptables",) if removed.chains else ()
    found: list[str] = []
    if has_nf_tables() and own_table() is not None:
        with closing(NftSocket()) as socket:
            socket.commit((AddTable(), Delete("table")))
        found.append("table inet nfagent of nftables")
    removed = remove_xt_rules(keep=choice.programs.variant)
    if removed.chains:
        found.append(f"{removed.chains} chains of the other variant of iptables")
    return tuple(found)


def remove_xt_rules(keep: Variant | None = None) -> RemovedRules:
    """Remove our chains of each variant, and our sets; keep: a variant that stays, with the sets.

    Raises KernelError, HostError.
    """
    try:
        sets = IpSetSocket()
    except HostError:
        return RemovedRules()  # a kernel without nfnetlink
    with closing(sets), closing(NfacctSocket()) as accounts:
        try:
            sets.names()
        except HostError:
            return RemovedRules()  # a kernel without ipset
        return _removed(sets, accounts, keep)


def xt_rules_hold() -> bool:
    """Return whether packets come to rules of ours in iptables, of any variant. Raises KernelError, HostError."""
    with closing(IpSetSocket()) as sets:
        try:
            names = sets.names()
        except HostError:
            return False  # a kernel without ipset
        if not any(map(is_ours, names)):
            return False  # no rules of ours are without sets; no program is run that may not be allowed
        for variant in filter(_may_have_chains, _VARIANTS):
            programs = programs_of(variant)
            if XtReader(XtKernel(programs, tuple(programs.families), sets, None)).read_tables().ruleset.hooks:
                return True
    return False


def _may_have_chains(variant: Variant) -> bool:
    """Return whether tables of a variant may have chains of ours, without running its programs.

    Another program may have destroyed our sets, so that these tell nothing. The programs refuse to print a table that
    has a rule of nft's own, so the kernel is asked for the chains' names where it has them.
    """
    if variant == "legacy":
        return any(_may_have_legacy_chains(family, table) for family in FAMILIES for table in TABLES)
    return has_nf_tables() and any(
        chain.family in _IP_FAMILIES and chain.table in TABLES and is_ours(chain.name) for chain in list_chains()
    )


def _may_have_legacy_chains(family: Family, table: TableName) -> bool:
    try:
        return may_have_chains(family, table, PREFIX)
    except KernelError:
        return True  # the program says why it can't be read


def _unremovable(variant: Variant) -> KernelError | None:
    """Return the error for chains of ours that no installed program can remove; None where it isn't known of any."""
    known = variant == "nft" or any(_has_legacy_chains(family, table) for family in FAMILIES for table in TABLES)
    if not known:
        return None
    said = f"chains of ours hold in iptables-{variant}, and iptables-{variant}-restore is missing"
    return KernelError(said, hint=INSTALL)


def _has_legacy_chains(family: Family, table: TableName) -> bool:
    try:
        return may_have_chains(family, table, PREFIX)
    except KernelError:
        return False


def _removed(sets: IpSetSocket, accounts: NfacctSocket, keep: Variant | None) -> RemovedRules:
    chains = rules = count = 0
    left_over: KernelError | None = None
    left: tuple[str, ...] = ()
    for variant in _VARIANTS:
        if variant == keep or not _may_have_chains(variant):
            continue
        programs = programs_of(variant)
        if not programs.families:
            left_over = left_over or _unremovable(variant)
            continue
        kernel = XtKernel(programs, tuple(programs.families), sets, None)
        found = XtReader(kernel).read_tables()
        chains += len(found.ruleset.chains)
        rules += sum(len(chain.rules) for chain in found.ruleset.chains.values())
        XtWriter(kernel).write(found, EMPTY)
    if left_over is not None:
        raise left_over
    if keep is None:
        kernel = XtKernel(programs_of("legacy"), (), sets, accounts)
        try:
            names = [found.name for found in accounts.read() if is_ours(found.name)]
        except HostError:
            names = []  # a kernel without nfnetlink_acct
        found = listed((), XtReader(kernel).read_sets(), names)
        writer = XtWriter(kernel)
        writer.write(found, EMPTY)
        count, left = len(found.ruleset.sets), writer.left
    return RemovedRules(chains, rules, count, left)
