"""`nfagent lab latency`: how long until a change takes effect, by nftables and by eBPF."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from nfagent.cli.lab_options import Driver, driver_option, name_option

if TYPE_CHECKING:
    from nfagent.lab.latency.run import LatencyOptions
    from nfagent.lab.topology.plan import Attachment


@click.command(epilog="Example: nfagent lab latency --scenario policy-created --policies 0,1000 -o samples.json")
@click.option(
    "--scenario", "scenarios", metavar="NAME", multiple=True, help="One scenario; may be repeated.  [default: all]"
)
@click.option(
    "--policies", metavar="N,N,...", default="0,1000,10000", show_default=True, help="Numbers of background policies."
)
@click.option("--pods", default=15_000, show_default=True, help="Pods of the cluster.")
@click.option("--tries", default=200, show_default=True, help="Changes of each scenario, on each path.")
@click.option(
    "--paths",
    type=click.Choice(["both", "nftables", "ebpf"]),
    default="both",
    show_default=True,
    help="What enforces the policies.",
)
@click.option(
    "--attachment",
    type=click.Choice(["routed", "bridge"]),
    default="routed",
    show_default=True,
    help="How Pods are attached: by a route for each, or to a bridge.",
)
@click.option(
    "--source",
    type=click.Choice(["manifests", "apiserver"]),
    default="manifests",
    show_default=True,
    help="Where the agent reads objects: a folder of manifests, or a real kube-apiserver.",
)
@name_option
@driver_option
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the samples.  [default: lab-latency-TIME.json]",
)
@click.pass_context
def latency(  # noqa: PLR0913 - one argument for each option
    context: click.Context,
    *,
    scenarios: tuple[str, ...],
    policies: str,
    pods: int,
    tries: int,
    paths: Literal["both", "nftables", "ebpf"],
    attachment: Attachment,
    source: Literal["manifests", "apiserver"],
    name: str,
    driver: Driver,
    output: Path | None,
) -> None:
    """Measure how long until a change takes effect: by nftables, and by eBPF programs, in turns.

    From the change handed over to the first packet with the new verdict, a packet every 0.2 ms. Raw samples are written
    to a file, also of a run that is interrupted; `nfagent lab report` draws them. With --driver vagrant it runs in a VM
    of the lab --name.
    """
    from nfagent.lab.latency.options import policy_numbers, positive, scenario_names
    from nfagent.lab.latency.run import WARMUP, LatencyOptions

    options = LatencyOptions(
        output=output or Path(f"lab-latency-{dt.datetime.now().astimezone():%Y%m%d-%H%M%S}.json"),
        scenarios=scenario_names(scenarios),
        policies=policy_numbers(policies),
        pods=pods,
        tries=positive("--tries", tries, 1),
        warmup=min(WARMUP, tries),
        source=source,
        paths=("nftables", "ebpf") if paths == "both" else (paths,),
        attachment=attachment,
    )
    if driver == "vagrant":
        from nfagent.lab.vagrant import driver as vagrant

        context.exit(vagrant.latency(name, _arguments(options), options.output))
    _measure(options)


def _measure(options: LatencyOptions) -> None:
    from nfagent.cli.output import write_lines
    from nfagent.lab.demo.output import DemoOutput
    from nfagent.lab.latency.progress import LatencyProgress
    from nfagent.lab.latency.run import run_latency

    shown = DemoOutput()
    try:
        samples = run_latency(options, LatencyProgress(shown))
    finally:
        shown.progress("")
    write_lines(
        [
            f"{options.output}: the samples of a run of {samples.seconds:.0f} s",
            f"draw them: nfagent lab report {options.output}",
        ]
    )


def _arguments(options: LatencyOptions) -> list[str]:
    """Return the options for the same run in a VM, without --driver and -o."""
    paths = "both" if len(options.paths) > 1 else options.paths[0]
    numbers = ",".join(map(str, options.policies))
    found = ["--policies", numbers, "--pods", str(options.pods), "--tries", str(options.tries), "--paths", paths]
    found += ["--attachment", options.attachment, "--source", options.source]
    return [*found, *(word for scenario in options.scenarios for word in ("--scenario", scenario))]
