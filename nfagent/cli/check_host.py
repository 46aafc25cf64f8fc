"""What `nfagent check` looks at. Nothing here changes anything; the verdict log's group is held for a moment."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from nfagent.cli.agent_client import ask, listening
from nfagent.config import DEFAULT_FILE, Settings, load_settings
from nfagent.errors import ClusterError, HostError, KernelError, NfagentError, SettingError
from nfagent.kernel.bridge_table import PASSING
from nfagent.kernel.bridges import bridges, in_words, mending, unjudged_bridges
from nfagent.kernel.conntrack import ConntrackClient
from nfagent.kernel.nflog import NflogSource
from nfagent.kernel.nft_client import NftClient, check_owner
from nfagent.kernel.table_lock import holder, holder_name, remedy
from nfagent.kube.credentials import find_access
from nfagent.model.plurals import counted
from nfagent.nftables.bridge_table import BRIDGE_TABLE, TABLE_TEXT
from nfagent.nftables.objects import FLAGGED, TABLE, TABLE_FAMILY, TABLE_FLAGS, UNFLAGGED
from nfagent.verdicts.log_file import find_obstacle

CheckResult: TypeAlias = Literal["ok", "warn", "FAIL"]

ABLE = frozenset({"ok", "warn"})
_CAP_NET_ADMIN = 12
_DISK_SECONDS = 5.0
_NO_RAW_FRAMES = "take NET_RAW from Pods that share a bridge: securityContext.capabilities.drop"
_NOBODY = "0.0.0.0"  # noqa: S104 - nothing is bound to it: no connection has it as an end
_STATUS = Path("/proc/self/status")
_SYSCTL = Path("/proc/sys")
_TABLE = f"{TABLE_FAMILY} {TABLE}"


class Check(msgspec.Struct, frozen=True):
    """One thing looked at.

    result: 'ok', 'warn' (it runs, but something is missing), 'FAIL' (it can't run)
    found:  what there is, in words
    mend:   the commands that mend it, a line each, or what to do; '' where nothing is amiss
    """

    name: str
    result: CheckResult
    found: str
    mend: str = ""


def run_checks(settings: Settings, *, cluster: bool) -> list[Check]:
    """Look at everything on this node, in the order in which things build on each other.

    cluster: the API server will be asked, so its credentials are looked at there
    """
    return list(_checks(settings, cluster=cluster))


def read_settings(config: Path | None, node: str, kubeconfig: str) -> tuple[Settings, Check]:
    """Read the settings; where they are wrong, the defaults stand in, so that the rest can be looked at."""
    try:
        settings = load_settings(config, flags={"node": node, "kubeconfig": kubeconfig})
    except SettingError as error:
        found = Check("settings", "FAIL", str(error), f"edit {config or DEFAULT_FILE}, or the environment")
        return Settings(node=node, kubeconfig=kubeconfig), found
    file = config or DEFAULT_FILE
    return settings, Check("settings", "ok", str(file) if file.exists() else f"defaults (there is no {file})")


def _checks(settings: Settings, *, cluster: bool) -> Iterator[Check]:
    root = _has_net_admin()
    yield _objects(settings, cluster=cluster)
    if root:
        yield Check("privileges", "ok", "CAP_NET_ADMIN")
    else:
        yield Check("privileges", "FAIL", "no CAP_NET_ADMIN: nftables can't be changed", "sudo nfagent check")
    yield from _nftables(root=root)
    yield _conntrack()
    yield _revoking(root=root)
    yield _nflog(settings, root=root)
    yield _bridges()
    yield from _frames(settings, root=root)
    yield _pod_links(settings)
    yield from _forwarding()
    yield _other_agent(settings)
    yield _in_time("log folder", settings.log_dir, lambda: _log_folder(settings))
    state, runtime = Path(settings.state_dir), Path(settings.runtime_dir)
    yield _in_time("state folder", settings.state_dir, lambda: _folder("state folder", state, "state_dir", "warn"))
    yield _folder("runtime folder", runtime, "runtime_dir", "FAIL")


def _objects(settings: Settings, *, cluster: bool) -> Check:
    """Say where Pods and policies come from."""
    folder = settings.manifests
    if folder and not Path(folder).is_dir():
        return Check("objects", "FAIL", f"there is no folder {folder}", f"mkdir -p {folder}")
    if folder:
        return Check("objects", "ok", f"folder {folder}")
    if cluster:
        return Check("objects", "ok", "API server, by the credentials below")
    try:
        access = asyncio.run(find_access(settings.kubeconfig, settings.context, settings.token_file))
    except ClusterError as error:
        # Where nothing is named, a flag of `run` may do so yet.
        named = settings.kubeconfig or settings.context or settings.token_file
        return Check("objects", "FAIL" if named else "warn", error.reason, error.hint)
    return Check("objects", "ok", f"API server {access.server}, by {access.origin}; ask it: nfagent check --cluster")


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
        check_owner()
        held = counted(len(table.chains), "chain") if table.exists else "not there yet"
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
    done = subprocess.run([nft, "--version"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603 - found in PATH, no input of anybody's
    return done.stdout.partition(" (")[0].strip() or "nft"


def _conntrack() -> Check:
    limit = _sysctl("net/netfilter/nf_conntrack_max")
    if limit is None:
        return Check(
            "conntrack", "warn", "nf_conntrack is not loaded; the first rules load it", "modprobe nf_conntrack"
        )
    return Check("conntrack", "ok", f"nf_conntrack, at most {limit} connections")


def _revoking(*, root: bool) -> Check:
    """Ask for the connections of an address that nobody has: what a change does that revokes some."""
    if not root:
        return Check("live connections", "warn", "not tried: needs root")
    try:
        connections = ConntrackClient()
        try:
            connections.entries(frozenset({_NOBODY}))
        finally:
            connections.close()
    except (HostError, KernelError) as error:
        found = f"{error.reason}: Pods whose connections a change revokes stay under re-check"
        return Check("live connections", "warn", found, error.hint)
    return Check("live connections", "ok", "can be looked up, and ended when a change revokes them")


def _nflog(settings: Settings, *, root: bool) -> Check:
    if not root:
        return Check("NFLOG", "warn", "not tried: needs root")
    group = settings.logging.group
    try:
        problem = ask(settings.socket_path, "/v1/dump/state", {})["agent"]["verdict_log"]["problem"]
    except NfagentError:
        return _free_group(group)
    if problem:  # the agent's words, with what to do
        return Check("NFLOG", "warn", f"no verdict log: {problem}")
    return Check("NFLOG", "ok", f"group {group} is read by the agent")


def _free_group(group: int) -> Check:
    try:
        asyncio.run(_open_group(group))
    except (HostError, KernelError) as error:
        return Check("NFLOG", "warn", f"no verdict log: {error.reason}", error.hint)
    return Check("NFLOG", "ok", f"group {group} is free")


async def _open_group(group: int) -> None:
    source = NflogSource(group)
    source.open(lambda _packets: None)
    source.close()


def _bridges() -> Check:
    try:
        used, unjudged = bridges(), unjudged_bridges()
    except KernelError as error:
        return Check("br_netfilter", "warn", str(error))
    if not used:
        return Check("br_netfilter", "ok", "no Pods share a bridge here, so it isn't needed")
    if not unjudged:
        named = ", ".join(f"bridge {bridge.name}" for bridge in used)
        return Check("br_netfilter", "ok", f"sees the traffic within {named}")
    found = f"traffic between Pods on {in_words(unjudged)} passes by the rules"
    return Check("br_netfilter", "warn", found, mending(family for _, family in unjudged))


def _frames(settings: Settings, *, root: bool) -> Iterator[Check]:
    """Say whether Pods on a bridge reach each other by frames that no rule can judge."""
    try:
        used = bridges()
    except KernelError:
        return  # said above
    if not used:
        return
    name = "bridge frames"
    if settings.bridges.unjudged_frames == "passed":
        yield Check(name, "warn", f"{PASSING}: the settings let them", 'set [bridges] unjudged_frames = "dropped"')
    elif not root:
        yield Check(name, "warn", "not tried: needs root")
    elif problem := _frames_problem(settings):
        yield Check(name, "warn", f"{PASSING}: {problem}", _NO_RAW_FRAMES)
    else:
        yield Check(name, "ok", f"table {BRIDGE_TABLE} drops what no rule can judge")


def _frames_problem(settings: Settings) -> str:
    """Ask the agent; where none runs, ask the kernel whether it would take the table."""
    try:
        state: str = ask(settings.socket_path, "/v1/dump/state", {})["agent"]["frames"]["problem"]
    except (NfagentError, KeyError):
        return _frames_refusal()
    return state


def _frames_refusal() -> str:
    """Say why this kernel wouldn't take the table; '' where it would."""
    try:
        kernel = NftClient()
        try:
            kernel.try_now(TABLE_TEXT)
        finally:
            kernel.close()
    except (KernelError, HostError) as error:
        return str(error)
    return ""


def _pod_links(settings: Settings) -> Check:
    """Say where Pods' sources can't be held against an interface; only a running agent knows where Pods are."""
    try:
        known = ask(settings.socket_path, "/v1/dump/state", {})["agent"]["links"]
    except (NfagentError, KeyError):
        return Check("Pod interfaces", "ok", "not known before an agent runs")
    if known["problem"]:
        return Check("Pod interfaces", "warn", known["problem"])
    if not known["shared"]:
        return Check("Pod interfaces", "ok", f"{counted(len(known['pod_links']), 'interface')} with Pods alone behind")
    named = ", ".join(f"{item['link']} ({item['why']})" for item in known["shared"])
    found = (
        f"Pods behind {named} can send with sources that nobody holds, reach the node from link-local ones whatever "
        "their policies, and send to its tunnels"
    )
    return Check("Pod interfaces", "warn", found, "have the network plugin keep Pods there to their own addresses")


def _forwarding() -> Iterator[Check]:
    for name, sysctl in (("IPv4", "net/ipv4/ip_forward"), ("IPv6", "net/ipv6/conf/all/forwarding")):
        value = _sysctl(sysctl)
        if value is None:
            yield Check(f"{name} forwarding", "ok", f"this kernel has no {name}")
        elif value == "0":
            mend = f"sysctl -w {sysctl.replace('/', '.')}=1"
            yield Check(f"{name} forwarding", "warn", "off: Pods reach nothing outside their node", mend)
        else:
            yield Check(f"{name} forwarding", "ok", "on")


def _other_agent(settings: Settings) -> Check:
    try:
        process = holder()
    except HostError:
        return Check("agent", "warn", "not tried: needs root")
    if process is None:
        return Check("agent", "ok", f"none runs; table {_TABLE} is free")
    try:
        ours = listening(settings.socket_path)
    except HostError:
        return Check("agent", "ok", f"{holder_name(process)} keeps table {_TABLE}")
    if ours:
        return Check("agent", "ok", f"running: {holder_name(process)} keeps table {_TABLE}")
    found = f"{holder_name(process)} keeps table {_TABLE}, and does not answer at {settings.socket_path}"
    return Check("agent", "FAIL", found, remedy(process))


def _folder(name: str, folder: Path, setting: str, failure: CheckResult) -> Check:
    # The folder is made when it is needed: what counts is the nearest one that exists.
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Check(name, "ok", str(folder) + ("" if there == folder else " (made when needed)"))
    return Check(name, failure, f"{there} can't be written to", f"run as root, or set another {setting}")


def _in_time(name: str, folder: str, look: Callable[[], Check]) -> Check:
    """Look at a folder whose disk may not answer, in a thread that nobody waits for then."""
    found: list[Check] = []
    mend = f"findmnt -T {folder}"

    def looking() -> None:
        try:
            found.append(look())
        except OSError as error:  # a disk whose server has gone
            found.append(Check(name, "warn", str(error), mend))

    thread = threading.Thread(target=looking, daemon=True)
    thread.start()
    thread.join(_DISK_SECONDS)
    return found[0] if found else Check(name, "warn", f"{folder}: its disk doesn't answer", mend)


def _log_folder(settings: Settings) -> Check:
    problem = find_obstacle(settings.verdict_log)
    if problem:
        found = f"{problem}: there will be no verdict log"
        return Check("log folder", "warn", found, "make room for it, or set another log_dir")
    return _folder("log folder", Path(settings.log_dir), "log_dir", "warn")


def _sysctl(name: str) -> str | None:
    try:
        return (_SYSCTL / name).read_text("ascii").strip()
    except OSError:
        return None
