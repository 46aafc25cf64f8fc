"""What `nfagent bundle` reads: other commands of nfagent, programs of this machine, and the agent's metrics.

Commands run as processes of their own: they know how to do without an agent, and their memory ends with them.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from nfagent.config import Settings
from nfagent.system.interrupts import deferred_interrupts

_SECONDS = 60.0
MOST_RECORDS = 20_000
_STDERR_BYTES = 2_000
_UNITS = ("nfagent.service", "nfagent-early.service")
_PROGRAMS = (("nft", "--version"), ("iptables", "--version"), ("ip6tables", "--version"), ("ipset", "--version"))


class UnreadError(Exception):
    """A source has nothing; the message says why."""


class Remarks(msgspec.Struct):
    """What a source says beside its content. exit_code: of its command; is_broken_off: it was ended before its end."""

    text: str = ""
    exit_code: int | None = None
    is_broken_off: bool = False


class Source(msgspec.Struct, frozen=True):
    """A member of the bundle.

    name:     in the archive
    what:     what it has
    read:     yields its content; raises UnreadError
    optional: a node may well have none: it makes the bundle no less whole
    """

    name: str
    what: str
    read: Callable[[Remarks], Iterator[bytes]]
    optional: bool = False


def sources(settings: Settings, config: Path | None, since: int, since_words: str, *, logs: bool) -> list[Source]:
    """Return the sources, in the order of the archive.

    since: nanoseconds since the epoch, 0 for no limit; since_words: the same as it was written
    logs:  the verdict log and the journal too
    """

    def ask(*words: str) -> Callable[[Remarks], Iterator[bytes]]:
        return lambda remarks: _command(remarks, _nfagent(config, *words))

    found = [
        Source("versions.txt", "agent, command, kernel, nft, iptables", lambda _: _versions(settings)),
        Source("status.json", "whether all is well: nfagent status", ask("status", "-o", "json")),
        Source("config.json", "settings with their origins, of a start now", ask("config", "-o", "json")),
        Source("config-running.json", "settings of the running agent", ask("config", "--running", "-o", "json")),
        Source("check.json", "whether this node can run nfagent", ask("check", "-o", "json")),
        Source("state.json", "cluster and agent: nfagent dump state -A", ask("dump", "state", "-A", "-o", "json")),
        Source("policies.json", "policies, and whom they select", ask("dump", "policies", "-o", "json")),
        Source("ruleset.nft", "the desired ruleset", ask("dump", "ruleset", "-o", "nft")),
        Source("kernel.nft", "the ruleset in the kernel", ask("dump", "kernel", "-o", "nft")),
        Source("diff.json", "what differs between the two", ask("dump", "diff", "-o", "json")),
        Source("syncs.json", "the last changes, step by step", ask("dump", "syncs", "-o", "json")),
        Source("metrics.txt", "metrics, as Prometheus reads them", lambda _: _metrics(settings)),
    ]
    if logs:
        limit = ["--since", since_words] if since else ["--last", str(MOST_RECORDS)]
        records = ask("logs", "-o", "json", *limit)
        found += [
            Source("logs.jsonl", "the verdict log", records, optional=True),
            Source("journal.txt", "the agent's own log", lambda remarks: _journal(remarks, since), optional=True),
        ]
    return found


def _nfagent(config: Path | None, *words: str) -> list[str]:
    # -P: a folder `nfagent` where the user stands isn't this package.
    return [sys.executable, "-P", "-m", "nfagent", *words, *(["--config", str(config)] if config else [])]


def _command(remarks: Remarks, command: list[str]) -> Iterator[bytes]:
    """Yield the lines of a command. Raises UnreadError where it can't be run, or has failed without any."""
    errors, said = bytearray(), False
    with ExitStack() as ending:
        # Interrupted while it is started, it would go on: nothing could end it yet.
        with deferred_interrupts():
            child = _started(command)
            ending.callback(_close, child)
            reading = threading.Thread(target=_keep_end, args=(child, errors), daemon=True)
            late = threading.Timer(_SECONDS, _end, (child,))  # what hangs, as at a broken disk, isn't waited for
            late.daemon = True
            reading.start()
            ending.callback(reading.join, 1.0)
            ending.callback(_end, child)
            late.start()
            ending.callback(late.cancel)
        if child.stdout is not None:
            for line in child.stdout:
                said = True
                yield line
        remarks.exit_code = child.wait()
    remarks.text = bytes(errors).decode(errors="backslashreplace").strip()
    if remarks.exit_code is not None and remarks.exit_code < 0:
        remarks.is_broken_off = True
        remarks.text = f"ended by signal {-remarks.exit_code}; after {_SECONDS:.0f} s it is SIGKILL\n{remarks.text}"
    if not said:
        raise UnreadError(remarks.text or f"{Path(command[0]).name} said nothing")


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own. Raises UnreadError."""
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "FORCE_COLOR"}}
    try:
        return subprocess.Popen(  # noqa: S603 - nfagent itself, or a program found in PATH with options of ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment, "NO_COLOR": "1", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    except OSError as error:
        raise UnreadError(f"{command[0]} can't be run: {error.strerror}") from None


def _keep_end(child: subprocess.Popen[bytes], errors: bytearray) -> None:
    with suppress(OSError, ValueError):
        while child.stderr is not None and (part := os.read(child.stderr.fileno(), 4096)):
            errors += part
            del errors[:-_STDERR_BYTES]


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _close(child: subprocess.Popen[bytes]) -> None:
    _end(child)
    child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


def _metrics(settings: Settings) -> Iterator[bytes]:
    from nfagent.errors import HostError, UsageError
    from nfagent.introspection.agent_client import get_lines

    try:
        yield from get_lines(settings.socket_path, "/metrics")
    except (HostError, UsageError) as error:
        raise UnreadError(str(error)) from None


def _journal(remarks: Remarks, since: int) -> Iterator[bytes]:
    program = shutil.which("journalctl")
    if program is None:
        raise UnreadError("there is no journalctl here; in a Pod, kubectl logs has the agent's log")
    units = [f"--unit={unit}" for unit in _UNITS]
    limit = [f"--since=@{since // 1_000_000_000}"] if since else [f"--lines={MOST_RECORDS}"]
    options = ["--quiet", "--no-pager", "--output=short-iso-precise", *limit]
    try:
        yield from _command(remarks, [program, *units, *options])
    except UnreadError as error:
        raise UnreadError(str(error) if remarks.text else f"the journal has no lines of {_UNITS[0]}") from None


def _versions(settings: Settings) -> Iterator[bytes]:
    from nfagent import __version__
    from nfagent.cli.running_settings import running_settings
    from nfagent.errors import HostError, UsageError

    node = settings.node_name
    try:
        view = running_settings(settings.socket_path)
        node = node if view is None else view.node
        agent = "none runs" if view is None else f"nfagent {view.version}"
    except (HostError, UsageError) as error:
        agent = f"not known: {error}"
    system = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    found = {
        "command": f"nfagent {__version__}",
        "agent": agent,
        "node": node,
        "kernel": " ".join(os.uname()[i] for i in (0, 2, 3, 4)),
        "system": system.get("PRETTY_NAME", "not known"),
        "python": platform.python_version(),
    }
    yield "".join(f"{name:<10}{value}\n" for name, value in found.items()).encode()
    for name, option in _PROGRAMS:
        program = shutil.which(name)
        try:
            said = b"not installed" if program is None else b" ".join(_command(Remarks(), [program, option]))
            text = said.decode(errors="backslashreplace")
        except UnreadError as error:
            text = str(error)
        yield f"{name:<10}{' '.join(text.split())}\n".encode()
