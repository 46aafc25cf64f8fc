"""Two network namespaces: transactions reach one as nft text, by libnftables, and the other as bytes, by our socket.

Their tables are compared in the kernel's raw dumps, and in the JSON listing of nft.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import nftables

from nfagent.kernel.nft_socket import NftSocket
from nfagent.lab.topology import netns
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE, NFPROTO_INET, table_of
from nfagent.nftables.transaction import Transaction, transaction_text
from tests.support.raw_tables import RawTable, raw_table

FAMILIES = (NFPROTO_INET, NFPROTO_BRIDGE)
_VARYING = frozenset(("handle", "packets", "bytes"))


class TwinTables:
    """The two namespaces; a context manager, which makes and removes them.

    by_text, by_bytes: their names
    """

    def __init__(self) -> None:
        """Name the namespaces."""
        start = f"{netns.prefix('twin', os.getpid())}{uuid4().hex[:6]}"
        self.by_text, self.by_bytes = f"{start}text", f"{start}bytes"

    def __enter__(self) -> Self:
        """Make the namespaces, and open a socket and libnftables in them."""
        names = (self.by_text, self.by_bytes)
        netns.make(names)
        try:
            self._nft = {name: netns.inside(name, nftables.Nftables) for name in names}
            self._socket = netns.inside(self.by_bytes, NftSocket)
        except BaseException:
            netns.remove(names)
            raise
        for nft in self._nft.values():
            nft.set_json_output(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the namespaces."""
        self._socket.close()
        self._nft.clear()
        netns.remove((self.by_text, self.by_bytes))

    def clear(self) -> None:
        """Remove all tables."""
        for name in self._nft:
            self.run_nft(name, "flush ruleset")

    def apply(self, transaction: Transaction, *, family: int = NFPROTO_INET) -> None:
        """Load the text of a transaction in one namespace, and commit its bytes in the other."""
        self.load(transaction_text(transaction, table_of(family)))
        self.commit(transaction, family=family)

    def load(self, text: str) -> None:
        """Load text, in the namespace for it only."""
        self.run_nft(self.by_text, text)

    def commit(self, transaction: Transaction, *, family: int = NFPROTO_INET) -> None:
        """Commit bytes, in the namespace for them only."""
        self._socket.commit(transaction, family=family)

    def takes(self, text: str) -> bool:
        """Return whether libnftables takes commands, in a dry run."""
        nft = self._nft[self.by_text]
        nft.set_dry_run(True)
        try:
            return bool(nft.cmd(text)[0] == 0)
        finally:
            nft.set_dry_run(False)

    def run_nft(self, name: str, commands: str) -> str:
        """Run commands of nft in a namespace; return its output."""
        status, output, error = self._nft[name].cmd(commands)
        assert status == 0, f"{error}{commands}"
        return str(output)

    def raw(self, name: str) -> RawTable:
        """Return the kernel's dumps of table nfagent of both families in a namespace."""
        tables = netns.inside(name, lambda: {family: raw_table(family) for family in FAMILIES})
        return {f"{family}: {what}": item for family, table in tables.items() for what, item in table.items()}

    def listing(self, name: str) -> dict[str, Any]:
        """Return nft's listing of all tables in a namespace, as `listed_objects`."""
        return listed_objects(self.run_nft(name, "list ruleset"))

    def differences(self) -> dict[str, tuple[Any, Any]]:
        """Return the objects that differ, as dumped or as listed: by text, and by bytes; None for an absent one."""
        raw = _differences(self.raw(self.by_text), self.raw(self.by_bytes))
        listed = _differences(self.listing(self.by_text), self.listing(self.by_bytes))
        return {**listed, **{f"dump {name}": both for name, both in raw.items()}}


def listed_objects(text: str) -> dict[str, Any]:
    """Return the objects of nft's JSON listing, by kind and name, rules by chain and number.

    Without handles and counter values; elements in a fixed order.
    """
    found: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    for kind, item in _entries(json.loads(text)["nftables"]):
        where = f"{item['family']} {item.get('table', '')}"
        name = item.get("name", "")
        if kind == "rule":
            chain = f"{where} {item['chain']}"
            numbers[chain] = numbers.get(chain, 0) + 1
            name = f"{numbers[chain]} of {item['chain']}"
        kept = {key: value for key, value in item.items() if key not in _VARYING}
        if "elem" in kept:
            kept["elem"] = sorted(kept["elem"], key=json.dumps)
        found[f"{kind} {where} {name}"] = kept
    return found


def _entries(listed: Iterable[dict[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    return [(kind, item) for entry in listed for kind, item in entry.items() if kind != "metainfo"]


def _differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(one.keys() | other.keys())
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}
