"""Decodes subjects and peers of tier policies (policy.networking.k8s.io): Pods, Nodes, networks.

Each is a mapping with exactly one field; an unknown field, of a newer API version, is an error, as the API types
require. All functions raise ObjectErrors.
"""

from __future__ import annotations

from nfagent.decode.crd_validation import entries, known_fields, only_field
from nfagent.decode.fields import DocumentField
from nfagent.decode.selectors import decode_selector
from nfagent.model.admin_policy import NodePeer, TierPeer
from nfagent.model.netaddr import canonical, family_of
from nfagent.model.networkpolicy import IpBlock, PodPeer
from nfagent.model.objects import Direction
from nfagent.model.selectors import Selector

_MOST_NETWORKS = 25
_LONGEST_CIDR = 43


def decode_subject(field: DocumentField, *, namespaces_required: bool) -> PodPeer:
    """Read spec.subject; `namespaces_required`: `pods` can't leave namespaceSelector out (v1alpha1)."""
    form, value = only_field(field, "namespaces", "pods")
    return _pods(form, value, namespaces_required=namespaces_required)


def decode_peer(field: DocumentField, direction: Direction, *, namespaces_required: bool) -> tuple[TierPeer, ...]:
    """Read an entry of `from` or `to`; `networks` results in one peer for each CIDR."""
    if direction == "ingress":
        form, value = only_field(field, "namespaces", "pods")
    else:
        names = field / "domainNames"
        if not names.missing:
            raise names.error("is not supported yet; write networks with the addresses of these names")
        form, value = only_field(field, "namespaces", "pods", "nodes", "networks")
    if form == "nodes":
        return (NodePeer(_selector(value)),)
    if form == "networks":
        return _networks(value)
    return (_pods(form, value, namespaces_required=namespaces_required),)


def _pods(form: str, field: DocumentField, *, namespaces_required: bool) -> PodPeer:
    if form == "namespaces":
        return PodPeer(Selector(), namespaces=_selector(field))
    known_fields(field, "namespaceSelector", "podSelector")
    namespaces, pods = field / "namespaceSelector", field / "podSelector"
    if namespaces_required and namespaces.missing:
        raise namespaces.error("is missing; write {} for every Namespace")
    if pods.missing:
        raise pods.error("is missing; write {} for every Pod")
    return PodPeer(_selector(pods), namespaces=_selector(namespaces))


def _selector(field: DocumentField) -> Selector:
    # Without this check, labels outside matchLabels would be ignored, and the selector would match everything.
    known_fields(field, "matchLabels", "matchExpressions")
    return decode_selector(field)


def _networks(field: DocumentField) -> tuple[IpBlock, ...]:
    found: dict[str, IpBlock] = {}
    for entry in entries(field, _MOST_NETWORKS, "write CIDRs, 0.0.0.0/0 and ::/0 for every address"):
        text = entry.string()
        if len(text) > _LONGEST_CIDR:
            raise entry.error(f"is longer than {_LONGEST_CIDR} characters; write the CIDR's shortest form")
        block = IpBlock(entry.cidr())
        # With a short prefix, masking removes the bits that show a mapped address.
        if ":" in text and family_of(canonical(text.partition("/")[0])) == 4:
            raise entry.error("is an IPv4-mapped IPv6 CIDR; write it as an IPv4 CIDR")
        if text in found:
            raise entry.error("is a duplicate; delete one")
        found[text] = block
    return tuple(found.values())
