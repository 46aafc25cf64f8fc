"""One agent a table: the claim is a lock on a file that root alone can open, one for each network namespace.

The kernel frees the lock with the process that holds it, however that ends; the file's name has the namespace's
device and inode, so agents in several namespaces of one machine don't meet.

Agents of earlier versions have bound an abstract unix address, which any user can bind. It is still bound, for them
and for agents that see another folder, as in containers; but only a holder that root made counts.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from nfagent.errors import HostError, WireError
from nfagent.kernel.sockets import DATAGRAM_BYTES, netlink_socket
from nfagent.netlink import codec
from nfagent.netlink.unix_diag import NETLINK_SOCK_DIAG, UnixSocket, decode_socket, encode_listing
from nfagent.nftables.objects import TABLE, TABLE_FAMILY

log = logging.getLogger(__name__)

LOCK_FOLDER = Path("/run/nfagent")
"""Wherever the socket is told to be: who keeps a table doesn't depend on settings."""
_ADDRESS = f"nfagent/{TABLE_FAMILY}/{TABLE}"
_PROC = Path("/proc")
_TABLE = f"table {TABLE_FAMILY} {TABLE}"
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_LOCK = struct.Struct("@hhqqi0q")  # struct flock with 64-bit offsets: type, whence, start, length, process
_WHOLE_FILE = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_OPEN = stat.S_IRWXG | stat.S_IRWXO
_TRIES, _TRY_SECONDS = 20, 0.005
UNKNOWN = 0
"""Stands for a holder whose process can't be seen from here."""


class TableLock:
    """The right to a network namespace's table, until it is closed."""

    def __init__(self, lock: int, folder: int) -> None:
        """Keep the locked file, and the folder that has it."""
        self._held: tuple[int, int] | None = (lock, folder)
        self._name = _lock_name()
        self.address: socket.socket | None = None

    def renew(self) -> bool:
        """Lock the name again where its file, or the folder, was removed; tell whether that was so.

        Raises OSError, and MachineError where another agent was faster.
        """
        if self._held is None or self._is_there(self._held[0]):
            return False
        before, self._held = self._held, _locked_in_folder()
        for opened in before:
            os.close(opened)
        return True

    def _is_there(self, lock: int) -> bool:
        try:
            named = (LOCK_FOLDER / self._name).lstat()
        except OSError:
            return False
        ours = os.fstat(lock)
        return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)

    def close(self) -> None:
        """Give the table up. Closing twice is harmless."""
        held, self._held = self._held, None
        if self.address is not None:
            self.address.close()
        if held is not None:
            lock, folder = held
            with suppress(OSError):
                os.unlink(self._name, dir_fd=folder)  # while it is locked: who waits for it looks at the name again
            os.close(lock)
            os.close(folder)


def _locked_in_folder() -> tuple[int, int]:
    """Open the folder and lock the file there; give both, the file first. Raises OSError, MachineError."""
    folder = _open_folder()
    try:
        return _locked(folder), folder
    except BaseException:
        os.close(folder)
        raise


def claim_table() -> TableLock:
    """Claim the table of this thread's network namespace. Raises MachineError where another agent has it."""
    try:
        lock, folder = _locked_in_folder()
    except OSError as error:
        raise HostError(f"{_TABLE} can't be claimed: {error}; run nfagent with sudo, or as its service") from None
    claim = TableLock(lock, folder)
    _remove_abandoned(folder)
    try:
        claim.address = _bound_address()
    except BaseException:
        claim.close()
        raise
    return claim


def holder() -> int | None:
    """Give the process that keeps this network namespace's table: None where nobody does, UNKNOWN where it isn't seen.

    Nothing is asked of the holder itself, and nothing is held for a moment that would keep an agent from starting.
    Raises MachineError where only root can tell.
    """
    path = LOCK_FOLDER / _lock_name()
    try:
        with closing(os.fdopen(os.open(path, os.O_RDONLY | _FILE_FLAGS), "rb", buffering=0)) as opened:
            if _is_roots_alone(os.fstat(opened.fileno())) and _is_locked(opened.fileno()):
                return _written_process(opened.fileno())
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise HostError(f"who keeps {_TABLE} isn't known: {error}; run it with sudo") from None
    return _address_holder()


def holder_name(process: int) -> str:
    """Name a holder."""
    return f"process {process}" if process else "a process that can't be seen from here"


def remedy(process: int) -> str:
    """Say how the holder is ended."""
    return f"systemctl stop nfagent{f', or kill {process}' if process else ''}"


def _lock_name() -> str:
    # Of the thread, not of the process: a thread may be in a network namespace of its own.
    namespace = (_PROC / "thread-self" / "ns" / "net").stat()
    return f"{TABLE}-{namespace.st_dev}-{namespace.st_ino}.lock"


def _open_folder() -> int:
    """Open the folder, which root alone may write to."""
    with suppress(FileExistsError):
        LOCK_FOLDER.mkdir(mode=0o700)
    try:
        opened = os.open(LOCK_FOLDER, _FOLDER_FLAGS)
    except NotADirectoryError:
        raise HostError(
            f"{_TABLE} can't be claimed: {LOCK_FOLDER} is no folder; look at what it is, then: rm {LOCK_FOLDER}"
        ) from None
    found = os.fstat(opened)
    if found.st_uid not in {0, os.geteuid()}:
        os.close(opened)
        raise HostError(
            f"{LOCK_FOLDER} belongs to user {found.st_uid}, who could keep every agent from starting; "
            f"look at what is in it, then: rm -r {LOCK_FOLDER}"
        )
    if found.st_mode & _OTHERS_WRITE:
        os.fchmod(opened, 0o700)
        log.warning("others could write to %s (mode %04o): it is root's alone now", LOCK_FOLDER, found.st_mode & 0o7777)
    return opened


def _locked(folder: int) -> int:
    """Give this namespace's lock file, locked. Raises MachineError where another agent has it."""
    name = _lock_name()
    while True:
        opened = _opened(name, folder)
        try:
            if not _is_roots_alone(os.fstat(opened)):
                # Whoever could open it may have it locked, or lock it any time: it is no lock of ours.
                log.warning("%s isn't root's alone: it is made anew", LOCK_FOLDER / name)
                os.unlink(name, dir_fd=folder)
            elif _lock(opened) and _is_named(opened, name, folder):
                os.ftruncate(opened, 0)
                os.pwrite(opened, f"{os.getpid()}\n".encode(), 0)
                return opened
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)


def _opened(name: str, folder: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | _FILE_FLAGS
    try:
        return os.open(name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    os.unlink(name, dir_fd=folder)  # a symbolic link, which nfagent never makes
    return os.open(name, flags, 0o600, dir_fd=folder)


def _is_roots_alone(found: os.stat_result) -> bool:
    ours = found.st_uid in {0, os.geteuid()}
    return ours and stat.S_ISREG(found.st_mode) and not found.st_mode & _OTHERS_OPEN


def _lock(opened: int) -> bool:
    """Lock a file. Raises MachineError where another agent has it locked."""
    for _ in range(_TRIES):
        if _try_lock(opened):
            return True
        time.sleep(_TRY_SECONDS)  # whoever removes what is abandoned has it for a moment
    raise _taken(_written_process(opened))


def _try_lock(opened: int) -> bool:
    try:
        fcntl.fcntl(opened, fcntl.F_OFD_SETLK, _WHOLE_FILE)
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.EACCES}:
            raise
        return False
    return True


def _remove_abandoned(folder: int) -> None:
    """Delete what agents have left that were killed in other network namespaces, which may be gone with them."""
    for name in os.listdir(folder):
        if not name.startswith(f"{TABLE}-") or not name.endswith(".lock") or name == _lock_name():
            continue
        with suppress(OSError):
            opened = os.open(name, os.O_RDWR | _FILE_FLAGS, dir_fd=folder)
            try:
                if _try_lock(opened) and _is_named(opened, name, folder):
                    os.unlink(name, dir_fd=folder)
            finally:
                os.close(opened)


def _is_locked(opened: int) -> bool:
    answer = fcntl.fcntl(opened, fcntl.F_OFD_GETLK, _WHOLE_FILE)
    return bool(_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _is_named(opened: int, name: str, folder: int) -> bool:
    """Tell whether the name still leads to this file: whoever had it locked before has deleted it."""
    try:
        named = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(opened)
    return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)


def _written_process(opened: int) -> int:
    written = os.pread(opened, 32, 0).strip()
    return int(written) if written.isdigit() else UNKNOWN


def _taken(process: int) -> HostError:
    return HostError(
        f"another agent keeps {_TABLE} in this network namespace: {holder_name(process)}; "
        f"stop it ({remedy(process)}), then start again"
    )


def _bound_address() -> socket.socket | None:
    """Bind the address; None where somebody has it who is no agent. Raises MachineError where an agent has it."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        opened.bind(f"\0{_ADDRESS}")
    except OSError as error:
        opened.close()
        process = _address_holder()
        if process is not None:
            raise _taken(process) from None
        log.warning("the address @%s is taken by somebody who isn't root (%s): ignored", _ADDRESS, error.strerror)
        return None
    return opened


def _address_holder() -> int | None:
    """Give the process that has bound the address by a socket that root made; None where none is seen."""
    try:
        inode = next((found.inode for found in _unix_sockets() if found.name == f"\0{_ADDRESS}".encode()), None)
    except (OSError, WireError) as error:
        log.warning("whether an agent of an earlier version runs isn't known: unix sockets can't be listed: %s", error)
        return None
    return None if inode is None else _process_with(Path(f"socket:[{inode}]"))


def _unix_sockets() -> Iterator[UnixSocket]:
    with netlink_socket(NETLINK_SOCK_DIAG) as opened:
        opened.connect((0, 0))
        opened.send(encode_listing(1))  # the kernel has answered when this returns, or the next part is asked for
        while True:
            for part in codec.messages(opened.recv(DATAGRAM_BYTES)):
                if part.type == codec.NLMSG_DONE:
                    return
                if part.type == codec.NLMSG_ERROR:
                    code = codec.ack_errno(part)
                    raise OSError(code, os.strerror(code))
                yield decode_socket(part)


def _process_with(link: Path) -> int | None:
    for folder in _PROC.glob("[0-9]*/fd"):
        # A process that ended meanwhile, or that isn't ours to look into.
        with suppress(OSError):
            if any(_is_roots_link(entry, link) for entry in folder.iterdir()):
                return int(folder.parent.name)
    return None


def _is_roots_link(entry: Path, link: Path) -> bool:
    # A socket belongs to the user who made it; a set-user-ID program that inherits it changes nothing about that.
    with suppress(OSError):
        return entry.readlink() == link and entry.stat().st_uid == 0
    return False
