"""What the commands of `nfagent lab` need of this machine, and which of it is missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from nfagent.errors import HostError, NfagentError
from nfagent.lab import requirements
from nfagent.lab.ebpf_program import missing

_UP_MIB, _LATENCY_MIB = 300, 1_600


class LabCheck(msgspec.Struct, frozen=True):
    """One need. lack: what is missing and how to fix it, '' where nothing is; optional: for single options only."""

    name: str
    needed_by: str
    lack: str
    optional: bool = False


def lab_checks() -> list[LabCheck]:
    """Return all needs; nothing is built."""
    programs = partial(requirements.check_programs, ("ip", "nft", "setpriv"))
    memory = "with fewer Pods, as --pods 1000"
    checks: tuple[tuple[str, str, Callable[[], None], bool], ...] = (
        ("root", "all", requirements.check_root, False),
        ("programs", "all", programs, False),
        ("memory of a small lab", "up, demo", partial(requirements.check_memory, _UP_MIB, "end other programs"), False),
        ("memory of the full run", "latency", partial(requirements.check_memory, _LATENCY_MIB, memory), True),
        ("C compiler", "latency", requirements.check_compiler, False),
        ("eBPF", "latency --paths both", _check_ebpf, False),
        ("vxlan", "up --underlay vxlan", partial(requirements.check_module, "vxlan"), True),
        ("bridge filter", "up --attachment bridge", partial(requirements.check_module, "br_netfilter"), True),
        ("etcd, kube-apiserver", "--source apiserver", requirements.check_control_plane, True),
        ("Vagrant", "--driver vagrant", _check_vagrant, True),
        ("plots", "report", requirements.check_plots, True),
    )
    return [LabCheck(name, needed_by, _lack(call), optional) for name, needed_by, call, optional in checks]


def _lack(call: Callable[[], None]) -> str:
    try:
        call()
    except NfagentError as error:
        return str(error)
    return ""


def _check_ebpf() -> None:
    lack = missing()
    if lack:
        raise HostError(lack)


def _check_vagrant() -> None:
    from nfagent.lab.vagrant_checks import check_machine  # noqa: PLC0415 - for this driver only

    check_machine()
