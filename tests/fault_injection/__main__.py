"""Run all faults: `python -m tests.fault_injection --times 3 --only 'commit*' --write docs/reliability.md`."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from tests.fault_injection import crashes
from tests.fault_injection.api_lab import api_fault_lab, api_faults
from tests.fault_injection.catalogue import faults_of
from tests.fault_injection.lab import FaultLab, fault_lab
from tests.fault_injection.report import insert, markdown, rows_of
from tests.fault_injection.trial import Fault, Trial, Try

_CRASHES = "kill -9"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 where a packet met the wrong verdict, or anything else was not as it must be."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="tries of each fault (3)")
    parser.add_argument("--crash-times", type=int, default=1, help="tries of each step of a sync (1)")
    parser.add_argument("--only", action="append", default=[], help="a pattern of names, such as 'commit*'")
    parser.add_argument("--write", type=Path, help="the page whose table is written anew")
    parser.add_argument("--json", type=Path, help="a file for every try")
    options = parser.parse_args(arguments)
    began, found = time.monotonic(), []
    for one in tries(options):
        found.append(one)
        show(one)
    rows = rows_of(found)
    if options.json:
        options.json.write_bytes(msgspec.json.encode(found))
    text = markdown(rows, found, time.monotonic() - began, sys.argv[1:] if arguments is None else arguments)
    print(f"\n{text}")
    if options.write:
        options.write.write_text(insert(options.write.read_text("utf-8"), text), encoding="utf-8")
    return 0 if found and all(one.right for one in found) else 1


def tries(options: argparse.Namespace) -> Iterator[Try]:
    """Make all tries, one after the other."""
    yield from tries_of_manifests(options)
    faults = [fault for fault in api_faults() if chosen(options.only)(fault.name)]
    if faults:
        with tempfile.TemporaryDirectory(prefix="nfagent-faults-") as folder, api_fault_lab(Path(folder)) as lab:
            for fault in faults:
                for _ in range(options.times):
                    yield Trial(lab, fault).run()


def tries_of_manifests(options: argparse.Namespace) -> Iterator[Try]:
    """Make the tries of an agent that follows a folder of manifests."""
    with tempfile.TemporaryDirectory(prefix="nfagent-faults-") as folder, fault_lab(Path(folder)) as lab:
        for fault in faults_in(lab, chosen(options.only)):
            for _ in range(options.times):
                yield Trial(lab, fault).run()
        for sync in crashes.syncs(lab):
            if not chosen(options.only)(f"{_CRASHES}, {sync.name}"):
                continue
            for step in crashes.steps_of(lab, sync):
                for _ in range(options.crash_times):
                    made = crashes.crash(lab, step)
                    if made is not None:
                        yield made


def chosen(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return whether a name matches one of the patterns; all do where there are none."""
    return lambda name: not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def faults_in(lab: FaultLab, wanted: Callable[[str], bool]) -> list[Fault]:
    """Return the wanted faults of a lab."""
    agent = lab.agent
    every = faults_of(lab.manifests, agent.state_dir, agent.log_dir, agent.socket, agent.notify_path)
    return [fault for fault in every if wanted(fault.name)]


def show(one: Try) -> None:
    """Print one try."""
    when = "in force meanwhile" if one.during else f"healed after {one.healed:.3f} s"
    print(
        f"{'ok   ' if one.right else 'WRONG'} {one.fault}: {one.packets} packets, {one.wrong_packets} wrong, {when}, "
        f"reported until {one.cleared:.3f} s, {one.hits} calls, {one.cpu:.2f} CPU",
        flush=True,
    )
    for line in (*one.wrong, *one.failed):
        print(f"      {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
