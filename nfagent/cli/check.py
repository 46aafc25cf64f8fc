"""`nfagent check`: checks whether this node, and its cluster, can run nfagent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfagent.cli.options import (
    backend_option,
    config_option,
    kubeconfig_option,
    manifests_option,
    node_option,
    output_option,
)

if TYPE_CHECKING:
    from nfagent.cli.check_result import Check

_PREFIX = "fix: "
_PROGRAMS = {
    "apt-get",
    "chmod",
    "ip",
    "iptables",
    "journalctl",
    "kubectl",
    "mkdir",
    "modprobe",
    "nfagent",
    "nft",
    "sudo",
    "sysctl",
    "systemctl",
}
"""What a fix begins with that is a command."""
_LEAST_ROOM = 48
"""A fix with less room than this beside the names of checks begins at the left."""
_NARROW_INDENT = 2


@click.command(epilog="Example: sudo nfagent check --cluster --kubeconfig /etc/nfagent/kubeconfig")
@click.option(
    "--cluster",
    is_flag=True,
    help="Also check the API server: credentials, permissions, CRDs, and this node's Node and Pods.",
)
@manifests_option
@kubeconfig_option
@node_option
@backend_option
@config_option
@output_option("text", "json", "yaml")
@click.pass_context
def check(
    context: click.Context,
    *,
    cluster: bool,
    manifests: Path | None,
    kubeconfig: str,
    node: str,
    backend: str | None,
    config: Path | None,
    output: str,
) -> None:
    """Check that this node can run nfagent.

    Each line has a result (ok, warn, FAIL), what was found and, for a problem, the command or the step that fixes
    it. No rule is changed. With iptables rules are tried for a moment where no packet comes by; tables of
    iptables-legacy that come to be by that are named. With --manifests, the objects of that folder are checked too.

    Where an agent runs, its settings and its source of objects are those that are checked.

    Exit code 0: no check failed (warnings are allowed); 2: a check failed.
    """
    from nfagent.cli.check_host import run_checks
    from nfagent.cli.check_settings import objects_check, read_settings
    from nfagent.errors import UsageError

    if manifests and (kubeconfig or cluster):
        other = "kubeconfig" if kubeconfig else "cluster"
        raise UsageError(f"--manifests and --{other} exclude each other; give one of them")
    flags = {"manifests": str(manifests or ""), "kubeconfig": kubeconfig, "node": node, "backend": backend}
    checked = read_settings(config, flags)
    settings = checked.settings
    found = [*checked.checks, objects_check(checked, cluster=cluster)]
    if manifests and found[-1].result == "ok":
        from nfagent.cli.check_manifests import manifest_checks

        found += manifest_checks(settings)
    found += run_checks(settings)
    if cluster:
        from nfagent.cli.check_cluster import run_cluster_checks

        found += run_cluster_checks(settings)
    show_checks(context, found, output, able="this node can run nfagent", unable="this node can't run nfagent yet")


def show_checks(context: click.Context, found: list[Check], output: str, *, able: str, unable: str) -> None:
    """Write checks and their outcome, and exit: with 0 where none failed, else with 2."""
    import msgspec

    from nfagent.cli.output import emit, write_whole

    is_able = all(item.result != "FAIL" for item in found)
    if output == "text":
        # These fit already, as far as commands can be broken.
        write_whole([*check_lines(found), "", able if is_able else unable])
    else:
        emit({"able": is_able, "checks": msgspec.to_builtins(found)}, output)
    context.exit(0 if is_able else 2)


def check_lines(found: list[Check]) -> list[str]:
    """Return the lines of a table of checks, with the fixes below them."""
    from nfagent.cli.tables import blocks, paint, plain

    rows = ([item.name, paint(item.result), item.found] for item in found)
    header, *body = blocks(("check", "result", "found"), rows)
    indent = plain(header[0]).index("FOUND") if len(header) == 1 else 0
    shown = [*header]
    for number, (item, block) in enumerate(zip(found, body, strict=True)):
        shown += block
        # A fix that several lines in a row share is shown once, below the last of them.
        if item.fix and item.fix not in {later.fix for later in found[number + 1 : number + 2]}:
            shown += _fix_lines(item.fix, indent)
    return shown


def _fix_lines(fix: str, indent: int) -> Iterator[str]:
    """Yield the lines of a fix; commands stay such as can be pasted."""
    from nfagent.cli.tables import broken, terminal_width
    from nfagent.cli.wrapping import command_lines
    from nfagent.model.printable import printable

    width = terminal_width()
    if width is not None and width - indent < _LEAST_ROOM:
        indent = _NARROW_INDENT
    begin = " " * indent + _PREFIX
    for line in map(printable, fix.splitlines()):
        parts = [line]
        if width is not None:
            lines = command_lines if line.partition(" ")[0] in _PROGRAMS else broken
            parts = lines(line, max(1, width - len(begin)))
        for part in parts:
            yield begin + part
            begin = " " * len(begin)
