"""`python -m tests.soak`: runs a soak, or repeats one of its cycles, and shows the result."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from pathlib import Path

import click
import msgspec

from nfagent.cli import INTERRUPTED
from nfagent.errors import NfagentError, UsageError
from nfagent.lab.demo.output import DemoOutput
from nfagent.lab.topology.plan import Attachment
from tests.fuzz.report import Progress
from tests.soak.plan import SoakPlan, Source
from tests.soak.report import show_report
from tests.soak.session import soak

_ATTACHMENTS: tuple[Attachment, ...] = ("routed", "bridge")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--minutes", default=5.0, show_default=True, help="Begin no cycle after so many minutes.")
@click.option("--seed", type=int, help="Seed of the cycles; random by default.")
@click.option("--cycle", type=int, help="Repeat this cycle of the seed, and nothing else.")
@click.option(
    "--attachment",
    type=click.Choice(["routed", "bridge"]),
    help="How the lab's nodes attach their Pods; chosen by the seed by default.",
)
@click.option(
    "--source",
    type=click.Choice(["folder", "apiserver"]),
    default="folder",
    show_default=True,
    help="What the agents follow: a folder of manifests, or a kube-apiserver.",
)
@click.option(
    "--build", default="build/soak", show_default=True, type=click.Path(path_type=Path), help="Folder of the report."
)
def main(
    *, minutes: float, seed: int | None, cycle: int | None, attachment: Attachment | None, source: Source, build: Path
) -> None:
    """Let a lab of two nodes live through churn and faults, and compare what packets do with the evaluator.

    Exit code: 0 when every answer was right and everything has converged, 1 when not, 2 when it couldn't run.

    \b
    Example:
      python -m tests.soak --minutes 30
      python -m tests.soak --seed 7 --cycle 12
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    output = DemoOutput()
    signal.signal(signal.SIGTERM, _interrupt)
    number = secrets.randbelow(1 << 32) if seed is None else seed
    plan = SoakPlan(number, minutes, build, attachment or _ATTACHMENTS[number % len(_ATTACHMENTS)], cycle, source)
    try:
        if os.geteuid() != 0:
            raise UsageError("a soak needs root: use sudo")
        length = f"{minutes:g} minutes" if cycle is None else f"cycle {cycle}"
        output.title(f"soak: seed {number}, {length}, {plan.attachment} Pods, {source}")
        report = soak(plan, Progress(output, quiet=False).show)
    except NfagentError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    (build / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    show_report(output, report, str(build))
    sys.exit(0 if report.as_expected else 1)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
