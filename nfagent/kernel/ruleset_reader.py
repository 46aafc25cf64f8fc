"""Reads the rules in the kernel for a command, without a running agent: of the backend that an agent would use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nfagent.kernel.backend_choice import BackendSetting, choose_backend
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_features import kernel_options, open_xt_kernel
from nfagent.kernel.xt_programs import XtPrograms
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.parse import CounterValue
from nfagent.xtables.commands import shell_commands
from nfagent.xtables.options import LoweringOptions


class RulesetReader:
    """Reads the rules in this thread."""

    def __init__(
        self, client: NftClient | XtClient, options: LoweringOptions | None, programs: XtPrograms | None
    ) -> None:
        """Store the client; options: with which rules are lowered to iptables, None for nftables, as programs are."""
        self._client = client
        self._options = options
        self._programs = programs

    @property
    def is_nftables(self) -> bool:
        """Whether the rules are those of nftables."""
        return self._options is None

    def read_now(self) -> Ruleset:
        """Return the ruleset. Raises KernelError, HostError."""
        return self._client.read_now()

    def counters_now(self) -> dict[str, CounterValue]:
        """Return the values of named counters. Raises KernelError, HostError."""
        return self._client.counters_now()

    def shell_commands(self, found: Ruleset, wanted: Ruleset) -> Iterator[str] | None:
        """Return commands that make the first ruleset the second; None for nftables, whose transactions are some."""
        if self._options is None or self._programs is None:
            return None
        return shell_commands(found, wanted, self._options, self._programs.restore_names)


@contextmanager
def ruleset_reader(
    setting: BackendSetting, known: Callable[[], Ruleset], options: LoweringOptions
) -> Iterator[RulesetReader]:
    """Open a reader, and close it. Raises KernelError, HostError.

    known:   returns the ruleset whose names are looked for in iptables, where names have digests
    options: with which an agent would have written its rules there
    """
    client: NftClient | XtClient
    choice = choose_backend(setting)
    lowering = None
    if choice.programs is None:
        client = NftClient()
    else:
        kernel, features = open_xt_kernel(choice.programs)
        lowering = kernel_options(options, kernel, features)
        client = XtClient(kernel, known, lowering)
    try:
        yield RulesetReader(client, lowering, choice.programs)
    finally:
        client.close()
