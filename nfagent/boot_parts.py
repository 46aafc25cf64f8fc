"""The rules that hold until the cluster was read, and the ruleset that is saved for the next boot."""

from __future__ import annotations

from collections.abc import Callable

from nfagent import __version__
from nfagent.backend_parts import BackendParts
from nfagent.checkpoint.enforced_rules import CURRENT, EnforcedRules
from nfagent.checkpoint.restore_result import RestoreResult, delete_result, enforced_rules, read_result
from nfagent.checkpoint.ruleset_codec import FORMAT, XT_FORMAT, SavedHeader, encode_batches
from nfagent.checkpoint.ruleset_file import ruleset_path
from nfagent.checkpoint.xt_ruleset_codec import encode_xt_ruleset
from nfagent.clock import WallClock
from nfagent.config import Settings
from nfagent.controllers.event_applier import EventApplier
from nfagent.controllers.reconciler import Reconciler
from nfagent.controllers.ruleset_saver import RulesetSaver
from nfagent.desired.state import DesiredState
from nfagent.desired.unknown_pods import pod_ranges
from nfagent.errors import HostError, KernelError
from nfagent.introspection.agent_status import BootStatus
from nfagent.metrics.packet_counts import boot_id
from nfagent.nftables.objects import Ruleset


class BootParts:
    """The parts, made and run together."""

    def __init__(
        self,
        settings: Settings,
        desired: DesiredState,
        clock: WallClock,
        reconciler: Reconciler,
        event_applier: EventApplier,
        *,
        backend: BackendParts,
    ) -> None:
        """Make the parts; nothing is read or written yet."""
        self._settings = settings
        self._desired = desired
        self._clock = clock
        self._reconciler = reconciler
        self._event_applier = event_applier
        self._backend = backend
        self._result: RestoreResult | None = None
        self.enforced = EnforcedRules("unknown", "not known yet")
        self._saver: RulesetSaver | None = None
        if settings.boot.save_ruleset:
            path = ruleset_path(settings.state_dir)
            self._saver = RulesetSaver(path, clock, self._header, desired.ruleset, self._commits, encode=self._encoded)

    def read_enforced(self, has_rules: Callable[[], bool]) -> None:
        """Read what the kernel enforces when the agent starts: whether it has rules, and where they come from."""
        self._result = read_result(self._settings.runtime_dir)
        try:
            self.enforced = enforced_rules(self._result, table_exists=has_rules())
        except (KernelError, HostError) as error:
            self.enforced = EnforcedRules("unknown", f"not known: {error.reason}")

    def synced(self) -> None:
        """Note that the agent's own rules are in force."""
        self.enforced = CURRENT
        if self._result is not None:
            delete_result(self._settings.runtime_dir)

    async def run(self) -> None:
        """Save the ruleset until cancelled."""
        if self._saver is not None:
            await self._saver.run()

    async def finish(self) -> None:
        """Save what was committed last."""
        if self._saver is not None:
            await self._saver.finish()

    @property
    def problem(self) -> str:
        """Why the ruleset can't be saved; '' where it can, or needn't be."""
        return self._saver.status.problem if self._saver is not None else ""

    def status(self) -> BootStatus:
        """Return what holds over a boot."""
        return BootStatus(enforced=str(self.enforced), saved=self._saver.status if self._saver is not None else None)

    def _commits(self) -> int | None:
        """Return the number of commits; None while the kernel doesn't have the whole desired ruleset."""
        status = self._reconciler.status
        settled = status.in_sync and self._reconciler.undivided.is_set() and not self._event_applier.busy
        return status.transactions if settled else None

    def _encoded(self, ruleset: Ruleset, pause: Callable[[], None]) -> tuple[tuple[bytes, ...], str]:
        """Return a ruleset as its backend restores it."""
        programs = self._backend.choice.programs
        if programs is None:
            return encode_batches(ruleset, pause)
        return encode_xt_ruleset(ruleset, self._backend.options, programs.variant, pause)

    def _header(self) -> SavedHeader:
        return SavedHeader(
            version=__version__,
            node=self._settings.node_name,
            boot_id=boot_id(),
            written_at=self._clock.now_ns() / 1e9,
            pod_ranges=tuple(map(str, pod_ranges(self._desired.cluster))),
            holds_unknown=self._desired.policy_options.holds_unknown,
            format=FORMAT if self._backend.is_nftables else XT_FORMAT,
        )
