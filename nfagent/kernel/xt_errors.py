"""Words what iptables-restore refuses: the program, the line, the rule, the reason, and what to do."""

from __future__ import annotations

import re

from nfagent.errors import HostError, KernelError
from nfagent.kernel.sockets import AS_ROOT
from nfagent.model.netaddr import Family

_LINE = re.compile(r"(?:Error occurred at line: |\bline )(?P<line>\d+)")
_NO_EXTENSION = re.compile(r"Couldn't load (?P<kind>match|target) `(?P<name>[^']*)'")
_NO_REVISION = re.compile(r"Extension (?P<name>\S+) revision \d+ not supported, missing kernel module")
_NO_SET = re.compile(r"Set (?P<name>\S+) doesn't exist")
_NO_TABLE = re.compile(r"(?:can't|unable to) initiali[sz]e (?:ip6?tables )?table [`'](?P<table>\w+)'")
_ONLY_LINE = re.compile(r"\S+: line \d+ failed")
_PREFIX = re.compile(r"^\S*tables\S* v[\d.]+ \((?:legacy|nf_tables)\): *")
_SHORT = re.compile(
    r"memory|too many open files|temporarily unavailable|no buffer space|resource busy|interrupted system call",
    re.IGNORECASE,
)
_LOCKED = "holding the xtables lock"
_UNPRINTABLE = "Parsing nftables rule failed"
LOCK_STATUS = 4
"""RESOURCE_PROBLEM of iptables(8): the lock is held, or, of the nft variant, the kernel refused."""
_LINE_LENGTH = 200


class RestoreRefusedError(KernelError):
    """iptables-restore refused its input, or the kernel did: nothing of that table is changed.

    line: number of the refused line, 0 where it isn't known
    """

    def __init__(self, program: str, line: int, text: str, reason: str, *, hint: str = "") -> None:
        """Build the message."""
        self.line = line
        shown = text if len(text) <= _LINE_LENGTH else f"{text[: _LINE_LENGTH - 1]}…"
        place = f"{program}, line {line} `{shown}`" if line else program
        super().__init__(f"{place}: {reason}", hint=hint)


class LockHeldError(KernelError):
    """Another program holds the xtables lock for longer than we wait."""

    def __init__(self, holder: str, seconds: float) -> None:
        """Name the program that holds the lock."""
        super().__init__(
            f"the xtables lock was held for {seconds:g} s by {holder}; no rule is changed",
            hint="end that program where it hangs; it is tried again by itself",
        )


def is_locked(errors: str) -> bool:
    """Return whether a program gave up as another one holds the xtables lock."""
    return _LOCKED in errors


def save_error(program: str, family: Family, table: str, errors: str, status: int) -> HostError | KernelError:
    """Return the error for a program that could not print a table; table: '' for all tables of the family."""
    error = restore_error(program, "", errors, status)
    if _UNPRINTABLE not in errors:
        return error
    ip = "ip" if family == 4 else "ip6"
    shown = f"`nft -a list table {ip} {table}`" if table else f"`nft -a list ruleset {ip}`"
    return KernelError(
        f"{program}: it can't print a rule that nft has written", hint=f"{shown} shows the rule; delete it"
    )


def restore_error(program: str, given: str, errors: str, status: int) -> HostError | KernelError:
    """Return the error for a program that ended with a status, having printed errors.

    given: the program's input, of which the refused line is shown
    A KernelError that is no RestoreRefusedError tells nothing of what the kernel has: it is short of something.
    """
    if "Permission denied" in errors or "you must be root" in errors:
        return HostError(
            f"{program}: no right to change rules (CAP_NET_ADMIN, and CAP_NET_RAW for iptables-legacy)",
            hint=f"{AS_ROOT}; in a service add CAP_NET_RAW to CapabilityBoundingSet=",
        )
    lines = given.split("\n")
    found = _LINE.search(errors)
    line = int(found["line"]) if found is not None else 0
    text = lines[line - 1] if 0 < line <= len(lines) else ""
    reason, hint = _reason(program, errors, text, lines[:line] if line else lines)
    refused = RestoreRefusedError(
        program, line if text else 0, text, reason or f"ended with status {status}", hint=hint
    )
    if _SHORT.search(errors) is not None:
        return KernelError(refused.reason)
    if (table := _NO_TABLE.search(errors)) is not None:
        return HostError(f"{program}: {reason}", hint=_table_hint(program, table["table"]))
    return refused


def _table_hint(program: str, table: str) -> str:
    prefix = "ip6table" if program.startswith("ip6") else "iptable"
    return f"modprobe {prefix}_{table}, or run a kernel with {_table_option(prefix, table)}"


def _table_option(prefix: str, table: str) -> str:
    return f"CONFIG_IP{'6' if prefix.startswith('ip6') else ''}_NF_{table.upper()}"


def _reason(program: str, errors: str, text: str, before: list[str]) -> tuple[str, str]:
    """Return the reason and the hint."""
    shown = _shown(errors)
    if (extension := _NO_REVISION.search(errors)) is not None:
        name = extension["name"]
        return f"this kernel lacks the match or target `{name}`", f"modprobe xt_{name}"
    if (extension := _NO_EXTENSION.search(errors)) is not None:
        name = extension["name"]
        if extension["kind"] == "target" and not name.isupper():
            return f"there is no chain {name}", ""
        return f"{program} lacks the {extension['kind']} `{name}`", "apt-get install iptables"
    if (missing := _NO_SET.search(errors)) is not None:
        return f"there is no set {missing['name']}", ""
    if text.strip() == "COMMIT" and _ONLY_LINE.fullmatch(shown) is not None:
        table = next((line[1:].strip() for line in reversed(before) if line.startswith("*")), "")
        return (
            f"the kernel refused the changes of table {table}: a rule that it can't take, or a chain that is in use",
            "dmesg | tail",
        )
    return shown, ""


def _shown(errors: str) -> str:
    kept = [
        _PREFIX.sub("", line).strip()
        for line in errors.splitlines()
        if line.strip() and not line.startswith(("Try `", "# Warning", "Error occurred", "Another app"))
    ]
    return "; ".join(line for line in kept if line)
