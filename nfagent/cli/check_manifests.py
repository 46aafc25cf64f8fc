"""The checks of a folder of manifests, for `nfagent check --manifests DIR`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nfagent.cli.check_result import Check
from nfagent.cli.manifest_state import read_manifests
from nfagent.config import Settings
from nfagent.desired.node_guard import advice
from nfagent.errors import UsageError
from nfagent.model.plurals import counted

_NAME = "manifests"
_SHOWN = 10


def manifest_checks(settings: Settings) -> Iterator[Check]:
    """Yield what is wrong with the objects of the folder, and what it has."""
    folder = Path(settings.manifests)
    try:
        desired, problems = read_manifests(settings, folder)
    except UsageError as error:
        yield Check(_NAME, "FAIL", error.reason, error.hint)
        return
    cluster = desired.cluster
    kinds = (
        (len(cluster.nodes), "Node"),
        (len(cluster.pods), "Pod"),
        (len(desired.index.policies), "policy"),
    )
    words = ", ".join(counted(number, kind) for number, kind in kinds)
    yield Check(_NAME, "ok", f"{words}; {counted(len(cluster.local), 'Pod')} of node {cluster.node}")
    for problem in problems[:_SHOWN]:
        yield Check(_NAME, "warn", str(problem), f"edit {folder / problem.place.partition(':')[0]}")
    if len(problems) > _SHOWN:
        more = counted(len(problems) - _SHOWN, "more problem")
        yield Check(_NAME, "warn", more, f"nfagent dump state --manifests {folder} shows them")
    if cluster.node not in cluster.nodes:
        yield Check("node", "warn", advice(cluster.node, cluster.nodes), "give --node NAME, as its Node object has it")
