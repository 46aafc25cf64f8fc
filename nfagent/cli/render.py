"""`nfagent render`: the desired ruleset of a node, from manifests."""

from __future__ import annotations

from pathlib import Path

import click

from nfagent.cli.options import (
    FOLDER_HINT,
    config_option,
    manifests_option,
    node_option,
    output_option,
    view_settings_of,
)


@click.command(epilog="Example: nfagent render --manifests examples/demo --node node-a -o nft")
@manifests_option
@node_option
@config_option
@output_option("text", "nft", "json", "yaml")
@click.pass_context
def render(context: click.Context, manifests: Path | None, node: str, config: Path | None, output: str) -> None:
    """Show the ruleset that nfagent would load on a node, as nft text.

    Needs no root and changes nothing. `-o text` names the Pods behind addresses; `-o nft` is input for `nft -f`.

    Exit code 1: some objects were refused; the ruleset shown is that of the rest, as the agent would enforce it.
    """
    from nfagent.cli.backends import FolderBackend
    from nfagent.cli.output import emit, write_problems, write_text
    from nfagent.errors import UsageError
    from nfagent.introspection.views import annotation, ruleset_view

    settings = view_settings_of(config, manifests, node)
    if not settings.manifests:
        raise UsageError(f"no manifests to render; {FOLDER_HINT}")
    answers = FolderBackend(settings)
    view = ruleset_view(answers.desired.ruleset(), annotation(answers.desired))
    if output in {"text", "nft"}:
        write_text(view[output])
    else:
        emit(view["objects"], output)
    if write_problems(answers.problems):
        context.exit(1)
