"""`nfagent check`: is this node able to run nfagent, and does anything on it stand in the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfagent.cli.options import config_option, output_option

if TYPE_CHECKING:
    from nfagent.cli.checks import Check


@click.command(epilog="Example: sudo nfagent check")
@config_option
@output_option("text", "json", "yaml")
@click.pass_context
def check(context: click.Context, config: Path | None, output: str) -> None:
    """Check that this node can run nfagent, and that nothing on it stands in the way.

    Every line says what was found and, where something is amiss, the command that mends it.

    Exit code 0: able, warnings or not; 2: not able.
    """
    import msgspec

    from nfagent.cli.checks import ABLE, run_checks
    from nfagent.cli.output import emit, say

    found = run_checks(config)
    able = all(item.result in ABLE for item in found)
    if output == "text":
        say([*_text(found), "", "this node can run nfagent" if able else "this node can't run nfagent yet"])
    else:
        emit({"able": able, "checks": msgspec.to_builtins(found)}, output)
    context.exit(0 if able else 2)


def _text(found: list[Check]) -> list[str]:
    from nfagent.cli.tables import paint, table

    header, *rows = table(("check", "result", "found"), ([item.name, paint(item.result), item.found] for item in found))
    indent = " " * click.unstyle(header).index("FOUND")
    shown = [header]
    for item, row in zip(found, rows, strict=True):
        shown += [row, f"{indent}to mend: {item.mend}"] if item.mend else [row]
    return shown
