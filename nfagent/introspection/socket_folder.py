"""The folder of the agent's socket. Whoever may write to it can put a socket of his own in the place of the agent's.

A folder of the agent's own that others may write to is mended, and said: to refuse it would leave a node without
enforcement for a bit of a mode. What nfagent can't have made (a link, a file, somebody else's folder, a common one
such as /tmp) is refused.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from nfagent.errors import HostError

log = logging.getLogger(__name__)
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_folder(folder: Path) -> None:
    """Make the folder, or mend it, so that root alone may write to it. Raises OSError, MachineError."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    try:
        opened = os.open(folder, _FLAGS)
    except NotADirectoryError:
        kind = "a symbolic link" if folder.is_symlink() else "no folder"
        raise HostError(f"{folder} is {kind}; look at it and remove it: rm {folder}") from None
    try:
        found = os.fstat(opened)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid not in {0, os.geteuid()}:
            raise HostError(
                f"{folder} belongs to user {found.st_uid}, who could replace the socket in it; "
                f"look at what is in it, then: rm -r {folder}"
            )
        if not mode & _OTHERS_WRITE:
            return
        if mode & stat.S_ISVTX:
            raise HostError(
                f"everybody may write to {folder} (mode {mode:04o}); name a folder of its own, such as {folder}/nfagent"
            )
        os.fchmod(opened, mode & ~_OTHERS_WRITE)
    finally:
        os.close(opened)
    log.warning("others could write to %s (mode %04o), and replace the socket: they can't any more", folder, mode)
