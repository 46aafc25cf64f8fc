"""`nfagent lab`: nfagent on nodes made of network namespaces."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from nfagent.cli.lab_check import check
from nfagent.cli.lab_latency import latency
from nfagent.cli.lab_options import Driver, driver_option, name_option
from nfagent.cli.lab_report import report_command
from nfagent.cli.options import output_option

if TYPE_CHECKING:
    from nfagent.lab.cluster.running_labs import LabState
    from nfagent.lab.topology.plan import Attachment, Underlay

_LISTINGS = {"nftables": "nft list table inet nfagent", "iptables": "iptables-legacy-save"}
"""What lists the rules that agents of a lab write, by backend."""


@click.group(epilog="Example: nfagent lab demo")
def lab() -> None:
    """Try nfagent on nodes made of network namespaces, on this machine; needs root."""


@lab.command(epilog="Example: nfagent lab up --nodes 3 --attachment bridge --underlay vxlan")
@name_option
@driver_option
@click.option("--nodes", default=2, show_default=True, help="Number of nodes, each with an agent.")
@click.option("--pods", default=3, show_default=True, help="Number of Pods on each node.")
@click.option(
    "--attachment",
    type=click.Choice(["routed", "bridge"]),
    default="routed",
    show_default=True,
    help="How Pods are attached: by a route for each, or to a bridge. In VMs by the CNI plugins ptp and bridge.",
)
@click.option(
    "--underlay",
    type=click.Choice(["flat", "vxlan"]),
    default="flat",
    show_default=True,
    help="How packets pass between nodes.",
)
@click.option(
    "--source",
    type=click.Choice(["manifests", "apiserver"]),
    default="manifests",
    show_default=True,
    help="What the agents follow: a folder of manifests, or a real kube-apiserver.",
)
@output_option("text", "json")
@click.pass_context
def up(  # noqa: PLR0913 - one argument for each option
    context: click.Context,
    *,
    name: str,
    driver: Driver,
    nodes: int,
    pods: int,
    attachment: Attachment,
    underlay: Underlay,
    source: Literal["manifests", "apiserver"],
    output: Literal["text", "json"],
) -> None:
    """Build a lab that stays up: nodes with an agent each, Pods that answer by HTTP, and a host outside.

    Prints how to use it. `nfagent lab down` removes all of it.
    """
    import msgspec

    from nfagent.cli.output import emit, write_lines
    from nfagent.lab.cluster.up import LabOptions, build_lab
    from nfagent.lab.demo.output import DemoOutput

    if driver == "vagrant":
        _refuse_options_of_netns(context)
    shown = DemoOutput(quiet=output == "json")
    state: LabState | None = None
    try:
        if driver == "vagrant":
            from nfagent.lab.vagrant import driver as vagrant

            vagrant.up(name, nodes, pods, shown.progress, "bridge" if attachment == "bridge" else "ptp")
        else:
            state = build_lab(LabOptions(name, nodes, pods, attachment, underlay, source), shown.progress)
    finally:
        shown.progress("")
    if output == "json":
        emit({"name": name, "driver": driver} if state is None else msgspec.to_builtins(state), output)
    else:
        write_lines(_vagrant_usage(name) if state is None else _usage(state))


def _refuse_options_of_netns(context: click.Context) -> None:
    """Refuse what was given, and VMs don't have. Raises UsageError."""
    from nfagent.errors import UsageError

    for option in ("underlay", "source"):
        if context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--{option} is of the driver netns: leave it out; "
                "VMs share one network, and their agents follow a real kube-apiserver"
            )


def _vagrant_usage(name: str) -> list[str]:
    named = "" if name == "lab" else f" --name {name}"
    return [
        f"lab {name!r} is up: VMs cp, worker-1, ...",
        f"  tour     nfagent lab demo --driver vagrant{named}",
        f"  latency  nfagent lab latency --driver vagrant{named} -o samples.json",
        f"  remove   nfagent lab down --driver vagrant {name}",
    ]


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
        f"  rules     {inside}n1 {_LISTINGS.get(state.nodes[0].backend, _LISTINGS['nftables'])}",
        f"  shell     ip netns exec {first.netns} bash",
        f"  remove    nfagent lab down {state.name}",
    ]


@lab.command(name="list", epilog="Example: nfagent lab list")
@output_option("text", "json")
def list_(*, output: str) -> None:
    """List the labs that are up, half built, or whose state file is damaged: `lab down NAME` removes each."""
    from nfagent.cli.output import emit, write_lines
    from nfagent.cli.tables import table
    from nfagent.lab.cluster import running_labs

    found = [_listed(name) for name in running_labs.names()]
    if output == "json":
        emit(found, output)
    elif not found:
        write_lines(["no lab is up; `nfagent lab up` builds one"])
    else:
        columns = ("name", "state", "nodes", "pods", "source")
        write_lines(table(columns, [[str(each.get(column, "")) for column in columns] for each in found]))


def _listed(name: str) -> dict[str, str | int | bool]:
    """Return what is there of a lab: a damaged state file hides no other lab."""
    from nfagent.errors import HostError
    from nfagent.lab.cluster import running_labs

    try:
        state = running_labs.read_state(name)
    except HostError:
        return {"name": name, "state": "damaged", "up": False}
    if state is None:
        return {"name": name, "state": "half built", "up": False}
    ended = running_labs.ended_agents(state)
    return {
        "name": name,
        "state": f"no agent runs on {', '.join(ended)}" if ended else "up",
        "up": not ended,
        "nodes": len(state.nodes),
        "pods": sum(bool(member.node) for member in state.members),
        "source": state.source,
    }


@lab.command(epilog="Example: nfagent lab down --all")
@click.argument("name", default=None, required=False)
@click.option(
    "--all", "all_labs", is_flag=True, help="Remove every lab of the driver on this machine, those of other users too."
)
@driver_option
@output_option("text", "json")
def down(*, name: str | None, all_labs: bool, driver: Driver, output: Literal["text", "json"]) -> None:
    """Remove a lab whole, by default the one named lab; also one that is half built, or whose agents were killed."""
    from nfagent.cli.output import emit, write_lines
    from nfagent.errors import UsageError

    if name is not None and all_labs:
        raise UsageError("a name and --all exclude each other: write one of them")
    remove = _remove_vms if driver == "vagrant" else _remove
    removed = remove("lab" if name is None else name, all_labs=all_labs)
    if output == "json":
        emit([{"name": each, "removed": words} for each, words in removed.items()], output)
    else:
        write_lines([f"lab {each!r} removed: {words}" for each, words in removed.items()] or ["no lab is up"])


def _remove(name: str, *, all_labs: bool) -> dict[str, str]:
    """Remove labs of namespaces; return what was removed of each."""
    from nfagent.errors import UsageError
    from nfagent.lab.cluster import running_labs
    from nfagent.lab.machine import requirements
    from nfagent.model.plurals import counted

    requirements.check_root()
    requirements.check_programs(("ip",))
    if not all_labs:
        running_labs.check_name(name)
    running_labs.sweep_killed()
    known = running_labs.names()
    words = {}
    for each in known if all_labs else [name]:
        removed = running_labs.remove(each)
        if not removed:
            others = f"there are {', '.join(known)}" if known else "none is up"
            raise UsageError(f"there is no lab {each!r}: {others}")
        words[each] = f"{counted(removed.processes, 'process')}, {counted(removed.namespaces, 'network namespace')}"
    return words


def _remove_vms(name: str, *, all_labs: bool) -> dict[str, str]:
    """Remove labs of virtual machines."""
    from nfagent.errors import UsageError
    from nfagent.lab.demo.output import DemoOutput
    from nfagent.lab.vagrant import driver as vagrant

    shown = DemoOutput()
    words = {}
    for each in vagrant.names() if all_labs else [name]:
        try:
            there = vagrant.down(each, shown.progress)
        finally:
            shown.progress("")
        if not there:
            raise UsageError(f"there is no lab {each!r} of virtual machines")
        words[each] = "its virtual machines"
    return words


@lab.command(
    name="exec",
    context_settings={"ignore_unknown_options": True},
    epilog="Example: nfagent lab exec n1 nft list ruleset",
)
@name_option
@click.argument("where")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(*, name: str, where: str, command: tuple[str, ...]) -> None:
    """Run a command on a node, in a Pod (NAMESPACE/NAME) or on a host outside.

    On a node, `nfagent` commands ask that node's agent.
    """
    from nfagent.errors import UsageError
    from nfagent.lab.cluster import running_labs
    from nfagent.lab.machine import requirements

    requirements.check_root()
    requirements.check_programs(("ip",))
    running_labs.check_name(name)
    state = running_labs.read_state(name)
    if state is None:
        raise UsageError(f"lab {name!r} isn't up; `nfagent lab up --name {name}` builds it")
    places = {node.name: node.netns for node in state.nodes} | {each.name: each.netns for each in state.members}
    if where not in places:
        raise UsageError(f"there is no {where!r} in lab {name!r}; there are {', '.join(places)}")
    asked = next((node.environment for node in state.nodes if node.name == where), {})
    # Last in PATH: nfagent is found also where it runs from a virtual environment.
    asked = asked | {"PATH": f"{os.environ.get('PATH', os.defpath)}:{Path(sys.executable).parent}"}
    os.execvpe("ip", ["ip", "netns", "exec", places[where], *command], {**os.environ, **asked})  # noqa: S606, S607


@lab.command(epilog="Example: nfagent lab demo")
@output_option("text", "json")
@name_option
@driver_option
@click.pass_context
def demo(context: click.Context, *, output: Literal["text", "json"], name: str, driver: Driver) -> None:
    """Run a tour of one minute: policy, masquerade, verdict log.

    It shows `explain` and the repair of a changed ruleset too, on two nodes with Pods and an agent each, and a host
    outside the cluster. Everything is removed at the end. With --driver vagrant it runs in a VM of the lab --name.
    """
    if driver == "vagrant":
        from nfagent.lab.vagrant import driver as vagrant

        context.exit(vagrant.demo(name, ["-o", output]))
    from nfagent.lab.demo.run import run_demo

    context.exit(run_demo(output=output))


lab.add_command(latency)
lab.add_command(report_command)
lab.add_command(check)
