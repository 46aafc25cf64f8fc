"""Debian's changelog, from CHANGELOG.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "packaging/deb/changelog.py"
TEXT = """# Changelog

## 0.2.0 (unreleased)

### Sources

- A change with a
  second line. <!-- codespell:ignore -->

Words before a list:

- Another one.

## 0.1.0 (2026-01-31)

- The first.
"""
EXPECTED = """nfagent (0.2.0~git1) unstable; urgency=medium

  [ Sources ]
  * A change with a second line.
  * Words before a list:
  * Another one.

 -- A B <a@example.org>  Sun, 01 Feb 2026 00:00:00 +0000

nfagent (0.1.0) unstable; urgency=medium

  * The first.

 -- A B <a@example.org>  Sat, 31 Jan 2026 00:00:00 +0000

"""


def converted(path: Path) -> subprocess.CompletedProcess[str]:
    arguments = [str(path), "0.2.0~git1", "A B <a@example.org>", "1769904000"]
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_each_version_is_an_entry_and_the_newest_has_the_version_that_is_built(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(TEXT)
    found = converted(tmp_path / "CHANGELOG.md")
    assert (found.stderr, found.stdout) == ("", EXPECTED)


def test_our_own_is_read_whole_and_no_line_is_too_long_for_lintian() -> None:
    found = converted(ROOT / "CHANGELOG.md").stdout
    assert [line for line in found.splitlines() if len(line) > 80] == []
    items = re.findall(r"^- ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found.count("\n  * ") >= len(items) > 100


def test_a_file_without_versions_is_an_error_that_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n")
    found = converted(tmp_path / "CHANGELOG.md")
    assert found.returncode != 0
    assert "CHANGELOG.md has no line like: ## 1.2.3 (2026-01-31)" in found.stderr
