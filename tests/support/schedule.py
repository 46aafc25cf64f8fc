"""Which process runs which tests, where `--dist loadfile` has several."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

APISERVER = "tests/apiserver/"
"""One process runs all of these: each process that runs one of them starts an etcd and a kube-apiserver."""


class FileSchedule(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """The tests of a module run in one process, and those of the API server all in the same."""

    def _split_scope(self, nodeid: str) -> str:
        return APISERVER if nodeid.startswith(APISERVER) else str(super()._split_scope(nodeid))
