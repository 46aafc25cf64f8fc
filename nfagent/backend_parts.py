"""The backend that the rules are written to: its client, how it is watched, and what it replaces."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from nfagent.clock import Clock
from nfagent.config import Settings, lowering_options
from nfagent.errors import HostError, KernelError
from nfagent.kernel.backend_choice import BackendChoice, choose_backend, has_nf_tables
from nfagent.kernel.backend_switch import remove_others_rules, xt_rules_hold
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.nft_monitor import NftMonitor
from nfagent.kernel.packet_counters import NFTABLES_COUNTERS, CounterSource
from nfagent.kernel.table_listings import TableListings
from nfagent.kernel.table_queries import own_table
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_errors import LockHeldError
from nfagent.kernel.xt_features import XtFeatures, kernel_options, open_xt_kernel
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_programs import XtPrograms
from nfagent.kernel.xt_watch import XtWatch
from nfagent.nftables.objects import Ruleset
from nfagent.system.cpu_time import process_cpu_seconds
from nfagent.verdicts.packet_origin import IPTABLES, NFTABLES, LogPlaces
from nfagent.xtables.commands import shell_commands
from nfagent.xtables.options import LoweringOptions

log = logging.getLogger(__name__)

_RETRY_SECONDS = 10.0

RulesetClient: TypeAlias = NftClient | XtClient


class BackendParts:
    """The client of the backend, and what depends on which one it is.

    choice: the backend, and why
    client: reads and changes the rules
    options: with which rules are lowered to iptables
    tables: the client of the table that drops frames of bridges, which only nf_tables can
    replacing: why rules of another backend are still there, and hold too; '' where none are
    """

    def __init__(self, settings: Settings, known: Callable[[], Ruleset], clock: Clock, monitor: NftMonitor) -> None:
        """Choose the backend and open its sockets.

        known: returns the desired ruleset
        Raises HostError, KernelError.
        """
        self.choice: BackendChoice = choose_backend(settings.backend)
        self._clock = clock
        self._monitor = monitor
        self._features: XtFeatures | None = None
        self.replacing = ""
        self.options = LoweringOptions()
        self.client: RulesetClient
        self.tables: RulesetClient
        if self.choice.programs is None:
            self.client = self.tables = NftClient(monitor=monitor)
            return
        log.info("backend: %s", self.choice)
        kernel, self._features = _opened(self.choice.programs)
        self.options = kernel_options(lowering_options(settings.iptables), kernel, self._features)
        self.client = XtClient(kernel, known, self.options)
        self.tables = _nft_client(monitor) or self.client
        for problem in self._features.problems:
            log.warning("%s", problem)

    def has_rules(self) -> bool:
        """Return whether the kernel has rules of ours, of either backend. Raises KernelError, HostError."""
        return own_table() is not None or xt_rules_hold()

    @property
    def is_nftables(self) -> bool:
        """Return whether the backend is nftables, whose changes the kernel reports."""
        return isinstance(self.client, NftClient)

    @property
    def rules(self) -> str:
        """What holds our rules, for messages."""
        return "table inet nfagent" if self.is_nftables else "our part of iptables"

    @property
    def spent(self) -> Callable[[], float]:
        """By which comparisons and repairs are paid: a clock; CPU time where they run programs, which wait for it."""
        return self._clock.monotonic if self.is_nftables else process_cpu_seconds

    def monitor(self, changed: Callable[[], None]) -> NftMonitor | XtWatch:
        """Return what reports changes by other programs: the kernel, or what looks for them."""
        if isinstance(self.client, XtClient):
            return XtWatch(self.client, changed, self._clock)
        return self._monitor

    @property
    def counters(self) -> CounterSource:
        """Where packet counters are read from."""
        return self.client.counters.source if isinstance(self.client, XtClient) else NFTABLES_COUNTERS

    @property
    def log_places(self) -> LogPlaces:
        """Where the rules log."""
        return NFTABLES if self.is_nftables else IPTABLES

    def listings(self) -> TableListings:
        """Return the listings for `dump`."""
        programs = self.choice.programs
        if isinstance(self.client, XtClient) and programs is not None:
            return TableListings(
                self.client.read_beside_changes,
                self.client.counters_now,
                lambda found, wanted: list(shell_commands(found, wanted, self.options, programs.restore_names)),
                self.client.note_names,
            )
        return TableListings()

    async def replace_others(self) -> None:
        """Remove what another backend has left: the rules of this one are in force. Try until it is gone."""
        removed: tuple[str, ...] | None = None
        while removed is None:
            try:
                removed = await asyncio.to_thread(remove_others_rules, self.choice)
            except (KernelError, HostError) as error:
                if str(error) != self.replacing:
                    log.warning("the rules of another backend can't be removed, and hold too: %s; retrying", error)
                self.replacing = str(error)
                await self._clock.wait(asyncio.Event(), _RETRY_SECONDS)
        self.replacing = ""
        for what in removed:
            log.info("removed %s: the backend is %s now", what, self.choice.name)

    def close(self) -> None:
        """Close the clients."""
        self.client.close()
        if self.tables is not self.client:
            self.tables.close()

    def status(self) -> dict[str, Any]:
        """Return the backend for `dump state`."""
        programs = self.choice.programs
        found: dict[str, Any] = {"name": self.choice.name, "reason": self.choice.reason}
        replacing = [f"rules of another backend hold too: {self.replacing}"] if self.replacing else []
        if programs is None or self._features is None or not isinstance(self.client, XtClient):
            return found | ({"problems": replacing} if replacing else {})
        left = [f"set {name} is used by rules of another program" for name in self.client.left]
        unavailable = [f"{item.chain}: {item.rule}: {item.consequence}" for item in self.client.unavailable]
        return {
            **found,
            "variant": programs.variant,
            "variant_reason": programs.reason,
            "problems": [*self._features.problems, *left, *replacing],
            "unavailable": unavailable,
        }


def _opened(programs: XtPrograms) -> tuple[XtKernel, XtFeatures]:
    """Open the kernel's sockets and try what it has; wait while another program holds the xtables lock.

    Nothing is tried without the lock, and an agent that ended would be started again later and later by a kubelet.
    Raises HostError, KernelError.
    """
    said = ""
    while True:
        try:
            return open_xt_kernel(programs)
        except LockHeldError as error:
            if str(error) != said:
                log.warning("%s", error)
            said = str(error)


def _nft_client(monitor: NftMonitor) -> NftClient | None:
    """Return a client of nf_tables, where the kernel and the machine have it."""
    if not has_nf_tables():
        return None
    try:
        return NftClient(monitor=monitor)
    except HostError:
        return None
