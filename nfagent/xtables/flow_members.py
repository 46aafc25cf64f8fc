"""The members that sets of flows get by a transaction: packets add to these sets too, so only additions are written."""

from __future__ import annotations

from collections.abc import Mapping

from nfagent.model.netaddr import Family
from nfagent.nftables.objects import Element, NamedSet
from nfagent.nftables.transaction import ChangeElements, Command, Transaction
from nfagent.xtables.objects import SetMember
from nfagent.xtables.set_parts import FLOW_PARTS, parts_of


def changes_flows(command: Command, known: Mapping[str, NamedSet]) -> bool:
    """Return whether a command changes the elements of a set of flows. known: the sets, by name."""
    if not isinstance(command, ChangeElements):
        return False
    shape = known.get(command.set)
    return shape is not None and shape.kind == "flow"


def added_flows(
    transaction: Transaction, known: Mapping[str, NamedSet], families: tuple[Family, ...]
) -> dict[str, list[SetMember]]:
    """Return the members that a transaction adds, by the name of the set: each flow in a set by each of its ports."""
    found: dict[str, list[SetMember]] = {}
    for command in transaction:
        if not isinstance(command, ChangeElements) or command.verb != "add" or not changes_flows(command, known):
            continue
        names = {part.part: part.name for part in parts_of(command.set, known[command.set], families)}
        for flow in command.elements:
            for part, member in _members(flow):
                if part in names:
                    found.setdefault(names[part], []).append(member)
    return found


def _members(flow: Element) -> tuple[tuple[str, SetMember], ...]:
    match flow:
        case (source, protocol, source_port, destination, destination_port):
            by_source, by_destination = FLOW_PARTS
            return (
                (by_source, (source, protocol, source_port, destination)),
                (by_destination, (source, protocol, destination_port, destination)),
            )
    return ()
