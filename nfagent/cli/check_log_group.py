"""The check whether other programs log to the NFLOG group of the verdict log, for `nfagent check`."""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.cli.check_result import Check
from nfagent.config import Settings
from nfagent.errors import HostError, KernelError
from nfagent.kernel.foreign_logs import read_log_uses
from nfagent.model.plurals import counted
from nfagent.nftables.foreign_logs import GROUP_HINT

_NAME = "NFLOG group"
_SHOWN = 5


def log_group_checks(settings: Settings, *, root: bool) -> Iterator[Check]:
    """Check that no rule of another program logs to the group."""
    if not root:
        yield Check(_NAME, "warn", "not tried: needs root")
        return
    group = settings.logging.group
    try:
        found = read_log_uses(group)
    except (KernelError, HostError) as error:
        yield Check(_NAME, "warn", error.reason, error.hint)
        return
    if not found:
        yield Check(_NAME, "ok", f"no other program logs to group {group}")
    for use in found[:_SHOWN]:
        yield Check(_NAME, "warn", f"{use} logs to group {group} too", GROUP_HINT)
    if len(found) > _SHOWN:
        more = counted(len(found) - _SHOWN, "more rule")
        yield Check(_NAME, "warn", f"{more} of other programs log to group {group}", GROUP_HINT)
