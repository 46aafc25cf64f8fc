"""Reads the packet counters of iptables and ipset: named ones are objects of nfacct, those of Pods members of sets.

An nfacct object has a digest in place of a long name, and one for each family; their sum is the counter's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from nfagent.errors import HostError
from nfagent.kernel.packet_counters import CounterReading, CounterSource
from nfagent.kernel.xt_listing import XtKernel
from nfagent.netlink.nfacct import Account
from nfagent.nftables.parse import CounterValue
from nfagent.nftables.pod_counts import COUNTED_SETS
from nfagent.xtables.counters import counters_by_account, counting_set

_NO_NAMED = "the kernel has no named counters for iptables (nfnetlink_acct)"
_LOAD = "modprobe nfnetlink_acct xt_nfacct, or run a kernel with CONFIG_NETFILTER_XT_MATCH_NFACCT; then restart nfagent"


class XtCounters:
    """The counters of one kernel. Any thread may read them."""

    def __init__(self, kernel: XtKernel, names: Callable[[], Collection[str]], prepare: Callable[[], None]) -> None:
        """Store the kernel.

        names:   returns the names of all counters that the kernel may have, in any thread
        prepare: called on the event loop before a reading
        """
        self._kernel = kernel
        self._names = names
        self._prepare = prepare

    @property
    def source(self) -> CounterSource:
        """What totals are made of."""
        return CounterSource(self.read, self.elements, self._prepare)

    def read(self) -> CounterReading:
        """Return the packets of all counters; of Pods alone where the kernel has no nfacct."""
        packets = {name: value.packets for name, value in self._named().items()}
        for name in sorted(COUNTED_SETS):
            found = self._kernel.sets.packets(counting_set(name))
            packets |= {f"{name} {address}": count for address, count in found.items()}
        return CounterReading(packets)

    def elements(self, elements: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Return the packets of elements, by set and canonical address; of those that exist.

        A set is read as a whole: ipset has no request for one member.
        """
        wanted: defaultdict[str, set[str]] = defaultdict(set)
        for name, address in elements:
            wanted[name].add(address)
        return {
            (name, address): packets
            for name, addresses in wanted.items()
            for address, packets in self._kernel.sets.packets(counting_set(name)).items()
            if address in addresses
        }

    def values(self) -> dict[str, CounterValue]:
        """Return packets and bytes of named counters. Raises KernelError; HostError where the kernel has none."""
        if self._kernel.accounts is None:
            raise HostError(_NO_NAMED, hint=_LOAD)
        return self._named()

    def _named(self) -> dict[str, CounterValue]:
        accounts = () if self._kernel.accounts is None else self._kernel.accounts.read()
        counters = counters_by_account(self._names())
        found: defaultdict[str, list[Account]] = defaultdict(list)
        for account in accounts:
            if account.name in counters:
                found[counters[account.name]].append(account)
        return {
            name: CounterValue(sum(each.packets for each in both), sum(each.bytes for each in both))
            for name, both in found.items()
        }
