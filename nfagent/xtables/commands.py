"""The commands by which a shell makes one ruleset the other: of ipset, nfacct and iptables-restore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from nfagent.model.netaddr import Family
from nfagent.nftables.objects import Ruleset
from nfagent.xtables.changes import StepGroup, grouped, restore_input
from nfagent.xtables.found import UNKNOWN_RULE
from nfagent.xtables.lowering import lower
from nfagent.xtables.objects import HookKey
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.order import steps
from nfagent.xtables.steps import (
    AddAccounts,
    AddMember,
    CreateSet,
    DeleteAccounts,
    DeleteMember,
    DestroySet,
    Restore,
    SwapSets,
)
from nfagent.xtables.text import create_text, member_text


def shell_commands(
    found: Ruleset, wanted: Ruleset, options: LoweringOptions, restore: Mapping[Family, str]
) -> Iterator[str]:
    """Yield the commands, in the order in which the agent takes the steps. Raises NameCollisionError.

    restore: the programs of the variant that the rules are in; the other one would judge packets twice
    found:   as `found_ruleset` returns it: of a chain that is listed otherwise than it was written, all is written
    """
    before, after = lower(_without_unknown(found), options)[0], lower(wanted, options)[0]
    for group in grouped(steps(before, after)):
        yield from _of_group(group, before.hooks, restore)


def _without_unknown(found: Ruleset) -> Ruleset:
    chains = {
        name: msgspec.structs.replace(chain, rules=()) if UNKNOWN_RULE in chain.rules else chain
        for name, chain in found.chains.items()
    }
    return msgspec.structs.replace(found, chains=chains)


def _of_group(group: StepGroup, hooks: dict[HookKey, str], restore: Mapping[Family, str]) -> Iterator[str]:
    if isinstance(group[0], Restore):
        yield f"{restore[group[0].family]} --noflush <<'END'"
        yield from restore_input(group, hooks).removesuffix("\n").split("\n")
        yield "END"
        return
    for step in group:
        match step:
            case CreateSet(name, item):
                yield f"ipset -exist {create_text(name, item)}"
                yield from (f"ipset -exist add {name} {text}" for text in sorted(map(member_text, item.members)))
            case AddMember(name, member):
                yield f"ipset -exist add {name} {member_text(member)}"
            case DeleteMember(name, member):
                yield f"ipset -exist del {name} {member_text(member)}"
            case SwapSets(name, other):
                yield f"ipset swap {name} {other}"
            case DestroySet(name):
                yield f"ipset destroy {name}"
            case AddAccounts(names):
                yield from (f"nfacct add {name}" for name in names)
            case DeleteAccounts(names):
                yield from (f"nfacct delete {name}" for name in names)
