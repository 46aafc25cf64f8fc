"""The offline tarball's `install` refuses a system that it has no packages for, before it changes anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another /etc/os-release, in a mount namespace"),
]

INSTALL = Path(__file__).parents[2] / "packaging" / "offline" / "install"


@pytest.mark.parametrize(
    ("os_release", "named"),
    [
        pytest.param("ID=other\nVERSION_CODENAME=other\n", "this system, other;", id="another system"),
        pytest.param("ID=other\n", "this system, which names no release;", id="a system without the name of a release"),
    ],
)
def test_without_packages_for_the_system_it_says_which_ones_it_has(tmp_path: Path, os_release: str, named: str) -> None:
    shutil.copy(INSTALL, tmp_path)
    (tmp_path / "bookworm").mkdir()
    (tmp_path / "bookworm" / "Packages").touch()
    (tmp_path / "SHA256SUMS").touch()
    (tmp_path / "os-release").write_text(os_release)
    script = 'mount --bind "$1/os-release" /etc/os-release && exec "$1/install"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert "it has them for: bookworm" in done.stderr
