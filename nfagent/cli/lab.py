"""`nfagent lab`: nfagent on nodes made of network namespaces."""

from __future__ import annotations

from typing import Literal

import click

from nfagent.cli.options import output_option


@click.group(epilog="Example: nfagent lab demo")
def lab() -> None:
    """Try nfagent on nodes made of network namespaces, on this machine; needs root."""


@lab.command(epilog="Example: nfagent lab demo")
@output_option("text", "json")
@click.pass_context
def demo(context: click.Context, output: Literal["text", "json"]) -> None:
    """Show the whole of it in a minute: policy, masquerade, verdict log, explain, repair.

    Two nodes, their Pods and a host outside; an agent on each node; everything is removed at the end.
    """
    from nfagent.lab.demo import run_demo

    context.exit(run_demo(output=output))
