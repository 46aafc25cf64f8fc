"""Checks that nfagent.service reaches the files that the settings name: its sandbox hides most of the file system."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from nfagent.cli.check_result import Check, CheckResult
from nfagent.config import Settings
from nfagent.system.bounded_calls import BoundedCalls
from nfagent.system.unit_sandbox import PROPERTIES, FileOwner, Obstacle, UnitSandbox, parse_properties

_NAME = "service unit"
_UNIT = "nfagent.service"
_SECONDS = 10


def unit_checks(settings: Settings) -> Iterator[Check]:
    """Yield what the unit can't read or write, or that it reaches everything; nothing where there is no unit."""
    sandbox = _sandbox()
    if sandbox is None:
        return
    try:
        found = BoundedCalls().ask(lambda: [*_unwritable(settings, sandbox), *_unreadable(settings, sandbox)], _NAME)
    except OSError as error:
        found = [Check(_NAME, "warn", f"the files of the settings can't be looked at: {error.strerror}")]
    yield from found or [Check(_NAME, "ok", f"{_UNIT} reaches the files and folders of the settings")]


def _sandbox() -> UnitSandbox | None:
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return None
    command = [systemctl, "show", _UNIT, f"--property={','.join(PROPERTIES)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603 - found in PATH, no user input
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_properties(done.stdout)


def _unwritable(settings: Settings, sandbox: UnitSandbox) -> Iterator[Check]:
    log_folder = settings.log_dir if "file" in settings.logging.sinks else ""
    folders: tuple[tuple[str, str, CheckResult], ...] = (
        ("log_dir", log_folder, "warn"),
        ("state_dir", settings.state_dir, "warn"),
        ("runtime_dir", settings.runtime_dir, "FAIL"),
    )
    for setting, folder, result in folders:
        path = os.path.realpath(folder) if folder else ""
        # A folder that is missing is made by systemd, or by the remedy below.
        obstacle = sandbox.write_obstacle(path, _owners(path) if Path(path).is_dir() else ()) if path else None
        if obstacle is not None:
            yield Check(_NAME, result, f"{setting} {folder} can't be written to: {obstacle.reason}", _fix(obstacle))


def _unreadable(settings: Settings, sandbox: UnitSandbox) -> Iterator[Check]:
    files: tuple[tuple[str, str, CheckResult], ...] = (
        ("manifests", settings.manifests, "FAIL"),
        *(("kubeconfig", path, "FAIL") for path in settings.kubeconfig.split(":")),
        ("token_file", settings.token_file, "FAIL"),
        ("config_file", settings.masquerade.config_file, "warn"),
    )
    for setting, file, result in files:
        path = os.path.realpath(file) if file else ""
        obstacle = sandbox.read_obstacle(path, _owners(path)) if path else None
        if obstacle is not None:
            yield Check(_NAME, result, f"{setting} {file} can't be read: {obstacle.reason}", _fix(obstacle))


def _owners(path: str) -> tuple[FileOwner, ...]:
    """Return the owners of the folders on the way to a path, outermost first, and its own, as far as they exist."""
    found = []
    for part in (*reversed(Path(path).parents), Path(path)):
        try:
            status = part.stat()
        except OSError:
            return ()  # what is missing has checks of its own
        found.append(FileOwner(str(part), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)))
    return tuple(found)


def _fix(obstacle: Obstacle) -> str:
    """Return the commands that take an obstacle away."""
    if not obstacle.setting:
        return obstacle.remedy or "set another path"
    # A path that is missing when the service starts keeps it from starting.
    name, _, value = obstacle.setting.partition("=")
    lines = [f"mkdir -p {value}"] if name == "ReadWritePaths" else []
    return "\n".join((*lines, f"systemctl edit nfagent    # [Service] {obstacle.setting}", "systemctl restart nfagent"))
