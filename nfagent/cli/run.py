"""`nfagent run`: the agent, until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfagent.cli.options import config_option, flag_options, flag_values

if TYPE_CHECKING:
    from nfagent.settings_parts import SettingsParts


@click.command(epilog="Example: nfagent run --kubeconfig /etc/nfagent/kubeconfig --node node-a")
@flag_options
@config_option
def run(*, config: Path | None, **flags: Any) -> None:  # noqa: ANN401 - those of flag_options
    """Enforce the policies of the cluster, or of a folder of manifests, on this node until stopped.

    The API server, or the folder, is watched for changes; SIGHUP reads everything again, the settings too, and the
    log says what that changed. SIGTERM and Ctrl-C leave the rules in force; `nfagent cleanup` removes them. Needs root.
    """
    from nfagent.errors import NfagentError, UsageError
    from nfagent.loaded_settings import load_with_origins
    from nfagent.settings_parts import SettingsParts
    from nfagent.system.descriptors import raise_limit
    from nfagent.system.gc_tuning import limit_free_memory
    from nfagent.system.own_log import OwnLog

    if flags["manifests"] and flags["kubeconfig"]:
        raise UsageError("--manifests and --kubeconfig exclude each other; give one of them")
    limit_free_memory()
    own_log = OwnLog()  # whose thread is the first one
    settings = SettingsParts(partial(load_with_origins, config, flags=flag_values(flags)), own_log)
    own_log.start(settings.current.log_level, settings.current.log_format)
    settings.announce()
    raise_limit()
    try:
        _enforce(settings)
    except NfagentError as error:
        if settings.current.log_format != "json":
            raise
        logging.getLogger("nfagent").error("%s", error)
        raise click.exceptions.Exit(2) from None
    finally:
        if not own_log.finish():
            # Nothing reads stderr: anything printed from here on would block.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _enforce(settings: SettingsParts) -> None:
    """Run the agent. Raises NfagentError."""
    from nfagent.agent import Agent
    from nfagent.errors import KernelError
    from nfagent.system.threads import AgentLoop

    try:
        with asyncio.Runner(loop_factory=AgentLoop) as runner:
            runner.run(Agent(settings.current, settings).run())
    except KernelError as error:
        raise KernelError(str(error), hint="`nfagent check` shows what is missing") from None
    except BaseExceptionGroup as group:
        raise _plain(group) from group


def _plain(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one error for those of several tasks, where all are NfagentErrors; the group otherwise."""
    from nfagent.errors import NfagentError, leaves

    found = leaves(group)
    if not all(isinstance(leaf, NfagentError) for leaf in found):
        return group
    return found[0] if len(found) == 1 else NfagentError("; ".join(dict.fromkeys(map(str, found))))
