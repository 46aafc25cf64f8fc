"""The version that packaging/version gives Debian's package: it grows from commit to commit, and up to the release."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SECOND = "2026-01-31T12:00:00Z"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a repository of nfagent without a commit."""
    if shutil.which("git") is None or shutil.which("dpkg") is None:
        pytest.skip("needs git and dpkg")
    for name in ("packaging/version", "nfagent/__init__.py"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(CHECKOUT / name, tmp_path / name)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    return tmp_path


def git(checkout: Path, *arguments: str, now: str = SECOND) -> None:
    author = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {"GIT_AUTHOR_DATE": now, "GIT_COMMITTER_DATE": now}
    subprocess.run(["git", *arguments], cwd=checkout, env=os.environ | author | dates, check=True, timeout=30)


def commit(checkout: Path, what: str, now: str = SECOND) -> str:
    """Make a commit, and return the version of its package."""
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", what, now=now)
    return version(checkout)


def version(checkout: Path) -> str:
    return subprocess.run(
        [checkout / "packaging/version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()


def precede(lower: str, higher: str) -> bool:
    return subprocess.run(["dpkg", "--compare-versions", lower, "lt", higher], check=False).returncode == 0


def test_commits_of_one_second_have_versions_in_their_order(checkout: Path) -> None:
    versions = [commit(checkout, f"number {number}") for number in range(12)]
    wrong = [pair for pair in pairwise(versions) if not precede(*pair)]
    assert wrong == []


def test_a_later_commit_has_a_higher_version(checkout: Path) -> None:
    before = commit(checkout, "before")
    assert precede(before, commit(checkout, "after", "2026-01-31T12:00:01Z"))


def test_changed_files_have_a_higher_version_than_their_commit(checkout: Path) -> None:
    clean = commit(checkout, "clean")
    with (checkout / "nfagent/__init__.py").open("a") as opened:
        opened.write("\n")
    assert precede(clean, version(checkout))


def test_a_release_has_a_higher_version_than_all_before_it(checkout: Path) -> None:
    before = commit(checkout, "before")
    own = before.partition("~")[0]
    git(checkout, "tag", f"v{own}")
    assert version(checkout) == own
    assert precede(before, own)
