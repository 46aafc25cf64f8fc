"""`nfagent lab check`: what this machine can run of the lab, and what it lacks."""

from __future__ import annotations

import click

from nfagent.cli.options import output_option


@click.command(epilog="Example: sudo nfagent lab check")
@output_option("text", "json")
@click.pass_context
def check(context: click.Context, *, output: str) -> None:
    """Check what of the lab this machine can run; for what is missing, the command that fixes it.

    Exit code 0: the commands of the lab can run, by nftables and by eBPF (warnings are about single options); 2: one
    can't.
    """
    from nfagent.cli.check import show_checks
    from nfagent.lab.check import lab_checks

    able, unable = "this machine can run the lab", "this machine can't run all of the lab yet"
    show_checks(context, lab_checks(), output, able=able, unable=unable)
