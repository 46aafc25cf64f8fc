"""Debian 13's systemd accepts the units, and the drop-in for systemd 254 and newer."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nspawn_machine import CHECKOUT, debian_13

pytestmark = pytest.mark.kernel

UNITS = sorted((CHECKOUT / "systemd").glob("*.service"))
DROP_IN = CHECKOUT / "systemd" / "restart-backoff.conf"
MOST = 19
"""The highest exposure, times ten, as in the Makefile."""


@pytest.fixture(params=UNITS, ids=[unit.stem for unit in UNITS])
def unit(request: pytest.FixtureRequest) -> Iterator[tuple[Path, str]]:
    """Put a unit with the drop-in into Debian 13's folder; return the folder, and the unit's path in it."""
    root = debian_13()
    place = root / "tmp" / f"nfagent-units-{request.param.stem}"
    shutil.rmtree(place, ignore_errors=True)
    drop_ins = place / f"{request.param.name}.d"
    drop_ins.mkdir(parents=True)
    try:
        text = request.param.read_text("utf-8").replace("/opt/nfagent/bin/nfagent", "/bin/true")
        (place / request.param.name).write_text(text, "utf-8")
        shutil.copy(DROP_IN, drop_ins)
        yield root, f"/{place.relative_to(root)}/{request.param.name}"
    finally:
        shutil.rmtree(place)


def analyze(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", f"--root={root}", "systemd-analyze", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_it_is_accepted_without_a_warning(unit: tuple[Path, str]) -> None:
    root, path = unit
    done = analyze(root, "verify", "--man=no", "--recursive-errors=no", path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_its_exposure_is_below_the_limit(unit: tuple[Path, str]) -> None:
    root, path = unit
    done = analyze(root, "security", "--offline=yes", "--no-pager", f"--threshold={MOST}", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_limit_is_that_of_make_lint() -> None:
    assert f"\nEXPOSURE := {MOST}\n" in (CHECKOUT / "Makefile").read_text("utf-8")
