"""Annotations of objects: switches that are on with exactly one value."""

from __future__ import annotations

from nfagent.decode.fields import DocumentField

AUDIT = "nfagent.io/audit"
"""On a policy, or on a Namespace for its NetworkPolicies: what they alone would deny passes (docs/audit-mode.md)."""


def has_annotation(top: DocumentField, key: str) -> bool:
    """Return whether an annotation is exactly the string "true"; with any other value it is off.

    top: the whole document. Annotations that are no mapping have no keys: this never raises.
    """
    metadata = top.value.get("metadata") if isinstance(top.value, dict) else None
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return isinstance(annotations, dict) and annotations.get(key) == "true"
