"""The check of other programs' nat rules, for `nfagent check`."""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.cli.check_result import Check
from nfagent.errors import HostError, KernelError
from nfagent.kernel.foreign_nat import read_foreign_nat
from nfagent.kernel.nft_client import NftClient
from nfagent.nftables.foreign_nat import find_conflicts, translated_traffic

_NAME = "others' NAT"


def nat_checks(*, root: bool) -> Iterator[Check]:
    """Check that no other program's rule translates Pods' traffic otherwise than the table of nfagent says."""
    if not root:
        yield Check(_NAME, "warn", "not tried: needs root")
        return
    try:
        yield from _conflicts()
    except (KernelError, HostError) as error:
        yield Check(_NAME, "warn", error.reason, error.hint)


def _conflicts() -> Iterator[Check]:
    kernel = NftClient()
    try:
        traffic = translated_traffic(kernel.read_now())
    finally:
        kernel.close()
    if traffic is None:
        yield Check(_NAME, "ok", "unknown until an agent that masquerades has written its rules")
        return
    read = read_foreign_nat()
    found = find_conflicts(read.tables, traffic)
    for item in found:
        yield Check(_NAME, "warn", str(item), item.fix)
    for problem in read.problems:
        yield Check(_NAME, "warn", problem)
    if not found and not read.problems:
        yield Check(_NAME, "ok", "no rule of another program translates Pods' traffic otherwise")
