"""The objects of deploy/, as kustomize and Helm render them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.support.packet_labs import Document

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "nfagent"
_BUILT = ROOT / "build" / "kubernetes"


def program(name: str) -> str | None:
    """Return the path of a program that `make helm` built, or of an installed one; None without."""
    return str(_BUILT / name) if (_BUILT / name).exists() else shutil.which(name)


def kustomized(folder: Path) -> list[Document]:
    """Return the objects of a kustomization; skips the test where neither kustomize nor kubectl is here."""
    for name, arguments in (("kustomize", ["build"]), ("kubectl", ["kustomize"])):
        if (found := program(name)) is not None:
            return _documents([found, *arguments, str(folder)])
    pytest.skip("neither kustomize nor kubectl is here: make helm")


def templated(*options: str) -> list[Document]:
    """Return the objects of the chart, rendered with options of `helm template`; skips the test without Helm."""
    return _documents([helm(), "template", "nfagent", str(CHART), "--namespace", "nfagent", *options])


def helm() -> str:
    """Return Helm's path; skips the test without it."""
    found = program("helm")
    if found is None:
        pytest.skip("helm isn't here: make helm")
    return found


def _documents(command: Sequence[str]) -> list[Document]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def one(documents: Sequence[Document], kind: str) -> Document:
    """Return the only object of a kind."""
    (found,) = [document for document in documents if document["kind"] == kind]
    return found
