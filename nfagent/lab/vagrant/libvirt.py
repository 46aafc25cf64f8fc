"""libvirt below the Vagrant lab: its daemons where systemd doesn't run them, and what Vagrant left of a lab."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from nfagent.errors import HostError

_URI = "qemu:///system"
_SECONDS = 120.0


def start(scripts: Path, build: Path, *, only_where_installed: bool = False) -> None:
    """Start the daemons where none answers. Raises HostError.

    only_where_installed: do nothing where there is no libvirt
    """
    if only_where_installed and shutil.which("virsh") is None:
        return
    _daemons(scripts, "start", build)


def stop(scripts: Path, build: Path) -> None:
    """Stop the daemons that `start` started. Raises HostError."""
    if (build / "libvirt").is_dir():
        _daemons(scripts, "stop", build)


def sweep(name: str) -> bool:
    """Remove domains, disks and networks of a lab; return whether there were any."""
    if shutil.which("virsh") is None or _virsh("list") is None:
        return False
    prefix = f"nfagent-{name}-"
    domains = list(_named(prefix, "list", "--all"))
    for domain in domains:
        _virsh("destroy", domain)
        _virsh("undefine", domain, "--remove-all-storage", "--nvram")
    networks = list(_named(prefix, "net-list", "--all"))
    for network in networks:
        _virsh("net-destroy", network)
        _virsh("net-undefine", network)
    volumes = list(_named(prefix, "vol-list", "default", ended=".img"))
    for volume in volumes:
        _virsh("vol-delete", volume, "--pool", "default")
    return bool(domains or networks or volumes)


def _named(prefix: str, *command: str, ended: str = "") -> Iterator[str]:
    option = [] if command[0] == "vol-list" else ["--name"]
    for line in (_virsh(*command, *option) or "").splitlines():
        name = line.split()[0] if line.split() else ""
        if name.startswith(prefix) and name.endswith(ended):
            yield name


def _daemons(scripts: Path, what: str, build: Path) -> None:
    done = subprocess.run(
        [str(scripts / "libvirtd"), what, str(build / "libvirt")],
        # The daemons keep what they inherit: a pipe would never end.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=_SECONDS,
    )
    if done.returncode:
        raise HostError(
            f"can't {what} libvirt's daemons: {build / 'libvirt' / 'libvirtd.log'}",
            hint=f"vagrant/libvirtd {what} {build / 'libvirt'}",
        )


def _virsh(*arguments: str) -> str | None:
    """Return what virsh prints; None where it fails: the thing is gone already, or no daemon answers."""
    done = subprocess.run(
        ["virsh", "--quiet", "--connect", _URI, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    return done.stdout if done.returncode == 0 else None
