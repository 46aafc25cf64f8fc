"""What is in a node's nftables: the rules of each chain, the elements of each set, and the counters."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import msgspec

from nfagent.lab.cluster.agents import LabAgent

_POLL_SECONDS = 0.05
_REPLY_TUPLES = {"nfagent/revoked4", "nfagent/revoked6"}


class TableContents(msgspec.Struct, frozen=True):
    """The contents of all tables of a node. Names are TABLE/NAME.

    chains:   number of rules
    sets:     number of elements, of sets and maps
    counters: named counters
    """

    chains: dict[str, int] = {}
    sets: dict[str, int] = {}
    counters: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        """The number of elements of all sets."""
        return sum(self.sets.values())

    @property
    def reply_tuples(self) -> int:
        """The number of reply tuples of revoked connections: each stays for as long as its packets may be under way."""
        return sum(number for name, number in self.sets.items() if name in _REPLY_TUPLES)

    def differences(self, other: TableContents) -> Iterator[str]:
        """Yield what another contents has more, less or different; reply tuples are left out."""
        for what, mine, theirs in (("chain", self.chains, other.chains), ("set", self.sets, other.sets)):
            for name in sorted(mine.keys() | theirs.keys()):
                if mine.get(name) != theirs.get(name) and name not in _REPLY_TUPLES:
                    yield f"{what} {name}: {_counted(mine.get(name))} at first, {_counted(theirs.get(name))} now"
        for name in sorted({*self.counters} ^ {*other.counters}):
            yield f"counter {name}: {'missing' if name in self.counters else 'new'}"


def contents(agent: LabAgent) -> TableContents:
    """Read the contents of the nftables of an agent's node. Raises KernelError."""
    chains: dict[str, int] = {}
    sets: dict[str, int] = {}
    counters = []
    for entry in json.loads(agent.nft("-j", "list", "ruleset"))["nftables"]:
        (kind, item), *_ = entry.items()
        match kind:
            case "chain":
                chains.setdefault(f"{item['table']}/{item['name']}", 0)
            case "rule":
                name = f"{item['table']}/{item['chain']}"
                chains[name] = chains.get(name, 0) + 1
            case "set" | "map":
                sets[f"{item['table']}/{item['name']}"] = len(item.get("elem", ()))
            case "counter":
                counters.append(f"{item['table']}/{item['name']}")
    return TableContents(chains, sets, tuple(sorted(counters)))


def remaining_differences(agent: LabAgent, wanted: TableContents, seconds: float) -> list[str]:
    """Wait until a node's contents are as wanted, for so many seconds at most; return what is still different.

    The agent writes table bridge after table inet, later still where repairs are spaced.

    Raises KernelError.
    """
    end = time.monotonic() + seconds
    while True:
        found = list(wanted.differences(contents(agent)))
        if not found or time.monotonic() > end:
            return found
        time.sleep(_POLL_SECONDS)


def _counted(number: int | None) -> str:
    return "none" if number is None else str(number)
