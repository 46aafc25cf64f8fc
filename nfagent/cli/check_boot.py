"""Checks of what holds when this node boots: the early unit, and the saved ruleset that it restores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from nfagent.checkpoint.ruleset_checks import age, clock_warning, refusal
from nfagent.checkpoint.ruleset_file import StoredRuleset, read_saved, ruleset_path
from nfagent.cli.check_result import Check
from nfagent.config import Settings
from nfagent.errors import DecodeError, HostError
from nfagent.model.plurals import counted

EARLY_UNIT = "nfagent-early.service"
_ENABLE = f"systemctl enable {EARLY_UNIT}"
_SYSTEMD = Path("/run/systemd/system")
_UNITS = tuple(map(Path, ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")))


def boot_checks(settings: Settings) -> Iterator[Check]:
    """Yield what Pods can do from a boot until the agent has read the cluster. Blocks as long as the disk does."""
    yield _early_unit(settings)
    yield _saved(settings)


def _early_unit(settings: Settings) -> Check:
    name = "early unit"
    if not _SYSTEMD.is_dir():
        return Check(name, "ok", "not used: systemd doesn't run here")
    if not any((folder / EARLY_UNIT).exists() for folder in _UNITS):
        return Check(name, "warn", f"there is no {EARLY_UNIT}: {_open(settings)}", "install it as docs/boot.md says")
    if not any(each for folder in _UNITS for each in folder.glob(f"*.wants/{EARLY_UNIT}")):
        return Check(name, "warn", f"{EARLY_UNIT} is not enabled: {_open(settings)}", _ENABLE)
    return Check(name, "ok", f"{EARLY_UNIT} is enabled")


def _open(settings: Settings) -> str:
    return (
        f"after a boot Pods are open until the cluster is read; kubelet waits {settings.boot.wait_seconds:.0f} s for it"
    )


def _saved(settings: Settings) -> Check:
    name, path = "saved ruleset", ruleset_path(settings.state_dir)
    if not settings.boot.save_ruleset:
        return Check(name, "warn", "boot.save_ruleset is false: a boot restores none", "set it to true")
    try:
        stored = read_saved(path)
    except (HostError, DecodeError) as error:
        return Check(name, "warn", error.reason, "the running agent writes it again after its next commit")
    if stored is None:
        return Check(name, "warn", f"none in {settings.state_dir} yet", "start the agent: it saves its ruleset")
    return _stored(name, settings, stored, time.time())


def _stored(name: str, settings: Settings, stored: StoredRuleset, now: float) -> Check:
    header = stored.ruleset.header
    reason = refusal(header, settings.node_name, stored.in_force, now, settings.boot.max_age_seconds)
    if reason:
        return Check(name, "warn", f"a boot doesn't restore it: {reason}", "start the agent: it saves its ruleset")
    warning = clock_warning(stored.in_force, now)
    if warning:
        return Check(name, "warn", warning, "set the clock")
    if settings.policy.holds_unknown and not header.pod_ranges:
        found = 'unknown_pods = "held" holds no Pod: this node\'s Node has no podCIDRs'
        return Check(name, "warn", found, "see docs/boot.md for network plugins that don't use podCIDRs")
    size = sum(map(len, stored.ruleset.batches))
    held = ", unknown Pods held" if header.holds_unknown else ""
    return Check(name, "ok", f"in force {age(now - stored.in_force)} ago, {counted(size, 'byte')}{held}")
