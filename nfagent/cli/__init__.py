"""click commands: parse, call, print.

May import: everything below, and from the lab what `nfagent lab` starts. The module of a command is imported when the
command runs, and imports the rest inside its function: `nfagent --help` loads nothing but click.
Invariants: exit code 0 is yes, 1 is no (denied, drift, refused input), 2 is wrong usage, a failure or unknown; the
answer goes to stdout, remarks about it to stderr; every error says what to do next.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import cast

import click

COMMANDS = {
    "run": ("run", "Enforce the policies of the cluster or of a folder of manifests."),
    "render": ("render", "Show the ruleset of a node as nft text; needs no root."),
    "status": ("status", "Show whether all is well on this node, in ten lines."),
    "dump": ("dump", "Show the agent's state, the desired ruleset and the kernel's."),
    "explain": ("explain", "Explain why a connection is allowed or denied."),
    "try": ("try_", "Show which connections a policy change would deny or allow."),
    "matrix": ("matrix", "Show which Pods reach which, by the policies in force."),
    "logs": ("logs", "Show the verdict log: allowed and denied connections."),
    "top": ("top", "Show Pods and policies by packets allowed and denied, live."),
    "ui": ("ui", "Serve a live page for a browser: verdicts, who talks to whom."),
    "check": ("check", "Check that this node can run nfagent."),
    "bundle": ("bundle", "Write state, rules and logs into one file, without secrets."),
    "config": ("config_", "Show every setting, and where its value comes from."),
    "restore": ("restore", "Load the saved ruleset; nfagent-early.service runs it at a boot."),
    "cleanup": ("cleanup", "Remove the rules that a stopped agent left in force."),
    "lab": ("lab", "Try nfagent on nodes made of network namespaces."),
    "completion": ("completion", "Print the completion script of a shell."),
}
"""Command -> its module in this package, which has a click command of the module's name; its line in `--help`."""

INTERRUPTED = 130
_LEAST_OF_CLICK, _LEAST_HELP = 50, 30
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of writing to stdout, where it is a file."""

COMPLETION = "_NFAGENT_COMPLETE"
"""The environment variable by which a shell's completion script calls the command."""


class _Commands(click.Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands, in the order in which a new user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        name, _ = COMMANDS[cmd_name]
        return cast("click.Command", getattr(import_module(f"{__name__}.{name}"), name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the arguments; the error for an unknown one says what was meant, and lists all."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 1)
            meant = f"did you mean {near[0]}? There are " if near else "there are "
            ctx.fail(f"there is no command {args[0]!r}; {meant}{', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


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
    """Enforce Kubernetes NetworkPolicies on this node with nftables."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, by default that of the process. Raises SystemExit."""
    _open_closed()
    sys.exit(_guarded(lambda: _called(arguments)))


def _open_closed() -> None:
    """Open /dev/null where a standard stream is closed (`>&-`): the exit code stays, and no socket takes its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def _called(arguments: Sequence[str] | None) -> int:
    if COMPLETION in os.environ:
        nfagent.main(prog_name="nfagent")  # prints completions for the shell, and ends the process
    # click's own main ends with 1 where the reader of stdout has gone; 1 means "no" here.
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        with nfagent.make_context("nfagent", words, terminal_width=_narrow_width()) as context:
            nfagent.invoke(context)
        code = 0
    except click.exceptions.Exit as end:
        code = end.exit_code
    sys.stdout.flush()  # here, where BrokenPipeError is still handled
    return code


def _narrow_width() -> int | None:
    """Return the width of help where the terminal is narrower than click's own least, 50 columns."""
    columns = shutil.get_terminal_size().columns
    return max(columns, _LEAST_HELP) if columns <= _LEAST_OF_CLICK else None


def _unwritten(error: OSError) -> int:
    """Return the exit code where stdout can't be written: its reader has gone, or its disk is full. Raises others."""
    gone = isinstance(error, BrokenPipeError)
    if not gone and (error.filename is not None or error.errno not in _FULL):
        raise error
    # Python would flush the rest of the buffer at exit, and report the error again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if gone:
        return INTERRUPTED
    from nfagent.cli.output import write_remark

    write_remark("error", f"the output can't be written: {error.strerror}")
    return 2


def _guarded(call: Callable[[], int]) -> int:
    try:
        return call()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        from nfagent.cli.output import write_remark

        write_remark("error", " ".join(error.format_message().split()))
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"see: {error.ctx.command_path} --help", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except OSError as error:
        return _unwritten(error)
    except Exception as error:
        from nfagent.cli.output import write_remark
        from nfagent.errors import NfagentError

        if not isinstance(error, NfagentError):
            raise
        write_remark("error", error)
        return 2
