"""Run all faults: `python -m tests.fault_injection --times 3 --only 'commit*' --write docs/reliability.md`."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.fault_injection.catalogue import faults_of
from tests.fault_injection.lab import FaultLab, fault_lab
from tests.fault_injection.trial import Fault, Trial, Try


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 where a packet met the wrong verdict, or anything else was not as it must be."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="tries of each fault")
    parser.add_argument("--only", action="append", default=[], help="a pattern of names")
    options = parser.parse_args(arguments)
    found: list[Try] = []
    with tempfile.TemporaryDirectory(prefix="nfagent-faults-") as folder, fault_lab(Path(folder)) as lab:
        for fault in faults_in(lab, options.only):
            for _ in range(options.times):
                found.append(Trial(lab, fault).run())
                show(found[-1])
    return 0 if all(one.right for one in found) else 1


def faults_in(lab: FaultLab, patterns: Sequence[str]) -> list[Fault]:
    """Return the faults of a lab whose names match one of the patterns."""
    agent = lab.agent
    every = faults_of(lab.manifests, agent.state_dir, agent.log_dir, agent.socket, agent.notify_path)
    return [fault for fault in every if not patterns or any(fnmatch.fnmatch(fault.name, one) for one in patterns)]


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
