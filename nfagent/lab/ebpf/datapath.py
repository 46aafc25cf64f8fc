"""Writes map entries in an order that never opens more than before and after, and keeps the program on Pods' links."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nfagent.lab.ebpf.codec import (
    NO_PACKETS,
    EbpfSettings,
    EndpointEntry,
    address_key,
    endpoint_value,
    entry_key,
    number_value,
    prefix_key,
    settings_value,
)
from nfagent.lab.ebpf.program import EbpfProgram
from nfagent.lab.ebpf.state import EbpfChange
from nfagent.state.cluster import PodKey

_FIRST = number_value(0)
_GENERATIONS = 2**32


class EbpfDatapath:
    """The entries and links of a loaded program.

    settings: as written
    """

    def __init__(self, program: EbpfProgram) -> None:
        """Start with empty maps."""
        self._program = program
        self._maps = program.maps
        self.settings = EbpfSettings()
        self._endpoints: dict[PodKey, EndpointEntry] = {}
        self._links: dict[PodKey, int] = {}

    def apply(self, change: EbpfChange, settings: EbpfSettings) -> None:
        """Write a change. Raises KernelError; then the maps may have a part of it, and all is to be written again.

        A policy's entries are there before an identity or an endpoint leads to them, and are deleted afterwards. The
        last write is the generation, which makes every known connection be decided again: from then on, no packet of a
        connection passes that isn't allowed any more.
        """
        maps = self._maps
        maps.policies.update_all({entry_key(entry): NO_PACKETS for entry in change.policy_puts})
        maps.blocks.update_all({prefix_key(key): number_value(number) for key, number in change.block_puts.items()})
        maps.identities.update_all(
            {address_key(address): number_value(number) for address, number in change.identity_puts.items()}
        )
        maps.unmasqueraded.update_all({prefix_key(key): number_value(1) for key in change.unmasqueraded_puts})
        for pod, entry in change.endpoints.items():
            self._put_endpoint(pod, entry)
        maps.identities.delete_all([address_key(address) for address in change.identity_deletes])
        maps.blocks.delete_all([prefix_key(key) for key in change.block_deletes])
        maps.policies.delete_all([entry_key(entry) for entry in change.policy_deletes])
        maps.unmasqueraded.delete_all([prefix_key(key) for key in change.unmasqueraded_deletes])
        generation = (self.settings.generation + change.revokes) % _GENERATIONS
        settings = msgspec.structs.replace(settings, generation=generation)
        if settings != self.settings:
            maps.configuration.update(_FIRST, settings_value(settings))
            self.settings = settings

    def follow_links(self, links: Mapping[str, int]) -> None:
        """Attach the program to the links of Pods that have one now. Raises KernelError.

        links: address -> interface index
        """
        for pod, entry in self._endpoints.items():
            link = next((links[address] for address in entry.addresses if address in links), None)
            if link == self._links.get(pod):
                continue
            if pod in self._links:
                self._detach(pod)
            if link is not None:
                self._maps.endpoints.update(number_value(link), endpoint_value(entry))
                self._program.attach(link)
                self._links[pod] = link

    @property
    def missing_links(self) -> list[str]:
        """The Pods of this node without a link, each as NAMESPACE/NAME."""
        return sorted("/".join(pod) for pod in self._endpoints.keys() - self._links.keys())

    @property
    def pods(self) -> dict[int, str]:
        """The Pods by the interface index of their links, each as NAMESPACE/NAME."""
        return {link: "/".join(pod) for pod, link in self._links.items()}

    def _put_endpoint(self, pod: PodKey, entry: EndpointEntry | None) -> None:
        before = self._endpoints.pop(pod, None)
        if entry is not None:
            self._endpoints[pod] = entry
        if pod not in self._links:
            return
        if entry is None or (before is not None and before.addresses != entry.addresses):
            self._detach(pod)
        else:
            self._maps.endpoints.update(number_value(self._links[pod]), endpoint_value(entry))

    def _detach(self, pod: PodKey) -> None:
        link = self._links.pop(pod)
        self._program.detach(link)
        self._maps.endpoints.delete(number_value(link))
