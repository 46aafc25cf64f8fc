"""Disks with faults: frozen, full, read-only, and one whose server never answers. Needs root."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2
_FUSE_IN = struct.Struct("=IIQQIII4x")  # length, operation, unique number, inode, user, group, process
_FUSE_OUT = struct.Struct("=IiQ")
_FUSE_INIT = struct.Struct("=IIIIHHIIHHI28x")


class Disk:
    """A small ext4 file system, mounted at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._frozen = False

    def freeze(self) -> None:
        """Freeze the file system: writers wait in the kernel, as during a backup's snapshot."""
        subprocess.run(["fsfreeze", "-f", self.folder], check=True)
        self._frozen = True

    def thaw(self) -> None:
        """Thaw the file system; may be called twice."""
        if self._frozen:
            subprocess.run(["fsfreeze", "-u", self.folder], check=True)
        self._frozen = False


@contextmanager
def ext4(folder: Path) -> Iterator[Disk]:
    """Mount one; it is thawed and unmounted at the end, and also where this process is killed."""
    image = folder.with_name(f"{folder.name}.img")
    with image.open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-qF", image], check=True)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    ending = 'read _; fsfreeze -u "$0"; umount -l "$0"'
    with subprocess.Popen(
        ["sh", "-c", ending, folder], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ):
        yield Disk(folder)


@contextmanager
def tmpfs(folder: Path, kibibytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder: Path, how: str) -> None:
    """Remount a disk `ro` or `rw`."""
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def fill(folder: Path) -> Path:
    """Fill a disk to its last byte; return the file that fills it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


@contextmanager
def hung(folder: Path) -> Iterator[None]:
    """Mount a disk whose server never answers: a process that reads it blocks, but can be killed."""
    folder.mkdir(parents=True, exist_ok=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        if _libc.mount(b"hung", os.fsencode(folder), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), "mount", str(folder))
        try:
            _, _, unique, *_ = _FUSE_IN.unpack_from(os.read(device, 65536))
            answer = _FUSE_INIT.pack(7, 31, 65536, 0, 16, 12, 65536, 1, 0, 0, 0)
            os.write(device, _FUSE_OUT.pack(_FUSE_OUT.size + len(answer), 0, unique) + answer)
            yield
        finally:
            _libc.umount2(os.fsencode(folder), _MNT_DETACH)
    finally:
        os.close(device)
