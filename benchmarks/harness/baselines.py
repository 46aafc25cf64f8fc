"""References of events, one operation at a time, in milliseconds: to be called between the rows' own rounds.

For example:
    with EbpfUpdates() as updates:
        yield Row(values=each(commit, events), reference=updates.ms(100), reference_name="eBPF map update", ...)
    elements = SetElements(netns, "inet", "nfagent", "peers4/...")
    yield Row(values=..., reference=elements.ms(100), reference_name="libnftables' JSON", ...)

"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import nftables

from benchmarks.harness.process_usage import each
from nfagent.errors import KernelError
from nfagent.lab.ebpf.baseline import EbpfPath
from nfagent.lab.ebpf.codec import address_key
from nfagent.lab.topology import netns

_IDENTITY = (1001).to_bytes(4, sys.byteorder)
_ADDRESSES = 4096


class EbpfUpdates:
    """The map update of an eBPF dataplane when a Pod joins a peer set: its address gets the peers' identity."""

    def __init__(self) -> None:
        """Create nothing yet."""
        self._netns = f"{netns.prefix('benchref', os.getpid())}ebpf"
        self._path = EbpfPath(self._netns)
        keys = [address_key(f"10.250.{number >> 8}.{number & 255}") for number in range(_ADDRESSES)]
        self._keys = itertools.cycle(keys)

    def __enter__(self) -> Self:
        """Load the program without attaching it. Raises HostError where it can't be built, KernelError."""
        netns.make([self._netns])
        try:
            self._path.__enter__()
        except BaseException:
            netns.remove([self._netns])
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unload the program."""
        self._path.close()
        netns.remove([self._netns])

    def ms(self, count: int) -> list[float]:
        """Update the map of identities so many times; return the ms of each. Raises KernelError."""
        identities = self._path.maps.identities
        return each(lambda key: identities.update(key, _IDENTITY), itertools.islice(self._keys, count))


class SetElements:
    """The same by libnftables' JSON: add an element to a set, and delete it.

    The set has IPv4 addresses, in a table of a network namespace: '' for this process's own.
    """

    def __init__(self, inside: str, family: str, table: str, name: str) -> None:
        """Open libnftables in the namespace. Raises KernelError where it doesn't exist."""
        self._where = {"family": family, "table": table, "name": name}
        # A context's socket stays in the namespace in which it was opened.
        self._context = netns.inside(inside, nftables.Nftables) if inside else nftables.Nftables()
        self._numbers = itertools.count()

    def ms(self, count: int) -> list[float]:
        """Add so many elements, one a transaction, and delete each in between untimed; return the ms of each.

        Raises KernelError.
        """
        taken: list[float] = []
        for _turn in range(count):
            number = next(self._numbers) % _ADDRESSES
            address = f"10.251.{number >> 8}.{number & 255}"
            taken += each(self._commit, [self._command("add", address)])
            self._commit(self._command("delete", address))
        return taken

    def _command(self, verb: str, address: str) -> dict[str, object]:
        return {"nftables": [{verb: {"element": {**self._where, "elem": [address]}}}]}

    def _commit(self, command: dict[str, object]) -> None:
        status, _output, error = self._context.json_cmd(command)
        if status:
            raise KernelError(error)


def decode_ms(lines: Iterable[bytes]) -> list[float]:
    """Decode JSON documents, one a line, to plain dicts by Python's json; return the ms of each."""
    return each(json.loads, lines)
