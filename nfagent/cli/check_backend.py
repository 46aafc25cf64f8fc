"""Checks where the rules are written, and what iptables and ipset lack here. A chain of ours is made for a moment."""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.cli.check_result import Check
from nfagent.config import Settings
from nfagent.errors import HostError, KernelError
from nfagent.kernel.backend_choice import BackendChoice, choose_backend
from nfagent.kernel.xt_features import open_xt_kernel
from nfagent.kernel.xt_programs import XtPrograms

_NAME = "backend"


def backend_check(settings: Settings, *, root: bool) -> tuple[BackendChoice | None, Check]:
    """Return the backend, None where it can't be told, and its check."""
    if not root:
        return None, Check(_NAME, "warn", "not tried: needs root")
    try:
        choice = choose_backend(settings.backend)
    except (HostError, KernelError) as error:
        return None, Check(_NAME, "FAIL", error.reason, error.hint)
    return choice, Check(_NAME, "ok", str(choice))


def iptables_checks(programs: XtPrograms) -> Iterator[Check]:
    """Yield the checks of iptables and ipset."""
    name = f"iptables-{programs.variant}"
    try:
        kernel, features = open_xt_kernel(programs)
    except (HostError, KernelError) as error:
        yield Check(name, "FAIL", error.reason, error.hint)
        return
    kernel.close()
    families = " and ".join(f"IPv{family}" for family in features.families)
    version = ".".join(map(str, programs.program(4).version))
    yield Check(name, "ok", f"version {version}, {families}, ipset with all types that are needed")
    for problem in features.problems:
        found, _, fix = problem.rpartition("; ")
        yield Check(name, "warn", found or problem, fix if found else "")
    if programs.other:
        rules = f"nfagent's rules are in iptables-{programs.other} too"
        yield Check(name, "warn", f"{rules}: they go when the agent starts", "systemctl restart nfagent")
