"""`python -m tests.fuzz`: runs or replays cases, and shows the result."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Literal

import click
import msgspec

from nfagent.cli import INTERRUPTED
from nfagent.errors import NfagentError, UsageError
from nfagent.kernel.backend_choice import BackendName
from nfagent.lab.demo.output import DemoOutput
from nfagent.lab.topology.plan import Attachment
from tests.fuzz.report import Progress, Replayed, Report, show_replayed, show_report
from tests.fuzz.session import FuzzPlan, fuzz, replay

_ATTACHMENTS: tuple[Attachment, ...] = ("routed", "bridge")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--seconds", default=60.0, show_default=True, help="Start no case after so many seconds.")
@click.option("--seed", type=int, help="Seed of the cases; random by default.")
@click.option("--no-packets", is_flag=True, help="Run without the lab; needs no root then.")
@click.option(
    "--attachment",
    type=click.Choice(["routed", "bridge"]),
    help="How the lab's nodes attach their Pods; chosen by the seed by default.",
)
@click.option(
    "--backend",
    type=click.Choice(["nftables", "iptables"]),
    default="nftables",
    show_default=True,
    help="Where the lab's agents write rules.",
)
@click.option("--replay", "folder", type=click.Path(path_type=Path), help="Repeat this case, and nothing else.")
@click.option(
    "--build", default="build/fuzz", show_default=True, type=click.Path(path_type=Path), help="Folder of failing cases."
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Format of the result.")
def main(
    *,
    seconds: float,
    seed: int | None,
    no_packets: bool,
    attachment: Attachment | None,
    backend: BackendName,
    folder: Path | None,
    build: Path,
    output: Literal["text", "json"],
) -> None:
    """Compare the evaluator, the compiled rules and real packets on random histories of manifests.

    A failing case is shrunk, and written as a folder of manifests.

    Exit code: 0 when all oracles agree, 1 when they differ, 2 when they couldn't run.

    \b
    Example:
      python -m tests.fuzz --seconds 600 --seed 7
      python -m tests.fuzz --replay build/fuzz/7
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    stage = DemoOutput(quiet=output == "json")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if folder is not None:
            result: Report | Replayed = replay(folder, packets=not no_packets)
        else:
            number = secrets.randbelow(1 << 32) if seed is None else seed
            attached = attachment or _ATTACHMENTS[number % len(_ATTACHMENTS)]
            plan = FuzzPlan(number, seconds, not no_packets, build, attached, backend)
            _check_root(plan)
            stage.title(f"fuzz: seed {plan.seed}, {seconds:.0f} s, {'with' if plan.packets else 'without'} packets")
            result = fuzz(plan, Progress(stage, quiet=output == "json").show)
    except NfagentError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2))
    elif isinstance(result, Replayed):
        show_replayed(stage, result)
    else:
        show_report(stage, result)
    failed = result.now if isinstance(result, Replayed) else result.found
    sys.exit(1 if failed is not None else 0)


def _check_root(plan: FuzzPlan) -> None:
    if plan.packets and os.geteuid() != 0:
        raise UsageError("packets need root: use sudo, or run without them: PACKETS=no (--no-packets)")


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
