"""`nfagent render`: the desired ruleset of a node, from manifests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from nfagent.cli.options import (
    FOLDER_HINT,
    backend_option,
    config_option,
    manifests_option,
    node_option,
    output_option,
    view_settings_of,
)

if TYPE_CHECKING:
    from nfagent.introspection.views.xtables import XtForm
    from nfagent.nftables.objects import Ruleset
    from nfagent.xtables.options import LoweringOptions

_XT_FORMS = ("ipset", "iptables", "ip6tables")


@click.command(epilog="Example: nfagent render --manifests examples/demo --node node-a -o nft")
@manifests_option
@node_option
@config_option
@backend_option
@output_option("text", "nft", *_XT_FORMS, "json", "yaml")
@click.pass_context
def render(
    context: click.Context, *, manifests: Path | None, node: str, config: Path | None, backend: str | None, output: str
) -> None:
    """Show the ruleset that nfagent would load on a node, as nft text.

    Needs no root and changes nothing. `-o text` names the Pods behind addresses; `-o nft` is input for `nft -f`.

    With --backend iptables: the ipsets and the chains of iptables. `-o text` has all of it, for reading; `-o ipset` is
    input for `ipset restore`, `-o iptables` and `-o ip6tables` are for `iptables-restore --noflush` and its IPv6 kin.

    Exit code 1: some objects were refused; the ruleset shown is that of the rest, as the agent would enforce it.
    """
    from nfagent.cli.backends import FolderBackend
    from nfagent.cli.output import emit, write_problems, write_text
    from nfagent.config import lowering_options
    from nfagent.errors import UsageError
    from nfagent.introspection.views import annotation, ruleset_view

    settings = view_settings_of(config, manifests, node)
    is_iptables = (backend or settings.backend) == "iptables"
    if output in _XT_FORMS and not is_iptables:
        raise UsageError(f"-o {output} is for --backend iptables; that of nftables has -o text, nft, json and yaml")
    if output == "nft" and is_iptables:
        raise UsageError(f"-o nft is for --backend nftables; that of iptables has -o text, {', '.join(_XT_FORMS)}")
    if not settings.manifests:
        raise UsageError(f"no manifests to render; {FOLDER_HINT}")
    answers = FolderBackend(settings)
    if is_iptables:
        _render_iptables(answers.desired.ruleset(), lowering_options(settings.iptables), output)
    else:
        view = ruleset_view(answers.desired.ruleset(), annotation(answers.desired))
        if output in {"text", "nft"}:
            write_text(view[output])
        else:
            emit(view["objects"], output)
    if write_problems(answers.problems):
        context.exit(1)


def _render_iptables(ruleset: Ruleset, options: LoweringOptions, output: str) -> None:
    from nfagent.cli.output import emit, write_text
    from nfagent.introspection.views.xtables import xtables_input, xtables_objects, xtables_text
    from nfagent.xtables.lowering import lower

    lowered, unavailable = lower(ruleset, options)
    if output in {"json", "yaml"}:
        emit(xtables_objects(lowered, unavailable), output)
    elif output in _XT_FORMS:
        write_text(xtables_input(lowered, cast("XtForm", output)))
    else:
        write_text(xtables_text(lowered, unavailable))
