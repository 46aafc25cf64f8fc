"""click commands: parse, call, print.

May import: everything below, and of the lab what `nfagent lab` starts. A command's module is imported when that
command runs, and imports what it uses when it uses it: `nfagent --help` loads nothing but click.
Promises: exit code 0 is yes, 1 is no (denied, drift, refused input), 2 is usage, failure or not known; an answer goes
to stdout, everything said about it to stderr; every error says what to do next.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import cast

import click

COMMANDS = {
    "run": ("run", "Enforce what the API server, or a folder, says."),
    "render": ("render", "Show what would be loaded, as nft text; needs no root."),
    "dump": ("dump", "Show what the agent knows, wants, and has in the kernel."),
    "explain": ("explain", "Say why a connection is allowed or denied."),
    "try": ("try_", "Say what a change of policies would deny or allow."),
    "logs": ("logs", "Show the verdict log: who was allowed, who was denied."),
    "check": ("check", "Check that this node can run nfagent."),
    "cleanup": ("cleanup", "Remove the rules that an agent left in force."),
    "lab": ("lab", "Try nfagent on nodes made of network namespaces."),
}
"""Command -> its module in this package, with a click command of the module's name; what the listing says of it."""

INTERRUPTED = 130
_COMPLETION = "_NFAGENT_COMPLETE"


class _Commands(click.Group):
    """Commands that are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Name the commands, in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        name, _ = COMMANDS[cmd_name]
        return cast("click.Command", getattr(import_module(f"{__name__}.{name}"), name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant; an unknown one is answered with the listing's names."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}; there are {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


def _show_version(ctx: click.Context, _parameter: click.Parameter, asked: object) -> None:
    if asked:
        from nfagent import __version__

        click.echo(f"nfagent {__version__}")
        ctx.exit()


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: nfagent render --manifests examples/demo --node node-a",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def nfagent() -> None:
    """Keep this node's nftables equal to what the cluster's NetworkPolicies say."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, the process's own without `arguments`; ends with SystemExit."""
    sys.exit(_guarded(lambda: _called(arguments)))


def _called(arguments: Sequence[str] | None) -> int:
    if _COMPLETION in os.environ:
        nfagent.main(prog_name="nfagent")  # ends the process: the shell asked for completions
    # Not by click's own main, whose exit code 1 for a reader that went away would mean "no" here.
    try:
        with nfagent.make_context("nfagent", list(sys.argv[1:] if arguments is None else arguments)) as context:
            nfagent.invoke(context)
        code = 0
    except click.exceptions.Exit as end:
        code = end.exit_code
    sys.stdout.flush()  # here, where a reader that went away is still understood
    return code


def _guarded(call: Callable[[], int]) -> int:
    try:
        return call()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        from nfagent.cli.output import remark

        remark("error", " ".join(error.format_message().split()))
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"see: {error.ctx.command_path} --help", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered would be written when Python ends, and complained about there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    except Exception as error:
        from nfagent.cli.output import remark
        from nfagent.errors import NfagentError

        if not isinstance(error, NfagentError):
            raise
        remark("error", error)
        return 2
