"""`nfagent lab`: nfagent on nodes made of network namespaces."""

from __future__ import annotations

from typing import Literal

import click

from nfagent.cli.lab_report import report_command
from nfagent.cli.options import output_option


@click.group(epilog="Example: nfagent lab demo")
def lab() -> None:
    """Try nfagent on nodes made of network namespaces, on this machine; needs root."""


@lab.command(epilog="Example: nfagent lab demo")
@output_option("text", "json")
@click.pass_context
def demo(context: click.Context, output: Literal["text", "json"]) -> None:
    """Run a tour of one minute: policy, masquerade, verdict log.

    It shows `explain` and the repair of a changed ruleset too, on two nodes with Pods and an agent each, and a host
    outside the cluster. Everything is removed at the end.
    """
    from nfagent.lab.demo import run_demo

    context.exit(run_demo(output=output))


lab.add_command(report_command)
