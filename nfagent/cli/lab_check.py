"""`nfagent lab check`: what this machine can run of the lab, and what it lacks."""

from __future__ import annotations

import click

from nfagent.cli.options import output_option


@click.command(epilog="Example: sudo nfagent lab check")
@output_option("text", "json")
@click.pass_context
def check(context: click.Context, *, output: str) -> None:
    """Check what of the lab this machine can run; for what is missing, the command that fixes it.

    Exit code 0: up, demo and latency can run, by nftables and by eBPF; 2: something of it can't.
    """
    import msgspec

    from nfagent.cli.output import emit, write_lines
    from nfagent.cli.tables import paint, table
    from nfagent.lab.lab_check import lab_checks

    found = lab_checks()
    if output == "json":
        emit(msgspec.to_builtins(found), output)
    else:
        results = {True: "warn", False: "FAIL"}
        rows = [
            [item.name, paint(results[item.optional] if item.lack else "ok"), item.needed_by, item.lack]
            for item in found
        ]
        write_lines(table(("check", "result", "needed by", "found"), rows))
    context.exit(0 if not any(item.lack for item in found if not item.optional) else 2)
