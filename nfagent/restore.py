"""Restores the saved ruleset when a node boots: before it has a network, and where there is no table yet.

The table that an agent keeps is never touched. What can't be restored leaves the node as it would be without, or with
its Pods held where the settings say so; the boot goes on in any case.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

import msgspec

from nfagent.checkpoint.restore_result import RestoreResult
from nfagent.checkpoint.ruleset_checks import clock_warning, refusal
from nfagent.checkpoint.ruleset_file import StoredRuleset, read_saved, ruleset_path
from nfagent.checkpoint.xt_ruleset_codec import decode_xt_ruleset
from nfagent.config import Settings, lowering_options
from nfagent.errors import DecodeError, HostError, KernelError, NfagentError, TableHeldError, WireError
from nfagent.kernel.backend_choice import BackendName, choose_backend
from nfagent.kernel.nft_socket import NftSocket
from nfagent.kernel.table_lock import acquire_table
from nfagent.kernel.table_queries import list_tables, own_table
from nfagent.kernel.xt_boot import XtBoot
from nfagent.kernel.xt_programs import XtPrograms, programs_of
from nfagent.model.netaddr import AddressError, Range, parse_cidr
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE
from nfagent.nftables.boot_rulesets import hold_ruleset
from nfagent.nftables.bridge_table import REPLACEMENT
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, TABLE, Ruleset
from nfagent.nftables.transaction import AddTable, Delete, FlushChain
from nfagent.nftables.unknown_pods import UNKNOWN_PODS_CHAIN
from nfagent.xtables.objects import XtChain, XtRuleset

log = logging.getLogger(__name__)


def restore(settings: Settings, now: float | None = None) -> RestoreResult:
    """Restore the saved ruleset, or hold Pods. Return what is in the kernel.

    now: seconds since the epoch; by default the node's clock
    Raises HostError without CAP_NET_ADMIN; KernelError where the kernel refuses even to hold.
    """
    try:
        table_lock = acquire_table()
    except TableHeldError:
        return RestoreResult("running")
    moment = time.time() if now is None else now
    try:
        choice = choose_backend(settings.backend)
        if choice.programs is not None:
            return _restore_iptables(settings, choice.programs, moment)
        if own_table() is not None:
            return RestoreResult("present")
        socket = NftSocket()
        try:
            return _restore_nftables(settings, socket, moment)
        finally:
            socket.close()
    finally:
        table_lock.close()


def _restore_nftables(settings: Settings, socket: NftSocket, now: float) -> RestoreResult:
    stored, reason = _usable(settings, now, "nftables")
    ranges = _pod_ranges(stored)
    result = None
    if stored is not None and not reason:
        try:
            result = _load(settings, socket, stored, ranges)
        except (KernelError, DecodeError) as error:
            _remove_table(socket)
            reason = f"it can't be loaded: {error.reason}"
    if result is None:
        result = _hold(settings, lambda rules: socket.commit(diff(ABSENT, rules)), ranges, reason)
    if settings.bridges.unjudged_frames == "dropped":
        _filter_frames(socket)
    return result


def _restore_iptables(settings: Settings, programs: XtPrograms, now: float) -> RestoreResult:
    stored, reason = _usable(settings, now, "iptables")
    ranges, saved = _pod_ranges(stored), None
    if stored is not None and stored.ruleset.is_iptables:
        try:
            saved = decode_xt_ruleset(stored.ruleset.batches)
        except DecodeError as error:
            reason = reason or f"it can't be loaded: {error.reason}"
    # kubelet's chain, by which an agent knows the variant, isn't there yet.
    used = programs if saved is None or saved.variant == programs.variant else programs_of(saved.variant)
    kernel = XtBoot(used if used.families else programs, lowering_options(settings.iptables))
    try:
        if kernel.has_rules():
            return RestoreResult("present")
        if stored is not None and saved is not None and not reason:
            reason = _load_iptables(settings, kernel, stored, saved.ruleset)
            if not reason:
                held = _texts(ranges) if settings.policy.holds_unknown else ()
                return RestoreResult("saved", stored.in_force, held)
        return _hold(settings, kernel.write, ranges, reason)
    finally:
        kernel.close()


def _usable(settings: Settings, now: float, backend: BackendName) -> tuple[StoredRuleset | None, str]:
    """Return the saved ruleset, and why it may not be restored; '' where it may."""
    path = ruleset_path(settings.state_dir)
    try:
        stored = read_saved(path)
    except (HostError, DecodeError) as error:
        return None, error.reason
    if stored is None:
        return None, f"there is no saved ruleset in {settings.state_dir}"
    header = stored.ruleset.header
    reason = refusal(header, settings.node_name, stored.in_force, now, settings.boot.max_age_seconds)
    if not reason and stored.ruleset.is_iptables != (backend == "iptables"):
        reason = f"it has rules of the other backend, and this is {backend}"
    if not reason and (warning := clock_warning(stored.in_force, now)):
        log.warning("%s", warning)
    if not settings.boot.save_ruleset and not reason:
        return stored, "boot.save_ruleset is false"  # saved before that was set: nothing keeps it up to date
    # Another node's ranges say nothing about this one.
    return (stored if header.node == settings.node_name else None), reason and f"{path}: {reason}"


def _pod_ranges(stored: StoredRuleset | None) -> tuple[Range, ...]:
    """Return the Pod ranges that the saved ruleset remembers."""
    if stored is None:
        return ()
    try:
        return tuple(map(parse_cidr, stored.ruleset.header.pod_ranges))
    except AddressError:
        return ()


def _load(settings: Settings, socket: NftSocket, stored: StoredRuleset, ranges: tuple[Range, ...]) -> RestoreResult:
    """Load the saved ruleset. Raises KernelError, DecodeError; then a part of it may be in the kernel."""
    header, holding = stored.ruleset.header, settings.policy.holds_unknown
    if holding and not header.holds_unknown and ranges:
        socket.commit(diff(ABSENT, hold_ruleset(ranges)))  # first: nothing passes before it
    for batch in stored.ruleset.decoded():
        socket.commit_batch(batch)
    if header.holds_unknown and not holding:
        socket.commit((FlushChain(UNKNOWN_PODS_CHAIN),))
    return RestoreResult("saved", stored.in_force, _texts(ranges) if holding else ())


def _load_iptables(settings: Settings, kernel: XtBoot, stored: StoredRuleset, saved: XtRuleset) -> str:
    """Load the saved ruleset; return why it isn't in the kernel, and nothing of it then; '' where it is."""
    header, holding = stored.ruleset.header, settings.policy.holds_unknown
    if holding and not header.holds_unknown and header.pod_ranges:
        return "it lets unknown Pods pass, and the settings hold them since"
    if header.holds_unknown and not holding:
        emptied = {
            key: XtChain((), chain.origin) for key, chain in saved.chains.items() if chain.origin == UNKNOWN_PODS_CHAIN
        }
        saved = msgspec.structs.replace(saved, chains={**saved.chains, **emptied})
    try:
        kernel.load(saved)
    except (KernelError, HostError, WireError) as error:
        return f"it can't be loaded: {error.reason}"
    return ""


def _hold(
    settings: Settings, write: Callable[[Ruleset], None], ranges: tuple[Range, ...], reason: str
) -> RestoreResult:
    """Hold the Pods of the remembered ranges, where the settings say so. Raises KernelError."""
    if not (settings.policy.holds_unknown and ranges):
        return RestoreResult("none", reason=reason)
    write(hold_ruleset(ranges))
    return RestoreResult("hold", held=_texts(ranges), reason=reason)


def _remove_table(socket: NftSocket) -> None:
    """Remove what was loaded of a table that did not exist before."""
    socket.commit((AddTable(), Delete("table")))


def _filter_frames(socket: NftSocket) -> None:
    """Write the table of the bridge family, where there is none."""
    try:
        if not any((table.family, table.name) == (NFPROTO_BRIDGE, TABLE) for table in list_tables()):
            socket.commit(REPLACEMENT, family=NFPROTO_BRIDGE)
    except NfagentError as error:
        log.warning("table bridge %s can't be written: %s", TABLE, error)


def _texts(ranges: Iterable[Range]) -> tuple[str, ...]:
    return tuple(map(str, ranges))
