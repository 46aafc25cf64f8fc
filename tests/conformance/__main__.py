"""`python -m tests.conformance`: every case of every suite, by every implementation."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from nfagent.errors import HostError, NfagentError, UsageError
from nfagent.lab.demo.output import DemoOutput
from nfagent.lab.ebpf import program as ebpf_program
from nfagent.lab.topology.plan import Attachment
from tests.conformance import FOLDER, report
from tests.conformance.packets import PacketPath
from tests.conformance.session import Session
from tests.conformance.show import show
from tests.conformance.suites import NAMES, Suite, read

_REPLAYS = Path("build", "conformance")


def _load(folder: Path, names: Sequence[str], ids: Sequence[str]) -> list[Suite]:
    """Read the suites, and leave only the cases that are wanted; no id means all. Raises HostError, UsageError."""
    paths = {name: folder / f"{name}.json" for name in names}
    missing = [path.name for path in paths.values() if not path.exists()]
    if missing:
        raise HostError(f"no {', '.join(missing)} in {folder}: give the folder that has them with --folder")
    suites = [read(name, json.loads(path.read_bytes())) for name, path in paths.items()]
    unknown = set(ids) - {case.id for suite in suites for case in suite.cases}
    if unknown:
        raise UsageError(f"no case {min(unknown)!r} in {', '.join(names)}; one is {suites[0].cases[0].id}")
    kept = [suite._replace(cases=tuple(one for one in suite.cases if not ids or one.id in ids)) for suite in suites]
    return [suite for suite in kept if suite.cases]


@click.command()
@click.option(
    "--folder",
    default=FOLDER,
    type=click.Path(path_type=Path),
    help="Where the suites' files are.",
)
@click.option(
    "--suite", "names", multiple=True, type=click.Choice(NAMES), help="This suite; may be given more than once."
)
@click.option(
    "--case", "ids", multiple=True, metavar="ID", help="This case, like cyc-001; may be given more than once."
)
@click.option(
    "--attachment",
    "attachments",
    multiple=True,
    default=("routed",),
    show_default=True,
    type=click.Choice(("routed", "bridge")),
    help="How Pods hang on their node; may be given more than once.",
)
@click.option(
    "--path",
    default="nftables",
    show_default=True,
    type=click.Choice(("nftables", "iptables", "ebpf")),
    help="What enforces where packets are sent: nfagent's rules in nftables, or in iptables; or the lab's eBPF "
    "path, for the cases that it covers.",
)
@click.option("--packets/--no-packets", default=True, help="Whether packets are sent: that needs root.")
@click.option(
    "--replays",
    default=_REPLAYS,
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the objects of a failed step are written.",
)
@click.option(
    "-o",
    "output",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="How the report is written.",
)
def main(
    *,
    folder: Path,
    names: tuple[str, ...],
    ids: tuple[str, ...],
    attachments: tuple[Attachment, ...],
    path: PacketPath,
    packets: bool,
    replays: Path,
    output: str,
) -> None:
    """Run the recorded conformance cases: by `evaluate`, by both nodes' rules interpreted, and by packets in a lab.

    Exit code: 0 when no case failed, 1 when one did, 2 when they couldn't be run.

    \b
    Example:
      python -m tests.conformance --suite tiers-v1alpha2 --attachment routed --attachment bridge
      python -m tests.conformance --case cyc-193 -o json
      python -m tests.conformance --path iptables
      python -m tests.conformance --path ebpf
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    began = time.monotonic()
    stage = DemoOutput(quiet=output == "json")
    try:
        if packets and os.geteuid() != 0:
            raise HostError("packets need network namespaces: run it as root, or with --no-packets")
        if path == "ebpf" and (lack := ebpf_program.missing()):
            raise HostError(lack)
        suites = _load(folder, names or NAMES, ids)
        session = Session(stage, suites)
        session.judge_by_values()
        if packets:
            session.judge_by_packets(attachments, path)
    except (NfagentError, KeyboardInterrupt) as error:
        stage.progress("")
        click.echo(f"conformance: {str(error) or 'interrupted'}", err=True)
        sys.exit(2)
    done = report.make(suites, session.results, time.monotonic() - began, replays)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(done), indent=2))
    else:
        _close(stage, done)
    sys.exit(0 if done.good else 1)


def _close(stage: DemoOutput, done: report.Report) -> None:
    show(stage, done)
    failed = {failed.case for failed in done.failures}
    cases = sum(row.cases for row in done.rows if row.by == "suite")
    verdict = f"{cases} cases" if done.good else f"{len(failed)} of {cases} cases failed: {', '.join(sorted(failed))}"
    stage.summary(f"{verdict}, {done.seconds:.0f} s.", as_expected=done.good)


if __name__ == "__main__":
    main()
