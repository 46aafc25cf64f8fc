"""Options that several commands of `nfagent lab` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


Driver: TypeAlias = Literal["netns", "vagrant"]


def driver_option(command: _Command) -> _Command:
    """`--driver DRIVER`."""
    help_text = "Nodes as network namespaces of this machine, or as virtual machines that Vagrant starts."
    return click.option(
        "--driver", type=click.Choice(["netns", "vagrant"]), default="netns", show_default=True, help=help_text
    )(command)


def name_option(command: _Command) -> _Command:
    """`--name NAME`."""
    return click.option("--name", metavar="NAME", default="lab", show_default=True, help="The lab's name.")(command)
