"""The matches and targets of iptables that nfagent's rules use, and what goes without each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.kernel.xt_errors import RestoreRefusedError
from nfagent.kernel.xt_programs import XtPrograms
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.xtables.names import TEMPORARY_PREFIX
from nfagent.xtables.objects import TableName
from nfagent.xtables.rules import RANDOM_FULLY, SET_TARGET

PROBE = f"{TEMPORARY_PREFIX}probe"
"""Name of the chain, and of the set and the counter, that rules are tried with."""


class Extension(msgspec.Struct, frozen=True):
    """A match or target.

    rule:   one that needs it
    loss:   what goes without it; '' where nothing of the family works then
    module: that has it
    """

    name: str
    rule: str
    loss: str = ""
    module: str = ""
    table: TableName = "mangle"
    families: tuple[Family, ...] = FAMILIES

    def hint(self, family: Family) -> str:
        """Return the command that loads it."""
        module = self.module or f"xt_{self.name}"
        return f"modprobe {module.format(prefix='ip6t' if family == 6 else 'ipt')}"


EXTENSIONS = (
    Extension("conntrack", "-m conntrack --ctstate NEW --ctdir ORIGINAL -j RETURN"),
    Extension("mark", "-m mark --mark 0x1/0x1 -j RETURN"),
    Extension("MARK", "-j MARK --set-xmark 0x0/0x1", module="xt_mark"),
    Extension("addrtype", "-m addrtype --src-type LOCAL -j RETURN"),
    Extension("comment", "-m comment --comment x -j RETURN"),
    Extension("set", f"-m set --match-set {PROBE} dst -j RETURN"),
    Extension("tcp", "-p tcp -m tcp --dport 1 -j RETURN", module="xt_tcpudp"),
    Extension("icmp6", "-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN", module="ip6_tables", families=(6,)),
    Extension("sctp", "-p sctp -m sctp --dport 1 -j RETURN", "SCTP is denied where a policy names its ports"),
    Extension("NFLOG", "-j NFLOG --nflog-group 100", "no verdict is logged"),
    Extension(
        "rpfilter",
        "-m rpfilter --invert -j RETURN",
        "of packets with a source that isn't their Pod's, only those with the node's own are dropped",
        module="{prefix}_rpfilter",
    ),
    Extension(
        "pkttype",
        "-m pkttype --pkt-type multicast -j RETURN",
        "packets for one host in frames for many are not dropped",
    ),
    Extension(
        SET_TARGET,
        f"-j SET --add-set {PROBE} dst --exist",
        "tuples of ended connections are forgotten sooner",
        module="xt_set",
    ),
    Extension("hl", "-m hl --hl-eq 255 -j RETURN", "isolated Pods have no neighbour discovery", families=(6,)),
    Extension(
        "length", "-m length --length 0:100 -j RETURN", "isolated Pods have no neighbour discovery", families=(6,)
    ),
    Extension(
        "ipv6header",
        "-m ipv6header --header ipv6-frag --soft -j RETURN",
        "untracked packets are dropped, where a policy denies ports",
        module="ip6t_ipv6header",
        families=(6,),
    ),
    Extension("MASQUERADE", "-j MASQUERADE", "nothing is masqueraded", table="nat"),
    Extension(
        "SNAT", "-j SNAT --to-source {address}", "nothing has a fixed address outside", module="xt_nat", table="nat"
    ),
    Extension(
        RANDOM_FULLY,
        "-j MASQUERADE --random-fully",
        "ports of masqueraded connections are less random",
        module="xt_MASQUERADE",
        table="nat",
    ),
    Extension(
        "statistic",
        "-m statistic --mode random --probability 0.5 -j RETURN",
        "of several port ranges of masquerading the last one is used",
        table="nat",
    ),
)
_ADDRESSES: dict[Family, str] = {4: "192.0.2.1", 6: "2001:db8::1"}


def lacking(
    programs: XtPrograms, family: Family, tables: Iterable[TableName]
) -> Iterator[tuple[Extension, RestoreRefusedError]]:
    """Yield the extensions that a family lacks, with their refusals. Raises HostError, KernelError.

    tables: those that the kernel has
    """
    for table in tables:
        tried = [item for item in EXTENSIONS if item.table == table and family in item.families]
        if tried and refusal(programs, family, table, tried) is None:
            continue
        for item in tried:
            error = refusal(programs, family, table, [item])
            if error is not None:
                yield item, error


def refusal(
    programs: XtPrograms, family: Family, table: TableName, tried: Iterable[Extension]
) -> RestoreRefusedError | None:
    """Put rules into a chain that nothing leads to, and delete all; return why that is refused."""
    rules = "".join(f"-A {PROBE} {item.rule.format(address=_ADDRESSES[family])}\n" for item in tried)
    try:
        programs.restore(family, f"*{table}\n:{PROBE} - [0:0]\n{rules}COMMIT\n")
        programs.restore(family, f"*{table}\n:{PROBE} - [0:0]\n-X {PROBE}\nCOMMIT\n")
    except RestoreRefusedError as error:
        return error
    return None
