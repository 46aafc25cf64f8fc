"""Programs in front of iptables-restore and iptables-save, which do what a file says; by default, run the real ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import msgspec

ProgramAction = Literal["refuse", "die", "hang", "late", "locked", "cut"]
"""What happens to a run.

refuse: nothing is changed or printed, and it fails      die:    it ends by SIGKILL
hang:   it takes more than a second longer               late:   it does what it should, and fails
locked: it finds the lock held by another program        cut:    it prints the first bytes only
"""

_COMMANDS = ("iptables", "ip6tables")
_SCRIPT = """#!/bin/sh
[ "$1" = --version ] && exec {real} "$@"
echo {name} >>{folder}/runs
read -r action <{folder}/{kind} 2>/dev/null || exec {real} "$@"
echo {name} >>{folder}/hits
case $action in
refuse) echo '{name}: line 1 failed' >&2; exit 1;;
die) kill -KILL $$;;
hang) sleep 1.2; exec {real} "$@";;
late) {real} "$@"; echo '{name}: line 1 failed' >&2; exit 1;;
locked) echo 'Another app is currently holding the xtables lock; still 0s 0us time ahead to have a chance to grab' >&2
    exit 4;;
cut) {real} "$@" | head -c 200;;
esac
"""


class ProgramFault(msgspec.Struct, frozen=True):
    """A fault of each run of a program."""

    program: Literal["restore", "save"]
    action: ProgramAction


class XtProgramFaults:
    """The programs of a folder, which comes first in PATH."""

    def __init__(self, folder: Path) -> None:
        """Write them."""
        self._folder = folder
        folder.mkdir()
        for command in _COMMANDS:
            for kind in ("restore", "save"):
                name = f"{command}-legacy-{kind}"
                script = _SCRIPT.format(real=shutil.which(name), name=name, folder=folder, kind=kind)
                (folder / name).write_text(script, encoding="ascii")
                (folder / name).chmod(0o755)
        self.environment = {"PATH": f"{folder}:{os.environ['PATH']}"}

    def arm(self, fault: ProgramFault) -> None:
        """Put a fault in force in the place of another."""
        self.disarm()
        (self._folder / "hits").unlink(missing_ok=True)
        hidden = self._folder / ".new"
        hidden.write_text(f"{fault.action}\n", encoding="ascii")
        hidden.rename(self._folder / fault.program)

    def disarm(self) -> None:
        """End the fault; its hits stay readable."""
        for program in ("restore", "save"):
            (self._folder / program).unlink(missing_ok=True)

    @property
    def hits(self) -> int:
        """How many runs have met the last fault."""
        return self._lines("hits")

    @property
    def runs(self) -> int:
        """How many runs there were."""
        return self._lines("runs")

    def _lines(self, name: str) -> int:
        path = self._folder / name
        return path.read_text("ascii").count("\n") if path.exists() else 0
