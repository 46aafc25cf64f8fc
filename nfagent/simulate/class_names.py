"""Names of classes of Pods: by their namespace and labels, and by what tells two of the same labels apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nfagent.model.objects import Labels
from nfagent.simulate.pod_classes import PodClass
from nfagent.simulate.policy_sight import PolicySight

_OF_CONTROLLERS = {
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "controller-revision-hash",
    "controller-uid",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
}
"""Labels that controllers give, different for each Pod or each rollout."""
_SHOWN = 3
_BLOCKS_SHOWN = 2


def class_names(classes: Sequence[PodClass], sight: PolicySight) -> Iterator[str]:
    """Yield the name of each class of a sorted list, in that order: `shop app=web`; each name once."""
    start = 0
    while start < len(classes):
        end = start
        while end < len(classes) and classes[end].key.namespace == classes[start].key.namespace:
            end += 1
        yield from _names_in_namespace(classes[start:end], sight)
        start = end


def labels_text(labels: Labels) -> str:
    """Return labels without those of controllers: `app=web,tier=front`; `no labels` where there are no others."""
    return ",".join(f"{key}={value}" for key, value in labels if key not in _OF_CONTROLLERS) or "no labels"


def _names_in_namespace(classes: Sequence[PodClass], sight: PolicySight) -> Iterator[str]:
    namespace = classes[0].key.namespace
    if len(classes) == 1 and len({labels_text(one) for one in classes[0].labels}) > 1:
        yield f"{namespace} all Pods"
        return
    plain = [_labels_of(one) for one in classes]
    alike: dict[str, int] = {}
    for name in plain:
        alike[name] = alike.get(name, 0) + 1
    taken: set[str] = set()
    for one, name in zip(classes, plain, strict=True):
        marks = list(_marks(one))
        if alike[name] > 1:
            marks += _differences(one, sight)
        made = " ".join([namespace, name, *([f"[{', '.join(marks)}]"] if marks else [])])
        if made in taken:
            made = f"{made} {one.pods[0].name}"
        taken.add(made)
        yield made


def _labels_of(one: PodClass) -> str:
    texts = list(dict.fromkeys(map(labels_text, one.labels)))
    more = len(texts) - _SHOWN
    return " | ".join([*texts[:_SHOWN], *([f"{more} more"] if more > 0 else [])])


def _marks(one: PodClass) -> Iterator[str]:
    """Yield what sets a class apart whatever the others are."""
    if not one.is_known:
        yield "no address yet"
    if not one.judged:
        yield "host network"
    if one.key.alone:
        yield f"shared address, {one.key.alone}"


def _differences(one: PodClass, sight: PolicySight) -> Iterator[str]:
    """Yield what may differ between classes of the same labels."""
    if one.key.ports:
        yield "ports " + " ".join(f"{port.name}={port.port}/{port.protocol}" for port in one.key.ports)
    families = {view.family for view in one.key.addresses}
    if len(families) == 1:
        yield f"IPv{families.pop()} only"
    bits = 0
    for view in one.key.addresses:
        bits |= view.bits
    blocks = sight.blocks_of(bits)
    if blocks:
        more = len(blocks) - _BLOCKS_SHOWN
        yield "in " + " ".join([*blocks[:_BLOCKS_SHOWN], *([f"and {more} more"] if more > 0 else [])])
    if one.key.node:
        yield f"on {one.key.node}"
