"""The line of one object as it was last good, for the next start. Blocking."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from nfagent.system.regular_file import read_regular

IP_MASQ_FILE = "ip-masq-agent-file"
"""The name of the file with the configuration of the ip-masq-agent file."""
PACKET_COUNTS_FILE = "packet-counts"
"""The name of the file with the totals of packets."""
RULESET_FILE = "saved-ruleset"
"""The name of the file with the ruleset of the last run."""
_FOLDER_MODE = 0o700
_OTHERS_WRITE = 0o022


class KeptText:
    """A file in the folder of last good objects."""

    def __init__(self, path: Path) -> None:
        """Keep the path."""
        self._path = path
        self._beside = path.with_name(f"{path.name}.new")
        self._held: bytes | None = None
        self._known = False

    def read(self) -> bytes | None:
        """Return the text; None if there is none. Raises OSError."""
        try:
            self._check_folder()
            self._held = read_regular(self._path)
        except FileNotFoundError:
            self._held = None
        self._known = True
        return self._held

    def write(self, text: bytes | None) -> None:
        """Replace the text as a whole; None removes it. Does nothing if it is the same. Raises OSError."""
        if self._known and text == self._held:
            return
        if text is None:
            with suppress(FileNotFoundError):
                self._path.unlink()
        else:
            self._replace(text)
        self._held, self._known = text, True

    def _replace(self, text: bytes) -> None:
        self._path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        self._check_folder()
        with suppress(FileNotFoundError):
            self._beside.unlink()
        descriptor = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self._beside.replace(self._path)

    def _check_folder(self) -> None:
        """Raise PermissionError where another user may replace the file."""
        found = self._path.parent.stat()
        if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
            raise PermissionError(errno.EPERM, f"{self._path.parent} is writable by other users")
