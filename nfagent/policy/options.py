"""Settings for what the API leaves open (docs/semantics.md lists every choice, with or without a setting)."""

from __future__ import annotations

from typing import Literal

import msgspec


class PolicyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `[policy]` of the settings.

    own_node: connections of an egress-isolated Pod to its own node: 'judged' by its policies like any destination,
              or always 'allowed', as the API documentation says (docs/semantics.md, edge case 51)
    unrouted_sources: packets from a Pod's interface with a source that the node routes elsewhere: 'dropped', or
              'judged' by that source, which no Pod peer selects: for Pods that route for others
    unknown_pods: forwarded packets of addresses in this node's Pod ranges that no known Pod has, such as those of a
              Pod whose status has no address yet: 'passed', or 'held', which drops them
    """

    own_node: Literal["judged", "allowed"] = "judged"
    unrouted_sources: Literal["dropped", "judged"] = "dropped"
    unknown_pods: Literal["passed", "held"] = "passed"

    @property
    def drops_unrouted(self) -> bool:
        """Return whether packets with a source that is not routed to their interface are dropped."""
        return self.unrouted_sources == "dropped"

    @property
    def holds_unknown(self) -> bool:
        """Return whether packets of unknown addresses in this node's Pod ranges are dropped."""
        return self.unknown_pods == "held"
