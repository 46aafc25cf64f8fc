"""The checks of optional kinds and their CRDs, for `nfagent check --cluster`."""

from __future__ import annotations

from nfagent.cli.check_result import Check
from nfagent.errors import ClusterError
from nfagent.kube.client import ApiClient
from nfagent.kube.discovery import ACCEPT, PATH, decode_discovery
from nfagent.kube.self_review import Version
from nfagent.kube.served_versions import (
    OPTIONAL,
    ResourceAvailability,
    Served,
    decode_group,
    decode_resources,
    resource_availability,
)
from nfagent.kube.watch_codec import decode_status

_OWN_GROUP = "networking.gke.io"
_FAMILIES = (
    ("own kinds", _OWN_GROUP),
    ("tier kinds", "policy.networking.k8s.io"),
    ("Service ranges", "networking.k8s.io"),
)
"""Name of a check -> API group of the kinds that it covers."""

_WITHOUT = {
    "policy.networking.k8s.io": "once their CRDs exist, nfagent watches them within a minute",
    "networking.k8s.io": "set the Service ranges in cluster.service_cidrs",
}
_OK = 200
_NOT_FOUND = 404
_CIDR_FUNCTIONS_MINOR = 31


async def kind_checks(server: ApiClient, version: Version | None) -> list[Check]:
    """Return a check for each group of optional kinds. Raises ClusterError."""
    found = resource_availability(await _served(server))
    return [
        _family(name, [each for each in found if each.resource.group == group], version) for name, group in _FAMILIES
    ]


async def _served(server: ApiClient) -> Served:
    """Return the served kinds, by aggregated discovery; by group for API servers before 1.26. Raises ClusterError."""
    answer = await server.request("GET", PATH, accept=ACCEPT)
    found = decode_discovery(answer.body) if answer.status == _OK else None
    if found is not None:
        return found
    served = set[tuple[str, str]]()
    for group in dict.fromkeys(resource.group for resource in OPTIONAL):
        for version in decode_group(await _body(server, f"{PATH}/{group}")):
            listed = decode_resources(await _body(server, f"{PATH}/{group}/{version}"))
            served |= {(f"{group}/{version}", plural) for plural in listed}
    return frozenset(served)


async def _body(server: ApiClient, path: str) -> bytes:
    answer = await server.request("GET", path)
    if answer.status not in {_OK, _NOT_FOUND}:
        raise ClusterError(f"{path}: {decode_status(answer.body, answer.status)}", hint="see: kubectl api-resources")
    return answer.body if answer.status == _OK else b""


def _family(name: str, kinds: list[ResourceAvailability], version: Version | None) -> Check:
    absent = ", ".join(each.resource.kind for each in kinds if each.absent)
    there = ", ".join(str(each) for each in kinds if not each.absent)
    words = "; ".join(filter(None, (there, absent and f"not served: {absent}")))
    group = kinds[0].resource.group
    if any(each.others for each in kinds):
        crds = ", ".join(f"{each.resource.plural}.{group}" for each in kinds if each.others)
        fix = f"serve the version that nfagent reads: kubectl edit crd {crds.replace(',', '')}"
        return Check(name, "warn", words, fix)
    if all(each.served for each in kinds):
        return Check(name, "ok", words)
    if group == _OWN_GROUP:
        old = version is not None and version.minor < _CIDR_FUNCTIONS_MINOR
        return Check(name, "warn", words, f"kubectl apply -k deploy/{'crds-before-1.31' if old else 'crds'}")
    return Check(name, "ok", f"{words}; {_WITHOUT[group]}")
