"""The checks of this node. They change nothing; the NFLOG group is bound for a moment, where no agent runs."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nfagent.cli.check_backend import backend_check, iptables_checks
from nfagent.cli.check_boot import boot_checks
from nfagent.cli.check_flowtables import flowtable_checks
from nfagent.cli.check_forwarding import forwarding_checks
from nfagent.cli.check_log_group import log_group_checks
from nfagent.cli.check_marks import mark_checks
from nfagent.cli.check_nat import ip_masq_check, nat_checks
from nfagent.cli.check_result import Check, CheckResult
from nfagent.cli.check_unit import unit_checks
from nfagent.config import Settings
from nfagent.errors import HostError, KernelError, NfagentError
from nfagent.introspection.agent_client import NoAgentError, get_json
from nfagent.kernel.bridge_table import NOT_FILTERED
from nfagent.kernel.bridges import bridges, describe_bridges, fix_command, unfiltered_bridges
from nfagent.kernel.conntrack import ConntrackClient
from nfagent.kernel.conntrack_usage import CONNTRACK_FIX, read_conntrack_usage
from nfagent.kernel.nat_ports import ADVICE, describe, read_nat_ports
from nfagent.kernel.nflog import NflogSource
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.nft_listing import require_free_table
from nfagent.kernel.table_lock import holder, holder_name, stop_command
from nfagent.model.plurals import counted
from nfagent.netlink.conntrack_ports import ALL_PORTS
from nfagent.nftables.bridge_table import BRIDGE_TABLE, TABLE_TEXT
from nfagent.nftables.objects import FLAGGED, TABLE, TABLE_FAMILY, TABLE_FLAGS, UNFLAGGED
from nfagent.verdicts.log_file import find_obstacle

_CAP_NET_ADMIN = 12
_DISK_SECONDS = 5.0
_DROP_NET_RAW = "take NET_RAW from Pods that share a bridge: securityContext.capabilities.drop"
_UNUSED_ADDRESS = "0.0.0.0"  # noqa: S104 - nothing is bound to it: no connection has this address
_STATUS = Path("/proc/self/status")
_TABLE = f"{TABLE_FAMILY} {TABLE}"


def run_checks(settings: Settings) -> list[Check]:
    """Return the results of all checks of this node; a check comes after those that it depends on."""
    return list(_checks(settings))


def _checks(settings: Settings) -> Iterator[Check]:
    root = _has_net_admin()
    yield ip_masq_check(settings)
    if root:
        yield Check("privileges", "ok", "CAP_NET_ADMIN")
    else:
        yield Check("privileges", "FAIL", "no CAP_NET_ADMIN: rules can't be changed", "sudo nfagent check")
    choice, found = backend_check(settings, root=root)
    yield found
    if choice is not None and choice.programs is not None:
        yield from iptables_checks(settings, choice.programs)
    else:
        yield from _nftables(root=root)
    yield _conntrack()
    yield _revoking(root=root)
    yield _nat_ports(settings, root=root)
    yield _nflog(settings, root=root)
    yield from log_group_checks(settings, root=root)
    yield _bridges()
    yield from _frames(settings, root=root)
    yield from nat_checks(root=root)
    yield from mark_checks(settings, root=root)
    yield from flowtable_checks(root=root)
    yield _pod_links(settings)
    yield from forwarding_checks()
    yield _other_agent(settings)
    yield _on_disk("log folder", settings.log_dir, lambda: _log_folder(settings))
    state, runtime = Path(settings.state_dir), Path(settings.runtime_dir)
    yield _on_disk("state folder", settings.state_dir, lambda: _folder("state folder", state, "state_dir", "warn"))
    yield _folder("runtime folder", runtime, "runtime_dir", "FAIL")
    yield from unit_checks(settings)
    yield from _boot(settings)


def _boot(settings: Settings) -> Iterator[Check]:
    """Yield the checks of what holds when this node boots; the saved ruleset is on a disk."""
    found: list[Check] = []

    def read() -> Check:
        found.extend(boot_checks(settings))
        return found[-1]

    last = _on_disk("saved ruleset", settings.state_dir, read)
    yield from found or (last,)


def _has_net_admin() -> bool:
    lines = _STATUS.read_text("ascii").splitlines()
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return bool(effective >> _CAP_NET_ADMIN & 1)


def _nftables(*, root: bool) -> Iterator[Check]:
    try:
        kernel = NftClient()
    except HostError as error:
        yield Check("libnftables", "FAIL", error.reason, error.hint)
        return
    try:
        yield Check("libnftables", "ok", f"python3-nftables, {_nft_version()}")
        if not root:
            yield Check("nf_tables", "warn", "not tried: needs root")
            return
        table = kernel.read_now()
        require_free_table()
        held = counted(len(table.chains), "chain") if table.exists else "does not exist yet"
        if TABLE_FLAGS in table.foreign:
            yield Check("nf_tables", "warn", FLAGGED, UNFLAGGED)
        else:
            yield Check("nf_tables", "ok", f"table {_TABLE}: {held}")
    except NfagentError as error:
        yield Check("nf_tables", "FAIL", error.reason, error.hint or "modprobe nf_tables")
    finally:
        kernel.close()


def _nft_version() -> str:
    nft = shutil.which("nft")
    if nft is None:
        return "no nft command"
    done = subprocess.run([nft, "--version"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603 - found in PATH, no user input
    return done.stdout.partition(" (")[0].strip() or "nft"


def _conntrack() -> Check:
    usage = read_conntrack_usage()
    if usage is None:
        return Check(
            "conntrack", "warn", "nf_conntrack is not loaded; loading the rules loads it", "modprobe nf_conntrack"
        )
    if usage.is_nearly_full:
        return Check("conntrack", "FAIL" if usage.is_full else "warn", f"nf_conntrack, {usage}", CONNTRACK_FIX)
    return Check("conntrack", "ok", f"nf_conntrack, {usage}")


def _revoking(*, root: bool) -> Check:
    """Check that conntrack entries can be listed, by those of an unused address: revocation needs that."""
    if not root:
        return Check("live connections", "warn", "not tried: needs root")
    try:
        connections = ConntrackClient()
        try:
            connections.entries(frozenset({_UNUSED_ADDRESS}))
        finally:
            connections.close()
    except (HostError, KernelError) as error:
        found = (
            f"{error.reason}: connections that a policy newly denies are not deleted; their Pods stay under re-check"
        )
        return Check("live connections", "warn", found, error.hint)
    return Check("live connections", "ok", "can be listed, and deleted when a policy change denies them")


def _nat_ports(settings: Settings, *, root: bool) -> Check:
    """Check that translated connections have free ports towards their busiest destination."""
    name = "NAT ports"
    if not settings.masquerade.enabled:
        return Check(name, "ok", "not needed: masquerade is off")
    if not root:
        return Check(name, "warn", "not tried: needs root")
    try:
        ports = read_nat_ports(settings.masquerade_settings().to_ports or ALL_PORTS)
    except (HostError, KernelError) as error:
        return Check(name, "warn", f"unknown: {error.reason}", error.hint)
    return Check(name, "warn", describe(ports), ADVICE) if ports.nearly_full else Check(name, "ok", describe(ports))


def _state(settings: Settings) -> dict[str, Any]:
    """Return the state of the running agent, without a list of Pods. Raises what `get_json` does."""
    return get_json(settings.socket_path, "/v1/dump/state", {"form": "summary"})


def _nflog(settings: Settings, *, root: bool) -> Check:
    if not root:
        return Check("NFLOG", "warn", "not tried: needs root")
    group = settings.logging.group
    try:
        problem = _state(settings)["agent"]["verdict_log"]["problem"]
    except NoAgentError:
        return _free_group(group)
    except NfagentError as error:
        return Check("NFLOG", "warn", f"not known: {error.reason}", error.hint)
    if problem:  # includes the hint
        return Check("NFLOG", "warn", f"no verdict log is written: {problem}")
    return Check("NFLOG", "ok", f"group {group} is read by the agent")


def _free_group(group: int) -> Check:
    try:
        asyncio.run(_open_group(group))
    except (HostError, KernelError) as error:
        return Check("NFLOG", "warn", f"no verdict log is written: {error.reason}", error.hint)
    return Check("NFLOG", "ok", f"group {group} is free")


async def _open_group(group: int) -> None:
    source = NflogSource(group)
    source.open(lambda _packets: None)
    source.close()


def _bridges() -> Check:
    try:
        used, unjudged = bridges(), unfiltered_bridges()
    except KernelError as error:
        return Check("br_netfilter", "warn", str(error))
    if not used:
        return Check("br_netfilter", "ok", "not needed: no Pods share a bridge")
    if not unjudged:
        named = ", ".join(f"bridge {bridge.name}" for bridge in used)
        return Check("br_netfilter", "ok", f"traffic within {named} is filtered")
    found = f"traffic between Pods on {describe_bridges(unjudged)} is not filtered: br_netfilter is off"
    return Check("br_netfilter", "warn", found, fix_command(family for _, family in unjudged))


def _frames(settings: Settings, *, root: bool) -> Iterator[Check]:
    """Check that frames which policies can't match (VLAN tags, PPPoE) are dropped between Pods on a bridge."""
    try:
        used = bridges()
    except KernelError:
        return  # the check of br_netfilter reports it
    if not used:
        return
    name = "bridge frames"
    if settings.bridges.unjudged_frames == "passed":
        yield Check(
            name, "warn", f"{NOT_FILTERED}: the settings allow them", 'set [bridges] unjudged_frames = "dropped"'
        )
    elif not root:
        yield Check(name, "warn", "not tried: needs root")
    elif problem := _frames_problem(settings):
        yield Check(name, "warn", f"{NOT_FILTERED}: {problem}", _DROP_NET_RAW)
    else:
        yield Check(name, "ok", f"table {BRIDGE_TABLE} drops frames that no policy can match")


def _frames_problem(settings: Settings) -> str:
    """Return the problem that the agent reports; without an agent, why the kernel would refuse the table."""
    try:
        state: str = get_json(settings.socket_path, "/v1/dump/state", {})["agent"]["frames"]["problem"]
    except (NfagentError, KeyError):
        return _frames_refusal()
    return state


def _frames_refusal() -> str:
    """Return why the kernel would refuse the table; '' where it accepts it."""
    try:
        kernel = NftClient()
        try:
            kernel.check_now(TABLE_TEXT)
        finally:
            kernel.close()
    except (KernelError, HostError) as error:
        return str(error)
    return ""


def _pod_links(settings: Settings) -> Check:
    """Check that Pods' source addresses are validated by interface; only a running agent knows their interfaces."""
    try:
        known = _state(settings)["agent"]["links"]
    except (NoAgentError, KeyError):
        return Check("Pod interfaces", "ok", "unknown until an agent runs")
    except NfagentError as error:
        return Check("Pod interfaces", "warn", f"not known: {error.reason}", error.hint)
    if known["problem"]:
        return Check("Pod interfaces", "warn", known["problem"])
    if not known["shared"]:
        return Check("Pod interfaces", "ok", f"{counted(len(known['pod_links']), 'interface')} with only Pods behind")
    named = ", ".join(f"{item['link']} ({item['why']})" for item in known["shared"])
    found = (
        f"Pods behind {named} can send from addresses that no Pod has, reach the node from link-local addresses "
        "past their policies, and send to its tunnels"
    )
    return Check("Pod interfaces", "warn", found, "have the network plugin allow Pods only their own addresses")


def _other_agent(settings: Settings) -> Check:
    try:
        process = holder()
    except HostError:
        return Check("agent", "warn", "not tried: needs root")
    if process is None:
        return Check("agent", "ok", "no agent runs")
    writes = f"{holder_name(process)} writes the rules here"
    try:
        _state(settings)
    except NoAgentError:
        found = f"{writes}, but does not answer at {settings.socket_path}"
        return Check("agent", "FAIL", found, stop_command(process))
    except HostError as error:
        return Check("agent", "FAIL", f"{writes}, but: {error.reason}", error.hint)
    except NfagentError as error:  # it answers
        return Check("agent", "warn", f"running: {writes}; {error.reason}", error.hint)
    return Check("agent", "ok", f"running: {writes}")


def _folder(name: str, folder: Path, setting: str, failure: CheckResult) -> Check:
    # A missing folder is created when it is needed: its nearest existing parent must be writable.
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Check(name, "ok", str(folder) + ("" if there == folder else " (created when needed)"))
    return Check(name, failure, f"{there} can't be written to", f"run as root, or set another {setting}")


def _on_disk(name: str, folder: str, check: Callable[[], Check]) -> Check:
    """Run a check of a folder in a thread, and give up after 5 s: its disk may not answer."""
    found: list[Check] = []
    fix = f"findmnt -T {folder}"

    def run_check() -> None:
        try:
            found.append(check())
        except OSError as error:  # a network file system without its server
            found.append(Check(name, "warn", str(error), fix))

    thread = threading.Thread(target=run_check, daemon=True)
    thread.start()
    thread.join(_DISK_SECONDS)
    return found[0] if found else Check(name, "warn", f"{folder}: the disk doesn't answer", fix)


def _log_folder(settings: Settings) -> Check:
    if "file" not in settings.logging.sinks:
        return Check("log folder", "ok", "not used: logging.sinks has no file")
    problem = find_obstacle(settings.verdict_log)
    if problem:
        found = f"no verdict log is written: {problem}"
        return Check("log folder", "warn", found, "free disk space, or set another log_dir")
    return _folder("log folder", Path(settings.log_dir), "log_dir", "warn")
