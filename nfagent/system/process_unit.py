"""Names the systemd unit or cgroup of a process, from /proc."""

from __future__ import annotations

from pathlib import Path

_MOST_BYTES = 4096
_PROC = Path("/proc")


def process_unit(process: int, name: str, proc: Path = _PROC) -> str:
    """Return the unit or cgroup of a process, '' where it has ended, or its number belongs to another process by now.

    process: process or thread id      name: its name, at most 15 characters, as the kernel reported it
    """
    if process <= 0:
        return ""
    try:
        running = _read(proc / str(process) / "comm").removesuffix("\n")
        return unit_of_cgroups(_read(proc / str(process) / "cgroup")) if running == name else ""
    except OSError:
        return ""


def unit_of_cgroups(text: str) -> str:
    """Return the last unit (`.service`, `.scope`) of the path in /proc/PID/cgroup, the path without one; '' for none.

    Of several hierarchies, cgroup v2's path counts ('0::PATH'), or else systemd's own ('1:name=systemd:PATH').
    """
    found = dict(line.split(":", 2)[1:] for line in text.splitlines() if line.count(":") > 1)
    path = (found.get("", "").strip("/") or found.get("name=systemd", "")).strip("/")
    units = [part for part in path.split("/") if part.endswith((".service", ".scope"))]
    return units[-1] if units else path


def _read(path: Path) -> str:
    with path.open("rb") as opened:
        return opened.read(_MOST_BYTES).decode(errors="backslashreplace")
