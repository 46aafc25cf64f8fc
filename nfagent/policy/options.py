"""What the API leaves open, where nfagent lets its users choose (docs/semantics.md has every choice that was made)."""

from __future__ import annotations

from typing import Literal

import msgspec


class PolicyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The choices that are the user's: section `[policy]` of the settings.

    own_node: a Pod under egress isolation that calls its own node: 'judged' like any destination, or 'allowed'
              always, as the API's documentation says (corner-cases.md 51)
    unrouted_sources: packets from a Pod's interface whose source the node wouldn't answer by it: 'dropped', or
              'judged' by that source, which is nobody's to any policy: for Pods that route for others
    """

    own_node: Literal["judged", "allowed"] = "judged"
    unrouted_sources: Literal["dropped", "judged"] = "dropped"

    @property
    def drops_unrouted(self) -> bool:
        """Tell whether sources are held against the interface."""
        return self.unrouted_sources == "dropped"
