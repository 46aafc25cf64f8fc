"""`nfagent run`: the agent, until it is stopped."""

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
    backend_option,
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
_INDENT = "  | "
"""Prefix of the lines of a traceback, so that none of them looks like a log line of its own."""


@click.command(epilog="Example: nfagent run --kubeconfig /etc/nfagent/kubeconfig --node node-a")
@manifests_option
@kubeconfig_option
@node_option
@allow_unknown_node_option
@backend_option
@config_option
def run(
    manifests: Path | None,
    kubeconfig: str,
    node: str,
    config: Path | None,
    backend: str | None,
    *,
    allow_unknown_node: bool | None,
) -> None:
    """Enforce the policies of the cluster, or of a folder of manifests, on this node until stopped.

    The API server, or the folder, is watched for changes; SIGHUP reads everything again. SIGTERM and Ctrl-C leave the
    rules in force; `nfagent cleanup` removes them. Needs root.
    """
    from nfagent.agent import Agent
    from nfagent.errors import KernelError, UsageError
    from nfagent.system.descriptors import raise_limit
    from nfagent.system.threads import AgentLoop

    if manifests and kubeconfig:
        raise UsageError("--manifests and --kubeconfig exclude each other; give one of them")
    settings = settings_of(config, manifests, node, kubeconfig, allow_unknown_node=allow_unknown_node, backend=backend)
    own_log = _log_to_stderr(settings.log_level)
    raise_limit()
    try:
        with asyncio.Runner(loop_factory=AgentLoop) as runner:
            runner.run(Agent(settings).run())
    except KernelError as error:
        raise KernelError(str(error), hint="`nfagent check` shows what is missing") from None
    except BaseExceptionGroup as group:
        raise _plain(group) from group
    finally:
        own_log.flush()
        if own_log.waiting:
            # Nothing reads stderr: anything printed from here on would block.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _plain(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one error for those of several tasks, where all are NfagentErrors; the group otherwise."""
    from nfagent.errors import NfagentError, leaves

    found = leaves(group)
    if not all(isinstance(leaf, NfagentError) for leaf in found):
        return group
    return found[0] if len(found) == 1 else NfagentError("; ".join(dict.fromkeys(map(str, found))))


def _log_to_stderr(level: str) -> StderrLog:
    from nfagent.system.stderr_log import StderrLog

    handler = StderrLog()
    handler.start()  # before others, which a limit of threads may refuse: that is to be said
    handler.setFormatter(_JournalLines() if _is_journal() else _PlainLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("nfagent").setLevel(level.upper())
    return handler


def _is_journal() -> bool:
    """Return whether stderr is the journal's stream: $JOURNAL_STREAM is its DEVICE:INODE, systemd.exec(5)."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        ours = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{ours.st_dev}:{ours.st_ino}"


class _Lines(logging.Formatter):
    """Formats a record: its message as one line, then the indented lines of a traceback."""

    def lines(self, record: logging.LogRecord) -> Iterator[str]:
        """Yield the lines, the message first."""
        yield printable(record.getMessage())
        traceback = self.formatException(record.exc_info) if record.exc_info else ""
        for line in traceback.splitlines():
            yield f"{_INDENT}{printable(line)}"


class _PlainLines(_Lines):
    """`13:37:00 info message`, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower()} " + "\n".join(self.lines(record))


class _JournalLines(_Lines):
    """`<6>message`, every line with its priority: sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        priority = next((number for least, number in _PRIORITIES if record.levelno >= least), _DEBUG_PRIORITY)
        return "\n".join(f"<{priority}>{line}" for line in self.lines(record))
