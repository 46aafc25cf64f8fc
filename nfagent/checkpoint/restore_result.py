"""What `nfagent restore` loaded when the node booted, for the agent that starts after it. Blocking.

The file is in the runtime folder, which a boot empties. The agent deletes it when its own rules are in the kernel.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from nfagent.checkpoint.enforced_rules import NOTHING, PREVIOUS, EnforcedRules
from nfagent.checkpoint.kept_text import KeptText
from nfagent.checkpoint.ruleset_checks import timestamp
from nfagent.errors import HostError

_FILE = "restored"


class RestoreResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in the kernel after a restore.

    rules:    'saved': the saved ruleset; 'hold': only rules that drop packets of Pods; 'none'; 'present': the table was
              there, and is left as it is; 'running': an agent runs, and nothing is touched
    in_force: when the saved ruleset was last in force, in seconds since the epoch; 0 for the others
    held:     the Pod ranges in which unknown addresses are held; none where they pass
    reason:   why the saved ruleset isn't used; '' where it is
    """

    rules: Literal["saved", "hold", "none", "present", "running"]
    in_force: float = 0.0
    held: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        """Return what is enforced: `the saved ruleset of 2024-05-06T07:08:09Z`."""
        held = f"; unknown Pods of {', '.join(self.held)} are held" if self.held else ""
        match self.rules:
            case "saved":
                return f"the saved ruleset of {timestamp(self.in_force)}{held}"
            case "hold":
                return f"no policy{held}"
            case "present":
                return "table inet nfagent, which exists and stays as it is"
            case "running":
                return "what the agent that runs enforces; nothing is restored"
        return str(NOTHING)


def write_result(runtime_dir: str, result: RestoreResult) -> None:
    """Write the result. Raises HostError."""
    path = Path(runtime_dir) / _FILE
    try:
        KeptText(path).write(msgspec.json.encode(result))
    except OSError as error:
        raise HostError(f"{path} can't be written: {error.strerror or error}") from None


def read_result(runtime_dir: str) -> RestoreResult | None:
    """Return the result of this boot's restore; None where there was none, or it can't be read."""
    try:
        content = KeptText(Path(runtime_dir) / _FILE).read()
        return None if content is None else msgspec.json.decode(content, type=RestoreResult)
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return None


def delete_result(runtime_dir: str) -> None:
    """Delete the result: the agent's own rules are in force."""
    with suppress(OSError):
        (Path(runtime_dir) / _FILE).unlink()


def enforced_rules(result: RestoreResult | None, *, table_exists: bool) -> EnforcedRules:
    """Return what is enforced before the agent has written its own rules."""
    if not table_exists:
        return NOTHING
    match result:
        case RestoreResult(rules="saved" | "hold" as origin):
            return EnforcedRules(origin, str(result))
    return PREVIOUS
