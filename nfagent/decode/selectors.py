"""Decodes label selectors (meta/v1 LabelSelector)."""

from __future__ import annotations

from typing import get_args

from nfagent.decode.crd_validation import known_fields
from nfagent.decode.fields import DocumentField
from nfagent.model.selectors import Operator, Requirement, Selector

_OPERATORS: tuple[Operator, ...] = get_args(Operator)


def decode_selector(field: DocumentField) -> Selector:
    """Read a label selector (meta/v1 LabelSelector); a missing one matches everything, like an empty one."""
    known_fields(field, "matchLabels", "matchExpressions")
    found = [Requirement(key, "In", (value,)) for key, value in (field / "matchLabels").labels()]
    found += [_requirement(entry) for entry in (field / "matchExpressions").items()]
    return Selector(tuple(sorted(set(found))))


def _requirement(field: DocumentField) -> Requirement:
    known_fields(field, "key", "operator", "values")
    key = (field / "key").label_key()
    operator = field / "operator"
    values = tuple(sorted({value.label_value() for value in (field / "values").items()}))
    for known in _OPERATORS:
        if operator.value == known:
            if (known in {"In", "NotIn"}) != bool(values):
                wanted = "needs at least one entry" if not values else "must be empty"
                raise (field / "values").error(f"{wanted} with operator {known}")
            return Requirement(key, known, values)
    raise operator.error(f"is not an operator; write {', '.join(_OPERATORS[:-1])} or {_OPERATORS[-1]}")
