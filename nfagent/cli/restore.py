"""`nfagent restore`: the saved ruleset, into the kernel of a node that boots."""

from __future__ import annotations

from pathlib import Path

import click

from nfagent.cli.options import config_option, node_option, output_option, settings_of


@click.command(epilog="Example: nfagent restore --config /etc/nfagent/nfagent.toml")
@node_option
@config_option
@output_option("text", "json", "yaml")
@click.pass_context
def restore(context: click.Context, *, node: str, config: Path | None, output: str) -> None:
    """Load the ruleset that the agent saved, where the kernel has no table inet nfagent.

    nfagent-early.service runs it when the node boots, before its network. A table that exists is left as it is, and
    nothing is touched while an agent runs. The saved ruleset is used where it is whole, of this node, of a known table
    layout, not older than boot.max_age_seconds, and boot.save_ruleset is true. With policy.unknown_pods = "held", all
    Pods are held until the agent has read the cluster, also where the saved ruleset isn't used. Needs root.

    Exit code 0: restored, or there is nothing to restore; 1: the saved ruleset is refused; 2: failure.
    """
    import logging

    import msgspec

    from nfagent.checkpoint.restore_result import write_result
    from nfagent.checkpoint.ruleset_file import ruleset_path
    from nfagent.cli.output import emit, write_lines, write_remark
    from nfagent.errors import HostError
    from nfagent.restore import restore as restore_ruleset

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    settings = settings_of(config, node=node)
    result = restore_ruleset(settings)
    if result.rules not in {"present", "running"}:
        try:
            write_result(settings.runtime_dir, result)
        except HostError as error:
            write_remark("warning", error)
    if result.reason:
        write_remark("warning", f"the saved ruleset is not restored: {result.reason}")
    if output == "text":
        write_lines([f"enforced until the agent has read the cluster: {result}"])
    else:
        emit(msgspec.to_builtins(result), output)
    if result.reason and settings.boot.save_ruleset and ruleset_path(settings.state_dir).exists():
        context.exit(1)
