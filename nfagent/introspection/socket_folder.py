"""The folder of the agent's socket. A user with write access to it could replace the socket.

If the agent's own folder is writable for others, its mode is corrected and a warning logged: to refuse would leave a
node without enforcement because of a mode bit. A folder that nfagent can't have made (a link, a file, another user's
folder, a shared one such as /tmp) is refused.
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
    """Create the folder, or correct its mode, so that root alone may write to it. Raises OSError, HostError."""
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
                f"{folder} is writable for all users (mode {mode:04o}); "
                f"set a folder for nfagent alone, such as {folder}/nfagent"
            )
        os.fchmod(opened, mode & ~_OTHERS_WRITE)
    finally:
        os.close(opened)
    log.warning(
        "%s was writable for others (mode %04o), who could replace the socket; removed their write access", folder, mode
    )
