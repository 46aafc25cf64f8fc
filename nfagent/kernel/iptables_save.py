"""Runs the programs that print iptables' rules: iptables-save and its kin. Blocking, for some tenths of a second."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from nfagent.errors import KernelError

_SECONDS = 10
_RIGHT = (
    "it opens a raw socket: run `systemctl edit nfagent`, and add to [Service] CapabilityBoundingSet=CAP_NET_RAW; to a "
    "DaemonSet's container, give the capability NET_RAW"
)
INSTALL = "apt-get install iptables"
_LEGACY_TABLES = {
    "iptables-legacy": Path("/proc/self/net/ip_tables_names"),
    "ip6tables-legacy": Path("/proc/self/net/ip6_tables_names"),
}
"""Where the kernel names the tables of a program: without any of them it has no rules, whatever the program says."""


def run_save(program: str, what: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return what a program, by its path, printed. Only tables that exist are printed: no module is loaded.

    what: whose rules they are, for the error. Raises KernelError where it can't be run, or doesn't end.
    """
    try:
        return subprocess.run(  # noqa: S603 - found in PATH, no user input
            [program, *arguments], capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"{what} can't be read: {error}") from None


def saved_rules(name: str) -> str:
    """Return what NAME-save prints, such as of `iptables-legacy`; '' where there are no rules that it prints.

    Raises KernelError where there are, or may be, and they can't be read: iptables-legacy-save fails without
    CAP_NET_RAW, as in a container, and may be missing where a container with it has loaded the rules.
    """
    program = shutil.which(f"{name}-save")
    if program is None:
        if name in _LEGACY_TABLES and legacy_tables(name) != frozenset():
            raise KernelError(f"the rules of {name} can't be read: {name}-save is missing", hint=INSTALL)
        return ""
    done = run_save(program, f"the rules of {name}")
    if done.returncode == 0:
        return done.stdout
    if name in _LEGACY_TABLES and legacy_tables(name) == frozenset():
        return ""
    raise unreadable(done, f"the rules of {name}")


def unreadable(done: subprocess.CompletedProcess[str], what: str) -> KernelError:
    """Return the error of a program that failed, with what to do where it lacks the right to a raw socket."""
    lacks_right = "Permission denied" in done.stderr and "legacy" in done.args[0]
    return KernelError(f"{what} can't be read: {done.stderr.strip()[:200]}", hint=_RIGHT if lacks_right else "")


def unknown_tables(name: str) -> KernelError:
    """Return the error of a program whose tables the kernel doesn't name: it may have rules."""
    return KernelError(f"the tables of {name} can't be read: {_LEGACY_TABLES[name]} is not readable here")


def legacy_tables(name: str) -> frozenset[str] | None:
    """Return the tables that the kernel has of `iptables-legacy` or `ip6tables-legacy`; None where it doesn't say."""
    try:
        return frozenset(_LEGACY_TABLES[name].read_text("ascii").split())
    except FileNotFoundError:
        # The module isn't loaded; where there is no folder either, nothing is known.
        return frozenset() if _LEGACY_TABLES[name].parent.is_dir() else None
    except OSError:
        return None
