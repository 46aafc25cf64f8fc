"""`nfagent try`: the connections that a policy change would deny or allow, and Pods that are seen otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfagent.cli.options import (
    config_option,
    manifests_option,
    namespace_option,
    node_option,
    output_option,
    pod_option,
    view_settings_of,
)

if TYPE_CHECKING:
    from nfagent.simulate.job import SimulationPart

_LONG = 5000
"""Flows from which on a progress bar is shown."""


def _since(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    from nfagent.cli.log_times import parse_ago

    return None if value is None else parse_ago(value)


@click.command(
    "try",
    epilog="""\b
Example: nfagent try -f deny-all.yaml --since 1d
         nfagent try -f policies/ --pods -n shop
         nfagent try -f policies/ --pods --pod shop/web-1
         nfagent try --delete -f deny-all.yaml -o json""",
)
@click.option(
    "-f",
    "--filename",
    "files",
    metavar="FILE",
    multiple=True,
    required=True,
    help="Policy file or folder; - for stdin.",
)
@click.option("--delete", is_flag=True, help="Remove these policies instead of applying them.")
@click.option("--since", metavar="SPAN", callback=_since, help="Only the last 90s, 5m, 1h30m or 2d of the log.")
@click.option("--pods", is_flag=True, help="Evaluate all pairs of Pods too, on every port that rules tell apart.")
@namespace_option
@pod_option
@click.option(
    "--log", metavar="PATH", type=click.Path(path_type=Path, readable=False), help="Read this verdict log instead."
)
@manifests_option
@node_option
@config_option
@output_option("text", "json", "yaml")
@click.pass_context
def try_(  # noqa: PLR0913 - one argument for each option
    context: click.Context,
    *,
    files: tuple[str, ...],
    delete: bool,
    since: int | None,
    pods: bool,
    namespace: str,
    pod: str,
    log: Path | None,
    manifests: Path | None,
    node: str,
    config: Path | None,
    output: str,
) -> None:
    """Show what a policy change would deny, allow or translate otherwise. Nothing is applied.

    The connections are those of the verdict log, and with --pods all that Pods could open to each other; -n keeps
    those with an end in that namespace, --pod those of one Pod. Each is evaluated by the current policies, and by
    those after the change. Pods that none of these policies can tell apart are evaluated once, and shown together.

    Files hold NetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy and ClusterNetworkPolicy objects; each
    replaces the policy of its name, or is added. With --delete, only the names count.

    They may hold EgressNATPolicy and NetworkGatewayGroup objects and the ConfigMap kube-system/ip-masq-agent too:
    for these, a table shows which Pods outside hosts would see under another address, or no longer; -n keeps those
    of that namespace. Another table shows the policies that would begin or cease to disagree about a destination,
    in the whole cluster.

    The log of a node has connections of its own Pods, if policies select these Pods and the NetworkLogging object
    `default` has them logged.

    Exit code 0: no connection that is allowed now would be denied; 1: at least one would.
    """
    from nfagent.cli.backends import find_backend
    from nfagent.cli.log_flows import read_log, write_log_remarks
    from nfagent.cli.output import emit, write_lines, write_problems
    from nfagent.cli.try_report import summary, text, translations_text, view, write_result_remarks
    from nfagent.errors import HostError
    from nfagent.manifests.policy_file_reader import decode_policies, read_policy_files
    from nfagent.simulate.job import SimulationRequest

    asked = SimulationRequest(read_policy_files(files), delete, pods, namespace, pod)
    settings = view_settings_of(config, manifests, node)
    backend = find_backend(settings, from_files=manifests is not None)
    judges = bool(decode_policies(asked.files).policies)
    logged = read_log(log or settings.verdict_log, since, namespace, pod, needed=judges and not pods)
    parts = list(_watched(backend.simulate(asked, logged.logged.flows)))
    changes = [change for part in parts for change in part.changes]
    problems = [problem for part in parts for problem in part.problems]
    result = next((part.outcome for part in parts if part.outcome is not None), None)
    if result is None:
        raise HostError("the agent stopped before its answer was complete", hint="see: systemctl status nfagent")
    if result.pod != pod:
        raise HostError(
            "the running agent is older than this command: it doesn't know --pod", hint="systemctl restart nfagent"
        )
    if output == "text":
        write_lines([*text(changes), *translations_text(result.egress), *summary(result)])
    else:
        emit(view(changes, result, logged, problems), output)
    write_problems(problems)
    if judges:
        write_log_remarks(logged)
    write_result_remarks(result)
    context.exit(1 if any(change.after == "denied" for change in changes) else 0)


def _watched(parts: Iterable[SimulationPart]) -> Iterator[SimulationPart]:
    """Show a progress bar for a long simulation, on a terminal."""
    with ExitStack() as shown:
        bar = None
        for part in parts:
            if bar is None and part.total >= _LONG and sys.stderr.isatty():
                bar = shown.enter_context(click.progressbar(length=part.total, label="evaluating", file=sys.stderr))
            if bar is not None:
                bar.update(part.done - bar.pos)
            yield part
