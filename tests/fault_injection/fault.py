"""One kind of fault, as a value."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from tests.fault_injection.fault_table import Rule
from tests.fault_injection.xt_programs import ProgramFault

Trigger: TypeAlias = Literal["", "reload", "drift", "unlistable rule", "status"]
"""What happens at the begin of a fault besides the change: SIGHUP, another program that changes our table, or adds a
rule at which nft crashes, or a request for `nfagent status`, which reads the packet counters."""

Boundary: TypeAlias = Literal["kernel", "API server", "files", "sockets", "clock", "process", "programs"]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of fault.

    rules:       what `boundary.c` changes while it lasts
    program:     what the programs of iptables do meanwhile
    wall_offset: by how many seconds the agent's wall clock jumps at the begin, and back at the end
    proxy:       the fault of the proxy between agent and API server
    trigger:     what makes the agent meet it, besides the change of the policy
    reported:    the part of `dump state` that has a problem meanwhile and none afterwards; '' for a fault that a
                 retry of the call hides, or that loses nothing
    most_calls:  the most calls a second that may meet the fault: more are a busy loop
    pods:        whether the change adds a Pod, too
    unanswered:  whether nothing can be asked on the agent's own socket meanwhile
    """

    name: str
    boundary: Boundary
    rules: tuple[Rule, ...] = ()
    program: ProgramFault | None = None
    wall_offset: float = 0.0
    proxy: str = ""
    trigger: Trigger = ""
    reported: str = ""
    most_calls: float = 50.0
    pods: bool = False
    unanswered: bool = False

    @property
    def is_met(self) -> bool:
        """Whether calls, or runs of programs, meet it and are counted."""
        return bool(self.rules) or self.program is not None
