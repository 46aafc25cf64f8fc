"""Finds and runs iptables-restore and iptables-save, of one variant: those of the kernel's xtables, or those of nft.

Both at once would judge each packet twice, and each hides its rules from the other. So all rules are written by one
variant: the one that has our rules already, else the one that the node's other programs use. The programs block, so
they are run in a worker thread; each call takes some milliseconds, and at most `LOCK_SECONDS` and the time limit.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import HostError, KernelError
from nfagent.kernel.iptables_save import legacy_tables
from nfagent.kernel.xt_errors import LOCK_STATUS, LockHeldError, is_locked, restore_error, save_error
from nfagent.kernel.xtables_lock import lock_holder
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.xtables.names import is_made
from nfagent.xtables.objects import TableName
from nfagent.xtables.saved import rules_total

Variant: TypeAlias = Literal["legacy", "nft"]

LOCK_SECONDS = 5
"""How long a call waits for another program that holds the xtables lock."""
_RUN_SECONDS = 60.0
_INSTALL = "apt-get install iptables"
_COMMANDS: dict[Family, str] = {4: "iptables", 6: "ip6tables"}
_VERSION = re.compile(r"v(?P<version>\d+(?:\.\d+)*)(?: \((?P<variant>legacy|nf_tables)\))?")
_RESTORE_WAITS = (1, 6, 2)
"""The first version of iptables-restore that takes the lock, and has `-w`."""
_CHAIN = re.compile(r"^:(\S+)", re.MULTILINE)
_SHORT = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Errors of a machine or process at its limit, which say nothing of the program."""
_CANARY = ":KUBE-KUBELET-CANARY "
"""A chain that kubelet makes with the variant that the node uses."""
_VARIANTS: tuple[Variant, Variant] = ("nft", "legacy")


class Program(msgspec.Struct, frozen=True):
    """Restore and save of one family and variant, by their paths."""

    restore: str
    save: str
    variant: Variant
    version: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the program that writes, for messages."""
        return Path(self.restore).name


class XtPrograms(msgspec.Struct, frozen=True):
    """The programs of the variant that is used.

    reason: why this variant
    other:  the variant that holds rules of ours too, which must go; '' for none
    """

    variant: Variant
    families: dict[Family, Program]
    reason: str
    other: Variant | Literal[""] = ""

    def restore(self, family: Family, text: str) -> None:
        """Apply the input of iptables-restore; what it doesn't name stays. Each table is changed in one moment.

        Raises RestoreRefusedError, LockHeldError, HostError, KernelError.
        """
        program = self.program(family)
        arguments = ["--noflush"]
        if program.version >= _RESTORE_WAITS:
            arguments += ["-w", str(LOCK_SECONDS)]
        done = _run(program.restore, arguments, text)
        if done.returncode == 0:
            return
        if done.returncode == LOCK_STATUS and is_locked(done.stderr):
            raise LockHeldError(lock_holder(), LOCK_SECONDS)
        raise restore_error(program.name, text, done.stderr, done.returncode)

    def save(self, family: Family, table: TableName) -> str:
        """Return the rules of a table; '' where the kernel has no such table, which isn't made. Raises KernelError."""
        program = self.program(family)
        known = legacy_tables(f"{_COMMANDS[family]}-legacy") if self.variant == "legacy" else None
        if known is not None and table not in known:
            return ""
        done = _run(program.save, ["-t", table], "")
        if done.returncode:
            raise save_error(Path(program.save).name, family, table, done.stderr, done.returncode)
        return done.stdout

    @property
    def restore_names(self) -> dict[Family, str]:
        """The names of the programs that write, for commands that are shown."""
        return {family: program.name for family, program in self.families.items()}

    def program(self, family: Family) -> Program:
        """Return the programs of a family. Raises HostError where they aren't installed."""
        found = self.families.get(family)
        if found is None:
            raise HostError(f"{_COMMANDS[family]}-restore is missing", hint=_INSTALL)
        return found


def find_programs(*, nf_tables: bool, which: Callable[[str], str | None] = shutil.which) -> XtPrograms:
    """Return the programs of the variant that this node's rules are written with.

    nf_tables: whether the kernel has nf_tables; without it there is only the legacy variant
    Raises HostError where iptables isn't installed, KernelError where its rules can't be read.
    """
    found: dict[Variant, dict[Family, Program]] = {
        variant: programs
        for variant in _VARIANTS
        if (variant == "legacy" or nf_tables) and 4 in (programs := _installed_of(variant, which))
    }
    if not found:
        what = "iptables-restore" if nf_tables else "iptables-legacy-restore"
        raise HostError(f"{what} is missing: rules can't be written", hint=_INSTALL)
    if len(found) == 1:
        ((variant, programs),) = found.items()
        why = "the kernel has no nf_tables" if not nf_tables else "no other is installed"
        return XtPrograms(variant, programs, why)
    return _chosen(found, _plain_variant(which))


def programs_of(variant: Variant) -> XtPrograms:
    """Return the installed programs of a variant, whichever rules there are; none where it isn't installed."""
    return XtPrograms(variant, _installed_of(variant), "")


def _chosen(found: dict[Variant, dict[Family, Program]], plain: Variant | None) -> XtPrograms:
    saved = {variant: "\n".join(_saved_all(programs)) for variant, programs in found.items()}
    ours = [variant for variant in found if any(map(is_made, _CHAIN.findall(saved[variant])))]
    rules = {variant: rules_total(saved[variant]) for variant in found}
    most = max(found, key=lambda variant: rules[variant])
    kubelet = [variant for variant in found if _CANARY in saved[variant]]
    if len(ours) == 1:
        variant, why = ours[0], "nfagent's rules are there"
    elif len(kubelet) == 1:
        variant, why = kubelet[0], "kubelet uses it"
    elif len(set(rules.values())) > 1:
        variant, why = most, f"it has most rules on this node: {rules[most]}"
    else:
        variant = plain or "nft"
        why = "iptables-restore is of it" if plain else "neither has rules"
    other: Variant | Literal[""] = next((name for name in ours if name != variant), "")
    return XtPrograms(variant, found[variant], why, other)


def _saved_all(programs: dict[Family, Program]) -> Iterable[str]:
    for family, program in programs.items():
        if program.variant == "legacy" and legacy_tables(f"{_COMMANDS[family]}-legacy") == frozenset():
            continue
        done = _run(program.save, [], "")
        if done.returncode:
            raise save_error(Path(program.save).name, family, "", done.stderr, done.returncode)
        yield done.stdout


def _installed_of(variant: Variant, which: Callable[[str], str | None] = shutil.which) -> dict[Family, Program]:
    return {
        family: program for family in FAMILIES if (program := _program(_COMMANDS[family], variant, which)) is not None
    }


def _program(command: str, variant: Variant, which: Callable[[str], str | None]) -> Program | None:
    """Return the program of a variant: by its own name, or by the plain one where that is of the variant."""
    for name in (f"{command}-{variant}", command):
        restore, save = which(f"{name}-restore"), which(f"{name}-save")
        if restore is None or save is None:
            continue
        version, found = _version(restore)
        if found == variant:
            return Program(restore, save, variant, version)
    return None


def _plain_variant(which: Callable[[str], str | None]) -> Variant | None:
    restore = which("iptables-restore")
    return None if restore is None else _version(restore)[1]


def _version(restore: str) -> tuple[tuple[int, ...], Variant]:
    """Return version and variant; before 1.8 there was only the legacy one. Raises KernelError."""
    done = _run(restore, ["--version"], "")
    found = _VERSION.search(done.stdout)
    if found is None:
        raise KernelError(f"{restore} --version: {(done.stdout or done.stderr).strip()[:100]!r} has no version")
    variant: Variant = "nft" if found["variant"] == "nf_tables" else "legacy"
    return tuple(map(int, found["version"].split("."))), variant


def _run(program: str, arguments: list[str], given: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - found in PATH, no user input
            [program, *arguments],
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_RUN_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise KernelError(f"{Path(program).name} didn't end within {_RUN_SECONDS:g} s; it was killed") from None
    except OSError as error:
        if error.errno in _SHORT:
            raise KernelError(f"{program} can't be run: {error.strerror}") from None
        raise HostError(f"{program} can't be run: {error.strerror}", hint=_INSTALL) from None
