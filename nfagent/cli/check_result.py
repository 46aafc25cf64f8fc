"""The result of one check of `nfagent check`."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

CheckResult: TypeAlias = Literal["ok", "warn", "FAIL"]


class Check(msgspec.Struct, frozen=True):
    """The result of one check.

    result: 'ok', 'warn' (nfagent runs, but something is missing), 'FAIL' (it can't run)
    found:  what was found
    fix:    the commands that fix it, one a line, or what to do; '' where nothing is wrong
    """

    name: str
    result: CheckResult
    found: str
    fix: str = ""
