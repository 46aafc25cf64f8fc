"""`nfagent dump`: views of the cluster, of the desired ruleset, and of the kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nfagent.cli.options import (
    color_option,
    config_option,
    manifests_option,
    namespace_option,
    node_option,
    output_option,
    pod_option,
    settings_of,
    view_settings_of,
)

VIEWS = ("state", "policies", "ruleset", "kernel", "diff", "counters", "syncs")
_RULESETS = ("ruleset", "kernel")


@click.command(epilog="Example: nfagent dump policies --pod shop/db")
@click.argument("view", type=click.Choice(VIEWS), default="state", metavar="[VIEW]")
@namespace_option
@pod_option
@click.option("-A", "--all-nodes", is_flag=True, help="Of the state, Pods of other nodes too.")
@manifests_option
@node_option
@config_option
@color_option
@output_option("text", "json", "yaml", "nft")
@click.pass_context
def dump(  # noqa: PLR0913 - one argument for each option
    context: click.Context,
    *,
    view: str,
    namespace: str,
    pod: str,
    all_nodes: bool,
    manifests: Path | None,
    node: str,
    config: Path | None,
    output: str,
) -> None:
    """Show the cluster, the desired ruleset or the kernel, as one of these views.

    \b
    state     nodes, Pods here, masquerade, problems of the input  (the default)
    policies  every policy: the Pods that it selects on this node, and its rules
    ruleset   the desired ruleset
    kernel    the ruleset in the kernel
    diff      the commands that make them equal; exit code 1 where they differ
    counters  packets and bytes by policy, direction and verdict; other drops
    syncs     how long the running agent's last changes took, step by step

    The running agent answers; with --manifests, or where no agent runs, the manifests and the kernel do.
    Exit code 2: part of the answer isn't known here, or -n or --pod matches nothing; stderr has the reason.
    """  # noqa: D301 - \b is click's: keep these lines as they are
    from nfagent.cli.backends import find_backend
    from nfagent.cli.output import emit, write_freshness, write_remark, write_text
    from nfagent.errors import UsageError
    from nfagent.introspection.view_filter import ViewFilter
    from nfagent.model.plurals import counted
    from nfagent.model.printable import printable

    if view == "syncs":
        from nfagent.cli.dump_syncs import dump_syncs

        dump_syncs(settings_of(config, None, node), output, narrowed=bool(namespace or pod or manifests))
        return
    if output == "nft" and view not in {*_RULESETS, "diff"}:
        raise UsageError(f"-o nft is for ruleset, kernel and diff; {view} has -o text, json and yaml")
    backend = find_backend(view_settings_of(config, manifests, node), from_files=manifests is not None)
    form = "objects" if output in {"json", "yaml"} else output
    pods = "here" if view == "state" and not all_nodes else ""
    content = backend.view(view, ViewFilter(namespace, pod, form if view in _RULESETS else "", pods))
    if output in {"json", "yaml"}:
        emit(_objects(content) if view in _RULESETS else content, output)
    elif view in _RULESETS:
        write_text(content[output])
    elif output == "nft":
        write_text("".join(f"{printable(command)}\n" for command in content["commands"]))
    else:
        _write_text(view, content)
    if view in _RULESETS and content["nothing"]:
        write_remark("note", content["nothing"])
    if content.get("elsewhere"):
        write_remark("note", f"{counted(content['elsewhere'], 'Pod')} of other nodes not listed; -A lists them")
    known = write_freshness(content)
    context.exit((1 if view == "diff" and not content["equal"] else 0) if known else 2)


def _objects(content: dict[str, Any]) -> dict[str, Any]:
    """Return a ruleset's objects beside the fields that every view begins with."""
    return {**{key: value for key, value in content.items() if key != "objects"}, **content["objects"]}


def _write_text(view: str, content: dict[str, Any]) -> None:
    import msgspec

    from nfagent.cli import dump_text
    from nfagent.cli.output import write_lines, write_whole
    from nfagent.introspection.agent_status import AgentStateView
    from nfagent.introspection.answer_format import answer_format
    from nfagent.introspection.diff_report import DiffView
    from nfagent.introspection.views import CountersView, PoliciesView

    commands: list[str] = []
    with answer_format(f"the running agent's view {view} has"):
        match view:
            case "state":
                lines = dump_text.state(msgspec.convert(content, AgentStateView))
            case "policies":
                lines = dump_text.policies(msgspec.convert(content, PoliciesView))
            case "counters":
                lines = dump_text.counters(msgspec.convert(content, CountersView))
            case _:
                difference = msgspec.convert(content, DiffView)
                lines, commands = dump_text.differences(difference), dump_text.commands(difference)
    write_lines(lines)
    if commands:
        write_whole(commands)
