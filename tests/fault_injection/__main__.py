"""Run all faults: `python -m tests.fault_injection --times 3 --only 'commit*' --write docs/reliability.md`.

The parts run in processes of their own, as many at once as there are CPUs: most of the time they wait for an agent.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from nfagent.cli import INTERRUPTED
from nfagent.errors import HostError
from nfagent.kernel.backend_choice import BackendName
from nfagent.lab.topology import netns
from nfagent.system.interrupts import interrupting
from tests.fault_injection import crashes
from tests.fault_injection.api_lab import api_fault_lab, api_faults
from tests.fault_injection.catalogue import faults_of
from tests.fault_injection.fault import Fault
from tests.fault_injection.lab import FaultLab, fault_lab
from tests.fault_injection.report import insert, markdown, rows_of
from tests.fault_injection.trial import Trial, Try

_CRASHES = "kill -9"
PARTS = {
    "ruleset": ("commit: *", "listing: *", "set change: *", "set listing: *", "iptables-*", "look: *"),
    "netlink": ("notifications: *", "counters: *", "conntrack: *", "NFLOG: *", "rtnetlink: *", "threads: *"),
    "files": ("manifest*", "state: *", "verdict log: *", "own socket: *", "sd_notify: *", "wall clock: *"),
    "API server": ("API server: *",),
    "changes": ("kill -9, policy *",),
    "starts": ("kill -9, Pod *", "kill -9, first start"),
}
"""What runs in one process, in one lab after the other: patterns of the names of faults."""


def main(arguments: Sequence[str]) -> int:
    """Return the exit code: 1 where a packet met the wrong verdict, or anything else was not as it must be."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="tries of each fault (3)")
    parser.add_argument("--crash-times", type=int, default=1, help="tries of each step of a sync (1)")
    parser.add_argument("--only", action="append", default=[], help="a pattern of names, such as 'commit*'")
    parser.add_argument("--backend", choices=("nftables", "iptables"), default="nftables", help="where rules are")
    parser.add_argument("--write", type=Path, help="the page whose table is written anew")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="parts at once (the number of CPUs)")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        with options.json.open("wb") as written:
            for one in tries(options):
                written.write(msgspec.json.encode(shown(one)) + b"\n")
        return 0
    netns.sweep("faults")  # of runs that were killed
    began = time.monotonic()
    found, broken = all_parts(arguments, options.jobs)
    if not found and not broken:
        parser.error(f"no fault has such a name: {', '.join(options.only)}; docs/reliability.md has their names")
    text = markdown(rows_of(found), found, time.monotonic() - began, arguments, broken)
    say(f"\n{text}")
    if options.write:
        options.write.write_text(insert(options.write.read_text("utf-8"), text), encoding="utf-8")
    return 0 if found and not broken and all(one.right for one in found) else 1


def all_parts(arguments: Sequence[str], jobs: int) -> tuple[list[Try], list[str]]:
    """Run the parts; return their tries in the order of the parts, and the parts that broke off.

    An interrupt ends the parts that run, each of which removes its lab, and is raised again.
    """
    parts = list(PARTS)
    with tempfile.TemporaryDirectory(prefix="nfagent-faults-") as folder, ThreadPoolExecutor(jobs) as pool:
        running: list[subprocess.Popen[bytes]] = []

        def run(number: int) -> bool:
            own = ["--part", parts[number], "--json", f"{folder}/{number}"]
            command = [sys.executable, "-m", "tests.fault_injection", *arguments, *own]
            # A session of its own: Ctrl-C comes to this process alone, which ends each part once.
            running.append(process := subprocess.Popen(command, start_new_session=True))
            return process.wait() == 0

        try:
            ended = list(pool.map(run, range(len(parts))))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
            raise
        files = [Path(folder, str(number)) for number in range(len(parts))]
        texts = [path.read_bytes() for path in files if path.exists()]
        found = [one for text in texts for one in msgspec.json.Decoder(Try).decode_lines(text)]
    return found, [name for name, whole in zip(parts, ended, strict=True) if not whole]


def tries(options: argparse.Namespace) -> Iterator[Try]:
    """Make the tries of one part, one after the other."""
    asked, in_part = chosen(options.only), chosen(PARTS[options.part])

    def wanted(name: str) -> bool:
        return asked(name) and in_part(name)

    match options.part:
        case "API server":
            yield from tries_of_api(options, wanted)
        case "changes" | "starts":
            yield from tries_of_crashes(options, wanted)
        case _:
            yield from tries_of_calls(options, wanted)


def tries_of_calls(options: argparse.Namespace, wanted: Callable[[str], bool]) -> Iterator[Try]:
    """Make the tries of an agent that follows a folder of manifests."""
    anywhere = Path()
    every = faults_of(anywhere, anywhere, anywhere, anywhere, anywhere, backend=options.backend)
    if not any(wanted(fault.name) for fault in every):
        return
    with temporary_lab(options.backend) as lab:
        for fault in faults_in(lab, wanted):
            yield from (Trial(lab, fault).run() for _ in range(options.times))


def tries_of_api(options: argparse.Namespace, wanted: Callable[[str], bool]) -> Iterator[Try]:
    """Make the tries of an agent that follows an API server."""
    faults = [fault for fault in api_faults() if wanted(fault.name)]
    if not faults:
        return
    with (
        tempfile.TemporaryDirectory(prefix="nfagent-faults-") as folder,
        api_fault_lab(Path(folder), options.backend) as lab,
    ):
        for fault in faults:
            yield from (Trial(lab, fault).run() for _ in range(options.times))


def tries_of_crashes(options: argparse.Namespace, wanted: Callable[[str], bool]) -> Iterator[Try]:
    """Make a sync for each of its steps, and kill the agent after it."""
    with temporary_lab(options.backend) as lab:
        for sync in crashes.syncs(lab):
            steps = crashes.steps_of(lab, sync) if wanted(f"{_CRASHES}, {sync.name}") else []
            for step in steps:
                made = [crashes.crash(lab, step) for _ in range(options.crash_times)]
                if None in made:
                    say(f"      {step.name}: not reached by {made.count(None)} of {len(made)} syncs")
                yield from (one for one in made if one is not None)


@contextlib.contextmanager
def temporary_lab(backend: BackendName) -> Iterator[FaultLab]:
    """Build a lab in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="nfagent-faults-") as folder, fault_lab(Path(folder), backend) as lab:
        yield lab


def chosen(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return whether a name matches one of the patterns; all do where there are none."""
    return lambda name: not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def faults_in(lab: FaultLab, wanted: Callable[[str], bool]) -> list[Fault]:
    """Return the wanted faults of a lab."""
    agent = lab.agent
    every = faults_of(
        lab.manifests, agent.state_dir, agent.log_dir, agent.socket, agent.notify_path, backend=lab.backend
    )
    return [fault for fault in every if wanted(fault.name)]


def shown(one: Try) -> Try:
    """Print one try, and return it."""
    when = "in force meanwhile" if one.during else f"heals in {one.healed:.2f} s"
    say(
        f"{'ok   ' if one.right else 'WRONG'} {one.fault}: {one.packets} packets, {one.wrong_packets} wrong, {when}, "
        f"reported until {one.cleared:.2f} s, {one.hits} calls, {one.cpu:.2f} CPU"
    )
    for line in (*one.wrong, *one.failed):
        say(f"      {line}")
    return one


def say(line: str) -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        with interrupting():
            sys.exit(main(sys.argv[1:]))
    except HostError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
