"""The oracle of text and bytes: each node's transactions reach real tables both ways, and these are compared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

from nfagent.errors import HostError, KernelError, WireError
from nfagent.nftables.transaction import Transaction
from tests.support.fake_nftables import FakeNftables
from tests.support.twin_tables import TwinTables
from tests.support.two_node_cluster import NODES

_SHOWN = 3


class KernelTables:
    """Two tables for each node, in network namespaces of their own; needs root."""

    def __init__(self, make: Callable[[], TwinTables] = TwinTables) -> None:
        """Name the namespaces; `make` returns the two of a node."""
        self._twins = {name: make() for name in NODES}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Make the namespaces."""
        with contextlib.ExitStack() as unless_all_exist:
            for twins in self._twins.values():
                unless_all_exist.enter_context(twins)
            self._stack = unless_all_exist.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the namespaces."""
        self._stack.close()

    def kernels(self) -> dict[str, TwinnedNftables]:
        """Return a kernel without tables for each node; earlier ones are no longer used."""
        return {name: TwinnedNftables(twins) for name, twins in self._twins.items()}


class TwinnedNftables(FakeNftables):
    """The fake kernel of the interpreted rules, whose transactions the real tables get too."""

    def __init__(self, twins: TwinTables) -> None:
        """Start without tables."""
        super().__init__()
        self._twins = twins
        self._refusal = ""
        twins.clear()

    def apply(self, transaction: Transaction) -> None:
        """Apply a transaction everywhere; a refusal by the real kernel is kept for `difference`."""
        super().apply(transaction)
        try:
            self._twins.apply(transaction)
        except (AssertionError, KernelError, HostError, WireError) as error:
            self._refusal = self._refusal or f"refused: {error}"

    def difference(self) -> str:
        """Return how the tables differ; '' where they are equal."""
        if self._refusal:
            return self._refusal
        found = self._twins.differences()
        words = [f"{name}: {one} by text, {other} by bytes" for name, (one, other) in found.items()]
        return "; ".join([*words[:_SHOWN], *([f"{len(words) - _SHOWN} more"] if len(words) > _SHOWN else [])])
