"""Programs in a test's PATH."""

from __future__ import annotations

from pathlib import Path


def unstartable(folder: Path) -> str:
    """Make a file `nft` that the kernel can't start, as where a limit is reached; return the PATH that finds it."""
    program = folder / "nft"
    program.write_text("no program of this machine")
    program.chmod(0o755)
    return str(folder)
