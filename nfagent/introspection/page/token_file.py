"""The token of the agent's page: a file in the runtime folder that root alone can read.

It stays over restarts of the agent, so that a page that is open goes on; a node's boot makes another.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from nfagent.errors import HostError
from nfagent.introspection.page.access import is_token, new_token
from nfagent.introspection.socket_folder import make_folder

NAME = "ui-token"
_MOST_BYTES = 1000


def kept_token(folder: Path) -> str:
    """Return the token of the file, which is made where it isn't there or isn't safe. Raises OSError, HostError."""
    make_folder(folder)
    with suppress(HostError, OSError):
        return read_token(folder)
    path, token = folder / NAME, new_token()
    path.unlink(missing_ok=True)
    # It is created by this call or not at all: a file or a link that another put there isn't written to.
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "w") as file:
        file.write(f"{token}\n")
    return token


def read_token(folder: Path) -> str:
    """Return the token of the file. Raises OSError, and HostError for a file that isn't root's alone."""
    opened = os.open(folder / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(opened, "rb") as file:
        found = os.fstat(opened)
        if found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o177:
            raise HostError(f"{folder / NAME} is not root's alone; remove it and restart the agent")
        token = file.read(_MOST_BYTES).decode(errors="replace").strip()
    if not is_token(token):
        raise HostError(f"{folder / NAME} has no token; remove it and restart the agent")
    return token
