"""`nfagent lab`: nfagent on nodes made of network namespaces."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from nfagent.cli.lab_report import report_command
from nfagent.cli.options import output_option

if TYPE_CHECKING:
    from nfagent.lab.running_labs import LabState
    from nfagent.lab.topology_plan import Attachment, Underlay

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _name_option(command: _Command) -> _Command:
    return click.option("--name", metavar="NAME", default="lab", show_default=True, help="The lab's name.")(command)


@click.group(epilog="Example: nfagent lab demo")
def lab() -> None:
    """Try nfagent on nodes made of network namespaces, on this machine; needs root."""


@lab.command(epilog="Example: nfagent lab up --nodes 3 --attachment bridge --underlay vxlan")
@_name_option
@click.option("--nodes", default=2, show_default=True, help="Number of nodes, each with an agent.")
@click.option("--pods", default=3, show_default=True, help="Number of Pods on each node.")
@click.option("--attachment", type=click.Choice(["routed", "bridge"]), default="routed", show_default=True)
@click.option("--underlay", type=click.Choice(["flat", "vxlan"]), default="flat", show_default=True)
@click.option(
    "--source",
    type=click.Choice(["manifests", "apiserver"]),
    default="manifests",
    show_default=True,
    help="What the agents follow: a folder of manifests, or a real kube-apiserver.",
)
def up(
    *,
    name: str,
    nodes: int,
    pods: int,
    attachment: Attachment,
    underlay: Underlay,
    source: Literal["manifests", "apiserver"],
) -> None:
    """Build a lab that stays up: nodes with an agent each, Pods that answer by HTTP, and a host outside.

    Prints how to use it. `nfagent lab down` removes all of it.
    """
    from nfagent.cli.output import write_lines
    from nfagent.lab.demo_output import DemoOutput
    from nfagent.lab.lab_up import LabOptions, build_lab

    output = DemoOutput()
    try:
        state = build_lab(LabOptions(name, nodes, pods, attachment, underlay, source), output.progress)
    finally:
        output.progress("")
    write_lines(_usage(state))


def _usage(state: LabState) -> list[str]:
    from nfagent.cli.tables import table

    named = "" if state.name == "lab" else f"--name {state.name} "
    first, last = state.members[0], [member for member in state.members if member.node][-1]
    rows = [[node.name, "node", *node.addresses, node.netns] for node in state.nodes]
    rows += [
        [member.name, f"Pod on {member.node}" if member.node else "outside", *member.addresses, member.netns]
        for member in state.members
    ]
    columns = max(len(row) for row in rows)
    header = ("name", "is", *["address"] * (columns - 3), "network namespace")
    change = (
        f"write manifests into {state.manifests}"
        if state.manifests
        else f"nfagent lab exec {named}api kubectl --kubeconfig {state.kubeconfig.replace('nfagent.', 'admin.')} ..."
    )
    inside = f"nfagent lab exec {named}"
    return [
        *table(header, rows),
        "",
        f"lab {state.name!r} is up: every Pod, and the host outside, answers by HTTP on port 80",
        f"  connect   {inside}{first.name} curl -m 1 http://{last.addresses[0]}",
        f"  policies  {change}",
        f"  explain   {inside}n1 nfagent explain {first.name} {last.name}:80/tcp",
        f"  state     {inside}n1 nfagent dump",
        f"  log       {inside}n1 nfagent logs",
        f"  rules     {inside}n1 nft list table inet nfagent",
        f"  shell     ip netns exec {first.netns} bash",
        f"  remove    nfagent lab down {state.name}",
    ]


@lab.command(name="list", epilog="Example: nfagent lab list")
@output_option("text", "json")
def list_(*, output: str) -> None:
    """List the labs that are up, or half built."""
    from nfagent.cli.output import emit, write_lines
    from nfagent.cli.tables import table
    from nfagent.lab import running_labs

    found = {name: running_labs.read_state(name) for name in running_labs.names()}
    if output == "json":
        emit([{"name": name, "up": state is not None} for name, state in found.items()], output)
    elif not found:
        write_lines(["no lab is up; `nfagent lab up` builds one"])
    else:
        rows = [
            [name, "up", str(len(state.nodes)), str(sum(bool(member.node) for member in state.members)), state.source]
            if state is not None
            else [name, "half built", "", "", ""]
            for name, state in found.items()
        ]
        write_lines(table(("name", "state", "nodes", "pods", "source"), rows))


@lab.command(epilog="Example: nfagent lab down --all")
@click.argument("name", default="")
@click.option("--all", "all_labs", is_flag=True, help="Remove every lab.")
def down(*, name: str, all_labs: bool) -> None:
    """Remove a lab whole, by default the one named lab; also one that is half built, or whose agents were killed."""
    from nfagent.cli.output import write_lines
    from nfagent.errors import UsageError
    from nfagent.lab import requirements, running_labs
    from nfagent.model.plurals import counted

    if name and all_labs:
        raise UsageError("a name and --all exclude each other: write one of them")
    requirements.check_root()
    known = running_labs.names()
    for each in known if all_labs else [name or "lab"]:
        removed = running_labs.remove(each)
        if not removed:
            others = f"there are {', '.join(known)}" if known else "none is up"
            raise UsageError(f"there is no lab {each!r}: {others}")
        processes, spaces = counted(removed.processes, "process"), counted(removed.namespaces, "network namespace")
        write_lines([f"lab {each!r} removed: {processes}, {spaces}"])
    if all_labs and not known:
        write_lines(["no lab is up"])


@lab.command(
    name="exec",
    context_settings={"ignore_unknown_options": True},
    epilog="Example: nfagent lab exec n1 nft list ruleset",
)
@_name_option
@click.argument("where")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(*, name: str, where: str, command: tuple[str, ...]) -> None:
    """Run a command on a node, in a Pod (NAMESPACE/NAME) or on a host outside.

    On a node, `nfagent` commands ask that node's agent.
    """
    from nfagent.errors import UsageError
    from nfagent.lab import requirements, running_labs

    requirements.check_root()
    running_labs.check_name(name)
    state = running_labs.read_state(name)
    if state is None:
        raise UsageError(f"lab {name!r} isn't up; `nfagent lab up --name {name}` builds it")
    places = {node.name: node.netns for node in state.nodes} | {each.name: each.netns for each in state.members}
    if where not in places:
        raise UsageError(f"there is no {where!r} in lab {name!r}; there are {', '.join(places)}")
    asked = next((node.environment for node in state.nodes if node.name == where), {})
    os.execvpe("ip", ["ip", "netns", "exec", places[where], *command], {**os.environ, **asked})  # noqa: S606, S607


@lab.command(epilog="Example: nfagent lab latency --scenario policy-created --policies 0,1000 -o samples.json")
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
@click.option("--attachment", type=click.Choice(["routed", "bridge"]), default="routed", show_default=True)
@click.option("--source", type=click.Choice(["manifests", "apiserver"]), default="manifests", show_default=True)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the samples.  [default: lab-latency-TIME.json]",
)
def latency(
    *,
    scenarios: tuple[str, ...],
    policies: str,
    pods: int,
    tries: int,
    paths: Literal["both", "nftables", "ebpf"],
    attachment: Attachment,
    source: Literal["manifests", "apiserver"],
    output: Path | None,
) -> None:
    """Measure how long until a change bites: by nftables, and by eBPF programs, in turns.

    From the change handed over to the first packet with the new verdict, a packet every 0.2 ms. Raw samples are written
    to a file, also of a run that is interrupted; `nfagent lab report` draws them.
    """
    from datetime import datetime

    from nfagent.cli.output import write_lines
    from nfagent.lab.demo_output import DemoOutput
    from nfagent.lab.latency import LatencyOptions, run_latency
    from nfagent.lab.latency_options import policy_numbers, positive, scenario_names
    from nfagent.lab.latency_progress import LatencyProgress

    options = LatencyOptions(
        output=output or Path(f"lab-latency-{datetime.now().astimezone():%Y%m%d-%H%M%S}.json"),
        scenarios=scenario_names(scenarios),
        policies=policy_numbers(policies),
        pods=pods,
        tries=positive("--tries", tries, 1),
        source=source,
        paths=("nftables", "ebpf") if paths == "both" else (paths,),
        attachment=attachment,
    )
    shown = DemoOutput()
    try:
        samples = run_latency(options, LatencyProgress(shown))
    finally:
        shown.progress("")
    write_lines(
        [
            f"{options.output}: samples of {samples.seconds / 60:.0f} min",
            f"draw them: nfagent lab report {options.output}",
        ]
    )


@lab.command(epilog="Example: nfagent lab demo")
@output_option("text", "json")
@click.pass_context
def demo(context: click.Context, output: Literal["text", "json"]) -> None:
    """Run a tour of one minute: policy, masquerade, verdict log.

    It shows `explain` and the repair of a changed ruleset too, on two nodes with Pods and an agent each, and a host
    outside the cluster. Everything is removed at the end.
    """
    from nfagent.lab.demo import run_demo

    context.exit(run_demo(output=output))


lab.add_command(report_command)
