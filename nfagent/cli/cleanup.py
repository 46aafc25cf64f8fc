"""`nfagent cleanup`: removes the rules of a stopped agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfagent.cli.options import config_option, output_option, settings_of

if TYPE_CHECKING:
    from nfagent.nftables.objects import Ruleset


@click.command(epilog="Example: systemctl stop nfagent && nfagent cleanup")
@config_option
@output_option("text", "json", "yaml")
def cleanup(config: Path | None, output: str) -> None:
    """Remove the rules that a stopped agent left in force.

    These are tables inet nfagent and bridge nfagent, and the chains of iptables and the ipsets whose names begin with
    nfa-; no others are touched.

    The gateway addresses that this node holds are removed too, and nfagent's routing rules and routes.

    Afterwards nfagent denies no connection and masquerades nothing on this node. The saved last good versions of
    objects are deleted too: the next start enforces only what it can read then. Refused while an agent runs. Needs
    root.
    """
    from nfagent.checkpoint.store import delete_checkpoints
    from nfagent.cli.output import emit, write_lines

    settings = settings_of(config)
    removed, frames, gateways, iptables = _removed_from_kernel()
    socket = _removed_socket(settings.socket_path)
    state = settings.state_dir if delete_checkpoints(Path(settings.state_dir)) else None
    if output == "text":
        write_lines(_text(removed, socket, state, frames=frames, gateways=gateways, iptables=iptables))
    else:
        emit(
            {
                "table": removed,
                "frames": frames,
                "iptables": iptables,
                "gateways": {"addresses": gateways[0], "rules": gateways[1]},
                "socket": socket,
                "state": state,
            },
            output,
        )


def _removed_from_kernel() -> tuple[dict[str, int] | None, bool, tuple[int, int], dict[str, Any] | None]:
    """Delete both tables, our rules of iptables, and what gateways need.

    Return the object counts of table inet, None without it, empty where nft can't list it; whether table bridge
    existed; the numbers of addresses and of routing rules; the object counts in iptables, None without any.
    """
    import msgspec

    from nfagent.cli.output import write_remark
    from nfagent.errors import UnlistableError, UsageError
    from nfagent.kernel.backend_choice import has_nf_tables
    from nfagent.kernel.backend_switch import remove_xt_rules
    from nfagent.kernel.bridge_table import remove_bridge_table
    from nfagent.kernel.gateway_links import remove_gateway_links
    from nfagent.kernel.nft_client import NftClient
    from nfagent.kernel.table_lock import acquire_table, holder, holder_name, stop_command
    from nfagent.nftables.transaction import AddTable, Delete

    process = holder()
    if process is not None:
        raise UsageError(f"{holder_name(process)} enforces this table; stop it first: {stop_command(process)}")
    kernel = NftClient() if has_nf_tables() else None
    table_lock = acquire_table()  # no agent can start meanwhile
    table: dict[str, int] | None = None
    frames = False
    try:
        gateways = remove_gateway_links()
        if kernel is not None:
            try:
                found = kernel.read_now()
                table = _counts(found) if found.exists else None
            except UnlistableError as error:
                write_remark("warning", f"{error}; removed all the same")
                table = {}
            if table is not None:
                kernel.commit_now((AddTable(), Delete("table")))
            frames = remove_bridge_table(kernel)
        iptables = remove_xt_rules()
    finally:
        table_lock.close()
        if kernel is not None:
            kernel.close()
    counts: dict[str, Any] | None = msgspec.to_builtins(iptables) if iptables.chains or iptables.sets else None
    return table, frames, gateways, counts


def _counts(found: Ruleset) -> dict[str, int]:
    return {
        "chains": len(found.chains),
        "rules": sum(len(chain.rules) for chain in found.chains.values()),
        "sets": len(found.sets),
        "set_elements": sum(len(item.elements) for item in found.sets.values()),
        "maps": len(found.maps),
        "map_elements": sum(len(item.elements) for item in found.maps.values()),
        "counters": len(found.counters),
        "foreign": len(found.foreign),
    }


def _removed_socket(path: Path) -> str | None:
    """Delete the socket that a killed agent left; return its path, None without one."""
    from nfagent.introspection.agent_client import is_listening

    if not path.is_socket() or is_listening(path):
        return None
    path.unlink(missing_ok=True)
    return str(path)


def _text(
    removed: dict[str, Any] | None,
    socket: str | None,
    state: str | None,
    *,
    frames: bool,
    gateways: tuple[int, int],
    iptables: dict[str, Any] | None,
) -> list[str]:
    from nfagent.model.plurals import counted
    from nfagent.nftables.bridge_table import BRIDGE_TABLE
    from nfagent.nftables.objects import TABLE, TABLE_FAMILY

    table = f"table {TABLE_FAMILY} {TABLE}"
    if removed is None and iptables is not None:
        lines = []
    elif removed is None:
        lines = [f"nothing to remove: {table} does not exist"]
    elif not removed:
        lines = [f"removed {table}"]
    else:
        parts = [
            f"{counted(removed['chains'], 'chain')} with {counted(removed['rules'], 'rule')}",
            f"{counted(removed['sets'], 'set')} with {counted(removed['set_elements'], 'element')}",
            f"{counted(removed['maps'], 'verdict map')} with {counted(removed['map_elements'], 'element')}",
            counted(removed["counters"], "counter"),
        ]
        if removed["foreign"]:
            parts.append(f"{counted(removed['foreign'], 'object')} of other programs")
        lines = [f"removed {table}: {', '.join(parts)}"]
    if iptables is not None:
        chains, sets = counted(iptables["chains"], "chain"), counted(iptables["sets"], "ipset")
        lines.append(f"removed {chains} of iptables with {counted(iptables['rules'], 'rule')}, {sets}")
        lines += [f"left ipset {name}, which rules of another program refer to" for name in iptables["left"]]
    lines += [f"removed table {BRIDGE_TABLE}"] if frames else []
    if any(gateways):
        lines.append(f"removed {counted(gateways[0], 'gateway address')}, {counted(gateways[1], 'routing rule')}")
    lines += [f"removed {socket}, which no agent listened at"] if socket else []
    return lines + ([f"removed the saved last good objects in {state}"] if state else [])
