"""`nfagent completion`: prints the script by which a shell completes nfagent's commands and options."""

from __future__ import annotations

import click

_CHANGES = {
    # What ends with a slash goes on: no space behind it. fish has none there by itself.
    "bash": [
        (
            "\n    return 0\n",
            """
    if [[ ${#COMPREPLY[@]} == 1 && $COMPREPLY == */ ]]; then
        compopt -o nospace 2>/dev/null
    fi

    return 0
""",
        )
    ],
    "zsh": [
        (
            "compadd -U -V unsorted -a completions\n",
            """local -a unfinished=(${(M)completions:#*/})
        local -a finished=(${completions:#*/})
        compadd -U -V unsorted -S '' -a unfinished
        compadd -U -V unsorted -a finished
""",
        )
    ],
    # Descriptions have commas: only the first one ends the type.
    "fish": [('(string split "," $completion)', '(string split -m 1 "," $completion)')],
}
"""What differs from click's scripts."""


@click.command(epilog="Example: nfagent completion bash > /usr/local/share/bash-completion/completions/nfagent")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and their values in SHELL.

    The Debian package and `make install` install it for all three shells: a new shell has it. Otherwise:

    \b
    bash  eval "$(nfagent completion bash)"  in ~/.bashrc
    zsh   nfagent completion zsh > FOLDER/_nfagent, with a FOLDER of $fpath
    fish  nfagent completion fish > ~/.config/fish/completions/nfagent.fish

    Needs no root, no settings and no running agent.
    """  # noqa: D301 - \b is click's: keep these lines as they are
    from click.shell_completion import get_completion_class

    from nfagent.cli import COMPLETION
    from nfagent.cli.output import write_text

    found = get_completion_class(shell)
    if found is None:  # click has all three
        raise click.UsageError(f"click can't complete in {shell}")
    # The template by itself: `source()` asks the machine's own bash for its version, and a machine may have none.
    script = found(context.find_root().command, {}, "nfagent", COMPLETION)
    template = script.source_template
    for theirs, ours in _CHANGES[shell]:
        template = template.replace(theirs, ours)
    write_text(template % script.source_vars())
