"""What of the file system the sandbox of nfagent.service lets the agent read and write.

The properties are those of the loaded unit, drop-ins included, as `systemctl show` prints them: systemd.exec(5).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import msgspec

PROPERTIES = (
    *("LoadState", "User", "CapabilityBoundingSet", "ProtectSystem", "ProtectHome", "PrivateTmp"),
    *("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "BindPaths", "BindReadOnlyPaths"),
    *("RuntimeDirectory", "StateDirectory", "LogsDirectory", "CacheDirectory"),
)
"""What `parse_properties` reads."""

_FOLDERS = {
    "RuntimeDirectory": "/run",
    "StateDirectory": "/var/lib",
    "LogsDirectory": "/var/log",
    "CacheDirectory": "/var/cache",
}
_HOMES = ("/home", "/root", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - nothing is created there
_KERNELS = ("/dev", "/proc", "/sys")
_READ_ONLY = {"strict": ("/",), "full": ("/usr", "/boot", "/efi", "/etc"), "yes": ("/usr", "/boot", "/efi")}
_READ_ALL = frozenset({"cap_dac_override", "cap_dac_read_search"})


class Obstacle(msgspec.Struct, frozen=True):
    """Why the agent can't use a file or folder.

    reason:  what is in its way
    setting: the line of a drop-in that takes it away, '' where there is a better remedy
    remedy:  this remedy
    """

    reason: str
    setting: str = ""
    remedy: str = ""


class FileOwner(msgspec.Struct, frozen=True):
    """Whose a file or folder is: ids of user and group, and the permission bits."""

    path: str
    user: int
    group: int
    mode: int


class UnitSandbox(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a unit's settings that decides about files; paths are absolute.

    system, home: values of ProtectSystem and ProtectHome: 'no' where they are off
    """

    user: str = "root"
    capabilities: frozenset[str] = frozenset()
    system: str = "no"
    home: str = "no"
    private_tmp: bool = False
    writable: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    inaccessible: tuple[str, ...] = ()

    def read_obstacle(self, path: str, owners: Sequence[FileOwner] = ()) -> Obstacle | None:
        """Return what keeps the agent from reading a file or folder, None where nothing does.

        owners: of the folders on the way, outermost first, and of the path itself, as far as they exist
        """
        return self._hidden(path, writing=False) or self._unreadable(owners)

    def write_obstacle(self, folder: str, owners: Sequence[FileOwner] = ()) -> Obstacle | None:
        """Return what keeps the agent from writing into a folder, None where nothing does; owners as above."""
        return self._hidden(folder, writing=True) or self._protected(folder) or self._unwritable(owners)

    def _hidden(self, path: str, *, writing: bool) -> Obstacle | None:
        bind = f"{'BindPaths' if writing else 'BindReadOnlyPaths'}={path}"
        if _is_below(path, (*self.bound, *self.writable)):
            return None
        if _is_below(path, self.inaccessible):
            return Obstacle("InaccessiblePaths hides it")
        if self.private_tmp and _is_below(path, _TEMPORARY):
            return Obstacle("the service has a /tmp of its own (PrivateTmp)", remedy="set a path outside of /tmp")
        if self.home in {"yes", "tmpfs"} and _is_below(path, _HOMES):
            return Obstacle(f"home folders are hidden (ProtectHome={self.home})", bind)
        return None

    def _protected(self, folder: str) -> Obstacle | None:
        if _is_below(folder, self.writable):
            return None
        setting = _writable(folder)
        if _is_below(folder, self.read_only):
            return Obstacle("it is read-only (ReadOnlyPaths)", setting)
        if self.home == "read-only" and _is_below(folder, _HOMES):
            return Obstacle("home folders are read-only (ProtectHome=read-only)", setting)
        protected = _is_below(folder, _READ_ONLY.get(self.system, ())) and not _is_below(folder, _KERNELS)
        if protected:
            return Obstacle(f"it is read-only (ProtectSystem={self.system})", setting)
        return None

    def _unreadable(self, owners: Sequence[FileOwner]) -> Obstacle | None:
        if self.user != "root" or self.capabilities & _READ_ALL:
            return None
        for at, owner in enumerate(owners, 1):
            if not _permits(owner, 4 if at == len(owners) else 1):
                setting = "CapabilityBoundingSet=CAP_DAC_READ_SEARCH"
                return Obstacle(f"{owner.path} is for user {owner.user} alone (mode {owner.mode:04o})", setting)
        return None

    def _unwritable(self, owners: Sequence[FileOwner]) -> Obstacle | None:
        if self.user != "root" or "cap_dac_override" in self.capabilities or not owners:
            return None
        if _permits(owners[-1], 3):
            return None
        last = owners[-1]
        return Obstacle(
            f"{last.path} belongs to user {last.user} (mode {last.mode:04o})", remedy=f"chown 0 {last.path}"
        )


def parse_properties(text: str) -> UnitSandbox | None:
    """Return the sandbox of a unit from the lines of `systemctl show`; None where there is no such unit."""
    found = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    if found.get("LoadState") != "loaded":
        return None
    folders = (f"{root}/{name}" for key, root in _FOLDERS.items() for name in found.get(key, "").split())
    return UnitSandbox(
        user=found.get("User") or "root",
        capabilities=frozenset(found.get("CapabilityBoundingSet", "").split()),
        system=found.get("ProtectSystem") or "no",
        home=found.get("ProtectHome") or "no",
        private_tmp=found.get("PrivateTmp", "no") not in {"", "no"},
        writable=(*folders, *_paths(found.get("ReadWritePaths", "")), *_bound(found.get("BindPaths", ""))),
        bound=_bound(found.get("BindReadOnlyPaths", "")),
        read_only=_paths(found.get("ReadOnlyPaths", "")),
        inaccessible=_paths(found.get("InaccessiblePaths", "")),
    )


def _paths(value: str) -> tuple[str, ...]:
    """Return the paths of a list, without the signs before them: '-' for one that may be missing, '+'."""
    return tuple(path.lstrip("-+") for path in value.split())


def _bound(value: str) -> tuple[str, ...]:
    """Return the places at which SOURCE:DESTINATION:OPTIONS or SOURCE are mounted."""
    return tuple(([*path.split(":"), ""][1] or path.split(":")[0]) for path in _paths(value))


def _writable(folder: str) -> str:
    """Return the setting that makes a folder writable; one by which systemd makes it too, where there is one."""
    for key, root in _FOLDERS.items():
        if _is_below(folder, (root,)) and folder != root:
            return f"{key}={PurePosixPath(folder).relative_to(root)}"
    return f"ReadWritePaths={folder}"


def _is_below(path: str, roots: Sequence[str]) -> bool:
    found = PurePosixPath(path)
    return any(found.is_relative_to(root) for root in roots)


def _permits(owner: FileOwner, wanted: int) -> bool:
    """Return whether root without rights of its own has the wanted permission bits: 4 read, 2 write, 1 search."""
    shift = 6 if owner.user == 0 else 3 if owner.group == 0 else 0
    return owner.mode >> shift & wanted == wanted
