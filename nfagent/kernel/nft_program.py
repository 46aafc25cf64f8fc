"""Runs the program `nft` for a listing, so that a rule that libnftables can't list ends that process, not the agent.

The kernel takes rules from other programs at which libnftables ends its process by assert(3): those that nft itself
never writes, of other netlink libraries, and those of a later nft. Also, the memory of a large listing is not the
agent's. Blocking; 3 ms of CPU more than a call of the library.
"""

from __future__ import annotations

import shutil
import subprocess

from nfagent.errors import KernelError
from nfagent.kernel.nft_reply import ended

SECONDS = 120.0
"""A listing starts over where another program commits meanwhile: beside one that never pauses, 17 s were measured."""

_FOLDERS = "/usr/sbin:/sbin"
"""Where it is installed; the PATH of a shell of `su`, and of cron, lacks these folders."""


def run_nft(*arguments: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[bytes] | None:
    """Return what nft printed, with its exit code; None where it can't be started: it is missing, or by a limit.

    Raises UnlistableError where it crashes; KernelError where it doesn't end, or another program ends it.
    """
    program = shutil.which("nft") or shutil.which("nft", path=_FOLDERS)
    if program is None:
        return None
    command = " ".join(("nft", *arguments))
    try:
        # In a process group of its own: Ctrl-C on a terminal ends the agent, which then waits for its listings.
        done = subprocess.run(  # noqa: S603 - found in PATH or root's folders; names of objects are words of nft syntax
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=seconds,
            process_group=0,
        )
    except subprocess.TimeoutExpired:
        raise KernelError(f"`{command}` has not ended after {seconds:g} s") from None
    except OSError:
        return None
    if done.returncode < 0:
        raise ended(command, done.returncode, done.stderr)
    return done
