"""What the commands of `nfagent lab` need of this machine, and which of it is missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from nfagent.cli.check_result import Check, CheckResult
from nfagent.errors import NfagentError
from nfagent.lab.ebpf.check import ebpf_check
from nfagent.lab.machine import requirements

_UP_MIB, _LATENCY_MIB = 300, 1_600


class _Need(msgspec.Struct, frozen=True):
    """A need of the lab. of: the commands or the option that have it; lacking: the result where it isn't met."""

    name: str
    of: str
    check: Callable[[], None]
    lacking: CheckResult = "FAIL"


def lab_checks() -> list[Check]:
    """Return the result for each need; nothing stays of what is tried."""
    needs = (
        _Need("root", "all commands", requirements.check_root),
        _Need("programs", "all commands", partial(requirements.check_programs, ("ip", "nft", "setpriv"))),
        _Need("memory", "up, demo", partial(requirements.check_memory, _UP_MIB, "end other programs")),
        _Need("more memory", "latency", partial(requirements.check_memory, _LATENCY_MIB, "use --pods 1000"), "warn"),
        _Need("C compiler", "latency", requirements.check_compiler),
        _Need("vxlan", "up --underlay vxlan", partial(requirements.check_module, "vxlan"), "warn"),
        _Need("bridge filter", "--attachment bridge", partial(requirements.check_module, "br_netfilter"), "warn"),
        _Need("control plane", "--source apiserver", requirements.check_control_plane, "warn"),
        _Need("Vagrant", "--driver vagrant", _check_vagrant, "warn"),
        _Need("plots", "report", requirements.check_plots, "warn"),
    )
    found = [_result(need) for need in needs]
    return found + [msgspec.structs.replace(check, name=f"eBPF: {check.name}") for check in ebpf_check()]


def _result(need: _Need) -> Check:
    try:
        need.check()
    except NfagentError as error:
        return Check(need.name, need.lacking, f"{error.reason} ({need.of})", error.hint)
    return Check(need.name, "ok", f"for {need.of}")


def _check_vagrant() -> None:
    from nfagent.lab.vagrant.checks import check_machine  # noqa: PLC0415 - for this driver only

    check_machine()
