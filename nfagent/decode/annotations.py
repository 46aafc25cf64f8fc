"""Annotations of objects: switches that are on with exactly one value."""

from __future__ import annotations

from nfagent.decode.fields import DocumentField
from nfagent.errors import ObjectError, ValidationIssue

AUDIT = "nfagent.io/audit"
"""On a policy, or on a Namespace for its NetworkPolicies: what they alone would deny passes (docs/audit-mode.md)."""

_AUDIT_VALUES = {"true": True, "false": False}


def has_annotation(top: DocumentField, key: str) -> bool:
    """Return whether an annotation is exactly the string "true"; with any other value it is off.

    top: the whole document. Annotations that are no mapping have no keys: this never raises.
    """
    metadata = top.value.get("metadata") if isinstance(top.value, dict) else None
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return isinstance(annotations, dict) and annotations.get(key) == "true"


def read_audit(annotations: DocumentField) -> bool:
    """Return whether annotations ask for audit mode. Raises ObjectError for another value than "true" or "false"."""
    field = annotations / AUDIT
    if field.missing:
        return False
    audit = _AUDIT_VALUES.get(field.value) if isinstance(field.value, str) else None
    if audit is None:
        raise field.error('is neither "true" nor "false"; write one of them in quotes, or delete the annotation')
    return audit


def policy_audit(top: DocumentField) -> tuple[bool, ValidationIssue | None]:
    """Return whether a policy is annotated for audit mode; if that can't be read, False and why.

    top: the whole document
    """
    try:
        return read_audit(top / "metadata" / "annotations"), None
    except ObjectError as error:
        return False, error.problem
