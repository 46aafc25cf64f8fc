"""Prints what the files of a release were made from: `provenance.py VERSION COMMIT TAG LOCKS FILE...`.

An in-toto statement with SLSA's provenance as predicate (slsa.dev/provenance/v1). It has no times and names no machine:
who signs SHA256SUMS, which has this file too, stands for the rest. LOCKS: files whose digests it has besides, joined
by commas.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://slsa.dev/provenance/v1"
_BUILD_TYPE = "nfagent/make-release/v1"


def statement(version: str, commit: str, tag: str, locks: list[Path], files: list[Path]) -> dict[str, object]:
    """Return the statement about files, which are named without their folder. Raises OSError."""
    source = {"uri": f"git+nfagent@{tag or commit}", "digest": {"gitCommit": commit}}
    return {
        "_type": _STATEMENT,
        "subject": [_described(path) for path in sorted(files)],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {"version": version, "tag": tag},
                "resolvedDependencies": [source, *map(_described, locks)],
            },
            "runDetails": {"builder": {"id": "nfagent/packaging/release/create"}},
        },
    }


def _described(path: Path) -> dict[str, object]:
    with path.open("rb") as opened:
        return {"name": path.name, "digest": {"sha256": hashlib.file_digest(opened, "sha256").hexdigest()}}


if __name__ == "__main__":
    version, commit, tag, locks, *files = sys.argv[1:]
    found = statement(version, commit, tag, [Path(lock) for lock in locks.split(",")], [Path(file) for file in files])
    print(json.dumps(found, indent=1))
