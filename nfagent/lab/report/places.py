"""Scenarios and sizes in words, many of them together."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nfagent.lab.latency.samples import SCENARIOS, ScenarioName
from nfagent.lab.report.words import listed


class Place(msgspec.Struct, frozen=True):
    """A scenario at a size."""

    scenario: ScenarioName
    policies: int
    pods: int


class PlacesByText:
    """Texts, each with the places that it is true of."""

    def __init__(self, *, several_pods: bool) -> None:
        """Start empty; `several_pods` has the number of Pods in the words too, since places differ in it."""
        self._several_pods = several_pods
        self._places: dict[str, list[Place]] = {}

    def add(self, text: str, place: Place) -> None:
        """Add a place that a text is true of."""
        self._places.setdefault(text, []).append(place)

    def lines(self) -> list[str]:
        """Return each text after its places: `policy-created, with 0 and 1,000 background policies: text`."""
        return [f"{self._words(places)}: {text}" for text, places in self._places.items()]

    def _words(self, places: Iterable[Place]) -> str:
        """Return places: scenarios that have the same sizes are named together."""
        sizes: dict[tuple[int, ScenarioName], list[int]] = {}
        for place in places:
            sizes.setdefault((place.pods, place.scenario), []).append(place.policies)
        scenarios: dict[tuple[int, tuple[int, ...]], list[str]] = {}
        for (pods, scenario), policies in sizes.items():
            scenarios.setdefault((pods, tuple(policies)), []).append(scenario)
        return "; ".join(
            f"{_names(names)}, with {self._size(policies, pods)}" for (pods, policies), names in scenarios.items()
        )

    def _size(self, policies: tuple[int, ...], pods: int) -> str:
        noun = "background policy" if policies == (1,) else "background policies"
        words = f"{listed([f'{count:,}' for count in policies])} {noun}"
        return f"{words} and {pods:,} Pods" if self._several_pods else words


def _names(scenarios: list[str]) -> str:
    return f"all {len(SCENARIOS)} scenarios" if len(scenarios) == len(SCENARIOS) else listed(scenarios)
