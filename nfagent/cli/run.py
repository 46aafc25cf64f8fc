"""`nfagent run`: the agent, until somebody stops it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfagent.cli.options import (
    allow_unknown_node_option,
    config_option,
    kubeconfig_option,
    manifests_option,
    node_option,
    settings_of,
)
from nfagent.model.printable import printable

if TYPE_CHECKING:
    from nfagent.system.stderr_log import StderrLog

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7
_SET_IN = "  | "
"""Before a line that no message begins: so no text in a traceback looks like a record."""


@click.command(epilog="Example: nfagent run --kubeconfig /etc/nfagent/kubeconfig --node node-a")
@manifests_option
@kubeconfig_option
@node_option
@allow_unknown_node_option
@config_option
def run(
    manifests: Path | None, kubeconfig: str, node: str, config: Path | None, *, allow_unknown_node: bool | None
) -> None:
    """Enforce what the cluster's API server says on this node, until stopped; or a folder of manifests.

    Both are followed as they change; SIGHUP reads everything again. SIGTERM and Ctrl-C leave the rules in force, and
    `nfagent cleanup` removes them. Needs root.
    """
    from nfagent.agent import Agent
    from nfagent.errors import KernelError, UsageError
    from nfagent.system.descriptors import raise_limit

    if manifests and kubeconfig:
        raise UsageError("objects come from one place: give --manifests or --kubeconfig, not both")
    settings = settings_of(config, manifests, node, kubeconfig, allow_unknown_node=allow_unknown_node)
    own_log = _log_to_stderr(settings.log_level)
    raise_limit()
    try:
        asyncio.run(Agent(settings).run())
    except KernelError as error:
        raise KernelError(str(error), hint="`nfagent check` shows what is missing") from None
    except BaseExceptionGroup as group:
        raise _plain(group) from group
    finally:
        own_log.flush()
        if own_log.waiting:
            # Whatever is still printed would wait for a reader who doesn't read.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _plain(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Give one error that says what several tasks said, where all of it is nfagent's own; the group otherwise."""
    from nfagent.errors import NfagentError

    leaves = _leaves(group)
    if not all(isinstance(leaf, NfagentError) for leaf in leaves):
        return group
    return leaves[0] if len(leaves) == 1 else NfagentError("; ".join(dict.fromkeys(map(str, leaves))))


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


def _log_to_stderr(level: str) -> StderrLog:
    from nfagent.system.stderr_log import StderrLog

    handler = StderrLog()
    handler.setFormatter(_JournalLines() if _is_journal() else _PlainLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("nfagent").setLevel(level.upper())
    return handler


def _is_journal() -> bool:
    """Tell whether stderr is the journal's stream: systemd.exec(5) says which one that is, as DEVICE:INODE."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        ours = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{ours.st_dev}:{ours.st_ino}"


class _Lines(logging.Formatter):
    """A record's lines: its message is one, whatever is in it; those of a traceback are set in."""

    def lines(self, record: logging.LogRecord) -> Iterator[str]:
        """Give the lines, the message first."""
        yield printable(record.getMessage())
        traceback = self.formatException(record.exc_info) if record.exc_info else ""
        for line in traceback.splitlines():
            yield f"{_SET_IN}{printable(line)}"


class _PlainLines(_Lines):
    """`13:37:00 info message`, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        return f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower()} " + "\n".join(self.lines(record))


class _JournalLines(_Lines):
    """`<6>message`, every line with its priority: sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        priority = next((number for least, number in _PRIORITIES if record.levelno >= least), _DEBUG_PRIORITY)
        return "\n".join(f"<{priority}>{line}" for line in self.lines(record))
