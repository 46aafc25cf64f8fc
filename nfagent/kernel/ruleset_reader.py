"""Reads the rules in the kernel for a command, without a running agent: of the backend that an agent would use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec

from nfagent.kernel.backend_choice import BackendSetting, choose_backend
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_features import open_xt_kernel
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.parse import CounterValue
from nfagent.xtables.options import LoweringOptions


class RulesetReader(Protocol):
    """Reads the rules in this thread."""

    def read_now(self) -> Ruleset:
        """Return the ruleset. Raises KernelError, HostError."""
        ...

    def counters_now(self) -> dict[str, CounterValue]:
        """Return the values of named counters. Raises KernelError, HostError."""
        ...


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
    if choice.programs is None:
        client = NftClient()
    else:
        kernel, features = open_xt_kernel(choice.programs)
        lowering = msgspec.structs.replace(options, lacking=features.lacking)
        client = XtClient(kernel, known, lowering, logs=features.logs)
    try:
        yield client
    finally:
        client.close()
