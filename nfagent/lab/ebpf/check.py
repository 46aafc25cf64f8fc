"""Whether this machine can run the eBPF path: each need, and at last the program itself, loaded and attached."""

from __future__ import annotations

import os
from pathlib import Path

from nfagent.cli.check_result import Check
from nfagent.errors import HostError, KernelError
from nfagent.lab.ebpf.program import EbpfProgram
from nfagent.lab.ebpf.requirements import NEWER_KERNEL, requirements
from nfagent.lab.topology import netns

_BTF = Path("/sys/kernel/btf/vmlinux")
_LOOPBACK = 1  # the interface index of lo in every network namespace
_TAG = "ebpfcheck"


def ebpf_check() -> list[Check]:
    """Return the result for each need; the program is tried only where nothing is missing."""
    found = list(requirements())
    if all(check.result == "ok" for check in found):
        found += [_btf(), _try_program()]
    return found


def _btf() -> Check:
    has = _BTF.exists()
    return Check("BTF of the kernel", "ok", str(_BTF) if has else "none, which this program doesn't need")


def _try_program() -> Check:
    """Compile and load the program, and attach it to a link of a network namespace that is removed again."""
    name = f"{netns.prefix(_TAG, os.getpid())}check"
    try:
        netns.make([name])
        with EbpfProgram(name) as program:
            program.attach(_LOOPBACK)
    except (HostError, KernelError) as error:
        return Check(
            "the program", "FAIL", str(error), f"{NEWER_KERNEL}, CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF"
        )
    finally:
        netns.remove([name])
    return Check("the program", "ok", "compiled, loaded, attached and removed")
