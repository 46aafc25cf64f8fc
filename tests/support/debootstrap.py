"""A Debian by debootstrap, for tests that need the root folder of one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

_MIRROR = os.environ.get("MIRROR") or "http://deb.debian.org/debian"


def debootstrap(release: str, beside: Path, seconds: float, packages: str = "") -> Path:
    """Make a root folder beside a path, and return it; skip the test where it can't be had here.

    packages: what it has besides, separated by commas; seconds: how long that may take
    """
    program = shutil.which("debootstrap")
    if program is None:
        pytest.skip("debootstrap is missing; run: apt-get install debootstrap")
    beside.parent.mkdir(parents=True, exist_ok=True)
    making = beside.with_name(f"{beside.name}.{uuid4().hex[:8]}")
    including = [f"--include={packages}"] if packages else []
    # debootstrap's mounts are in a mount namespace that ends with it.
    command = [program, "--variant=minbase", *including, release, str(making), _MIRROR]
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        if done.returncode:
            pytest.skip(f"Debian's {release} is not to be had here: {(done.stderr or done.stdout).strip()[-300:]}")
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return making
