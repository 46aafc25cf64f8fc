"""The file of the saved ruleset, and when it was last in force: the time of its last modification. Blocking."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from nfagent.checkpoint.kept_text import RULESET_FILE, KeptText
from nfagent.checkpoint.ruleset_codec import SavedRuleset, decode_saved
from nfagent.errors import DecodeError, HostError


class StoredRuleset(msgspec.Struct, frozen=True):
    """A saved ruleset as it was read.

    in_force: when it was last known to be in force, in seconds since the epoch
    """

    ruleset: SavedRuleset
    in_force: float


def ruleset_path(state_dir: str) -> Path:
    """Return the path of the saved ruleset."""
    return Path(state_dir) / RULESET_FILE


def read_saved(path: Path) -> StoredRuleset | None:
    """Read the saved ruleset; None without one. Raises HostError for a file that can't be read, DecodeError."""
    try:
        content = KeptText(path).read()
        modified = 0.0 if content is None else path.stat().st_mtime
    except OSError as error:
        raise HostError(f"{path} can't be read: {error.strerror or error}") from None
    if content is None:
        return None
    try:
        return StoredRuleset(decode_saved(content), modified)
    except DecodeError as error:
        raise DecodeError(f"{path} is not used: {error.reason}") from None


def write_saved(path: Path, content: bytes) -> None:
    """Replace the saved ruleset, atomically. Raises OSError."""
    KeptText(path).write(content)


def mark_in_force(path: Path) -> None:
    """Note that the saved ruleset is in force now. Raises OSError."""
    os.utime(path)
