"""`nfagent check`: is this node able to run nfagent, and does anything on it stand in the way."""

from __future__ import annotations

from pathlib import Path

import click

from nfagent.cli.options import config_option, output_option


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
    from nfagent.cli.tables import line, paint, table, widths

    rows = [[item.name, paint(item.result), item.found] for item in found]
    header, *lines = table(("check", "result", "found"), rows)
    columns = widths([("check", "result"), *([item.name, item.result] for item in found)])
    shown = [header]
    for item, text in zip(found, lines, strict=True):
        shown.append(text)
        if item.mend:
            shown.append(line(["", "", f"to mend: {item.mend}"], columns + [0]).replace("-", " ", 2))
    return shown
