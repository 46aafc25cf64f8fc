"""Checks where the rules are written, and what iptables and ipset lack here. A chain of ours is made for a moment."""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.cli.check_result import Check
from nfagent.config import Settings, mark_bits
from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.backend_choice import BackendChoice, choose_backend
from nfagent.kernel.foreign_marks import read_mark_uses
from nfagent.kernel.xt_features import open_xt_kernel
from nfagent.kernel.xt_programs import XtPrograms
from nfagent.xtables.names import PREFIX

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


def iptables_checks(settings: Settings, programs: XtPrograms) -> Iterator[Check]:
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
    if features.made:
        # A kernel's table of iptables-legacy begins with the first program that asks for it, and stays.
        yield Check(name, "ok", f"tables that were not there before are, without rules: {', '.join(features.made)}")
    for problem in features.problems:
        found, _, fix = problem.rpartition("; ")
        yield Check(name, "warn", found or problem, fix if found else "")
    yield _marks(settings)
    if programs.other:
        rules = f"nfagent's rules are in iptables-{programs.other} too"
        yield Check(name, "warn", f"{rules}: they go when the agent starts", "systemctl restart nfagent")


def _marks(settings: Settings) -> Check:
    """Check that no other program uses the bits of the packet mark that our chains use."""
    accepted, unrouted = mark_bits(settings.iptables)
    bits = f"{accepted:#x} and {unrouted:#x}"
    try:
        found = [use for use in read_mark_uses(accepted | unrouted) if f" {PREFIX}" not in str(use)]
    except (KernelError, HostError) as error:
        return Check("iptables marks", "warn", error.reason, error.hint)
    except WireError as error:
        return Check("iptables marks", "warn", f"the rules of other programs can't be read: {error}")
    if not found:
        return Check("iptables marks", "ok", f"no other program uses the bits {bits} of the packet mark")
    used = f"{found[0]}, of which nfagent needs {bits}"
    return Check("iptables marks", "warn", used, "set mark_bit and route_mark_bit in [iptables] to free bits")
