"""The checks of the ip-masq-agent file and of other programs' nat rules, for `nfagent check`."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from nfagent.cli.check_result import Check
from nfagent.config import Settings
from nfagent.errors import HostError, KernelError
from nfagent.kernel.foreign_nat import read_foreign_nat
from nfagent.kernel.nft_client import NftClient
from nfagent.manifests.ip_masq_reader import read_ip_masq_file
from nfagent.model.ip_masq import INVERSE_KEY, LIST_KEY
from nfagent.model.plurals import counted
from nfagent.nftables.foreign_nat import find_conflicts, translated_traffic

_FILE = "ip-masq file"
_NAME = "others' NAT"


def ip_masq_check(settings: Settings) -> Check:
    """Check that the whole ip-masq-agent file of this node can be read, where there is one."""
    path = settings.masquerade.config_file
    if not settings.masquerade.enabled or not path:
        return Check(_FILE, "ok", "not read: masquerade is off, or masquerade.config_file is empty")
    config, problems = read_ip_masq_file(path)
    if problems:
        wrong = "; ".join(str(msgspec.structs.replace(problem, place="", object="")) for problem in problems)
        return Check(_FILE, "warn", f"{path}: {wrong}", f"edit {path}")
    if config is None:
        return Check(_FILE, "ok", f"there is no {path}")
    lists = ((config.cidrs, LIST_KEY), (config.translated, INVERSE_KEY))
    found = [f"{key} has {counted(len(cidrs), 'CIDR')}" for cidrs, key in lists if cidrs is not None]
    return Check(_FILE, "ok", f"{path}: {', '.join(found) or 'no list'}; a ConfigMap has precedence")


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
