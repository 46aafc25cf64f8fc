"""Writes a ruleset to iptables and ipset when a node boots: all of it, where there is none."""

from __future__ import annotations

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.xt_features import kernel_options, open_xt_kernel
from nfagent.kernel.xt_listing import XtReader
from nfagent.kernel.xt_programs import XtPrograms
from nfagent.kernel.xt_writer import XtWriter
from nfagent.nftables.objects import Ruleset
from nfagent.xtables.lowering import lower
from nfagent.xtables.names import is_made
from nfagent.xtables.objects import EMPTY, XtRuleset
from nfagent.xtables.options import LoweringOptions


class XtBoot:
    """The rules of a node that has just booted."""

    def __init__(self, programs: XtPrograms, options: LoweringOptions) -> None:
        """Open the sockets, and try what the kernel has. Raises HostError, KernelError."""
        self._kernel, features = open_xt_kernel(programs)
        self._options = kernel_options(options, self._kernel, features)
        self._reader = XtReader(self._kernel)
        self._writer = XtWriter(self._kernel)

    def has_rules(self) -> bool:
        """Return whether there are rules of ours. Raises KernelError, HostError."""
        return any(is_made(key[2]) for key in self._reader.read().ruleset.chains)

    def write(self, ruleset: Ruleset) -> None:
        """Lower a ruleset, and write it. Raises KernelError, HostError; then nothing of it is there."""
        self.load(lower(ruleset, self._options)[0])

    def load(self, ruleset: XtRuleset) -> None:
        """Write a lowered ruleset. Raises KernelError, HostError, WireError; then nothing of it is there."""
        try:
            # Sets that an agent left without rules are replaced; members of packets and counters alone are lost.
            found = self._reader.read(ruleset)
            self._writer.write(found, self._possible(ruleset))
        except (KernelError, HostError, WireError):
            self.remove()
            raise

    def remove(self) -> None:
        """Remove all that is there of ours. Raises KernelError, HostError."""
        self._writer.write(self._reader.read(), EMPTY)

    def close(self) -> None:
        """Close the sockets."""
        self._kernel.close()

    def _possible(self, ruleset: XtRuleset) -> XtRuleset:
        """Return what of a ruleset this kernel has tables for; what else it lacks is a refusal."""
        families, absent = self._kernel.families, self._kernel.absent
        return XtRuleset(
            {name: item for name, item in ruleset.sets.items() if item.family in families},
            {key: item for key, item in ruleset.chains.items() if key[0] in families and key[:2] not in absent},
            {key: name for key, name in ruleset.hooks.items() if key[0] in families and key[:2] not in absent},
            ruleset.accounts if self._kernel.accounts is not None else frozenset(),
        )
