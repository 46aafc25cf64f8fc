"""Debian packages of this checkout and of an older commit, for tests: built once, and kept in build/deb."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

CHECKOUT = Path(__file__).parents[2]


def build(program: str, *arguments: str, checkout: Path = CHECKOUT, **environment: str) -> Path:
    """Run a program of packaging/, which prints the path of what it made; skip the test without a package index."""
    done = subprocess.run(
        [checkout / program, sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if "can't be fetched" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout / done.stdout.splitlines()[-1]


def debian_package(checkout: Path) -> Path:
    """Return the package of a checkout, from an earlier run where no file has changed since."""
    version = subprocess.run(
        [checkout / "packaging/version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    found = list((checkout / "build/deb").glob(f"nfagent_{version}_*.deb"))
    return (
        found[0]
        if found and not version.endswith("+changed")
        else build("packaging/deb/build-package", checkout=checkout, NFAGENT_XZ="1")
    )


def this_package() -> Path:
    """Return the package of this checkout; NFAGENT_DEB names one that is there already."""
    given = os.environ.get("NFAGENT_DEB")
    return Path(given) if given else debian_package(CHECKOUT)


def older_package(commit: str, folder: Path) -> Path | str:
    """Return the package of an older commit, built in a new clone in a folder; or why there is none.

    NFAGENT_PACKAGE_OLD names another commit.
    """
    commit = os.environ.get("NFAGENT_PACKAGE_OLD") or commit
    checkout = folder / uuid4().hex[:8]
    clone = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(CHECKOUT), str(checkout)]
    named = subprocess.run(
        ["git", "rev-parse", "--verify", f"{commit}^{{commit}}"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if named.returncode or subprocess.run(clone, capture_output=True, check=False).returncode:
        return f"there is no commit {commit} here: NFAGENT_PACKAGE_OLD names another one"
    subprocess.run(["git", "checkout", "--quiet", named.stdout.strip()], cwd=checkout, check=True)
    if not (checkout / "packaging/deb/build-package").exists():
        return f"{commit} has no Debian package: NFAGENT_PACKAGE_OLD names another commit"
    # Wheels and packages of earlier runs are there.
    (checkout / "build").symlink_to(CHECKOUT / "build")
    return debian_package(checkout)


def named_version(package: Path) -> str:
    """Return the version that the name of a package's file has."""
    found = re.fullmatch(r"nfagent_(.+)_[a-z0-9]+\.deb", package.name)
    assert found is not None, package
    return found[1]
