"""Label selectors (meta/v1 LabelSelector): matching, and their text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

Operator: TypeAlias = Literal["In", "NotIn", "Exists", "DoesNotExist"]


class Requirement(msgspec.Struct, frozen=True, order=True):
    """One requirement of a label selector; `values` are sorted, and empty for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether labels match; NotIn and DoesNotExist match a missing label.

        See docs/semantics.md, edge case 16.
        """
        match self.operator:
            case "In":
                return self._lists(labels.get(self.key))
            case "NotIn":
                return not self._lists(labels.get(self.key))
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels

    def _lists(self, value: str | None) -> bool:
        # A binary search: ten thousand values are as fast as ten.
        at = len(self.values) if value is None else bisect_left(self.values, value)
        return at < len(self.values) and self.values[at] == value

    def __str__(self) -> str:
        """Return it in the syntax of `kubectl get -l`."""
        match self.operator:
            case "In" if len(self.values) == 1:
                return f"{self.key}={self.values[0]}"
            case "In":
                return f"{self.key} in ({','.join(self.values)})"
            case "NotIn" if len(self.values) == 1:
                return f"{self.key}!={self.values[0]}"
            case "NotIn":
                return f"{self.key} notin ({','.join(self.values)})"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"


class Selector(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """A label selector: all requirements must match; without any, it matches everything.

    Requirements are sorted and unique, so that equivalent selectors are mostly equal values.
    """

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether labels match."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        """Return it in the syntax of `kubectl get -l`, or `all`."""
        return ",".join(map(str, self.requirements)) or "all"
