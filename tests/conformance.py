"""Where the recorded conformance cases are: a folder beside the repository, or NFAGENT_CONFORMANCE."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("NFAGENT_CONFORMANCE", Path(__file__).parents[2] / "shared" / "conformance"))


def load_conformance(name: str) -> dict[str, Any]:
    """Give a suite, or skip the module that asks, visibly, where the folder is missing."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no {name} in {FOLDER}: set NFAGENT_CONFORMANCE to its folder", allow_module_level=True)
    suite: dict[str, Any] = json.loads(path.read_bytes())
    return suite
