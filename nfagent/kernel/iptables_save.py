"""Runs the programs that print iptables' rules: iptables-save and its kin. Blocking, for some tenths of a second."""

from __future__ import annotations

import subprocess

from nfagent.errors import KernelError

_SECONDS = 10
_RIGHT = "it opens a raw socket: run `systemctl edit nfagent`, and add to [Service] CapabilityBoundingSet=CAP_NET_RAW"


def run_save(program: str, what: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return what a program, by its path, printed. Only tables that exist are printed: no module is loaded.

    what: whose rules they are, for the error. Raises KernelError where it can't be run, doesn't end or lacks a right.
    """
    try:
        done = subprocess.run(  # noqa: S603 - found in PATH, no user input
            [program, *arguments], capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"{what} can't be read: {error}") from None
    if done.returncode != 0 and "Permission denied" in done.stderr:
        raise KernelError(
            f"{what} can't be read: {done.stderr.strip()[:200]}", hint=_RIGHT if "legacy" in program else ""
        )
    return done
