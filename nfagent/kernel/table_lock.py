"""One agent per table: a lock on a file that only root can open, one file per network namespace.

The kernel releases the lock when its process ends. The file's name has the device and inode of the namespace, so
agents in several namespaces of one machine don't conflict.

Earlier versions bound an abstract unix address, which any user can bind. It is still bound, to exclude those versions
and agents with another /run, as in containers; only a socket created by root counts.
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

from nfagent.errors import HostError, TableHeldError, WireError
from nfagent.kernel.sockets import DATAGRAM_BYTES, netlink_socket
from nfagent.netlink import codec
from nfagent.netlink.unix_diag import NETLINK_SOCK_DIAG, UnixSocket, decode_socket, encode_socket_dump
from nfagent.nftables.objects import TABLE, TABLE_FAMILY

log = logging.getLogger(__name__)

LOCK_FOLDER = Path("/run/nfagent")
"""Fixed, independent of `socket_path`: the owner of a table doesn't depend on settings."""
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
"""The process id of a holder in another PID namespace, or that this process has no right to see."""


class TableLock:
    """The lock on the table of a network namespace, held until `close`.

    address: the socket that holds the abstract unix address, None where another user holds it
    """

    def __init__(self, lock: int, folder: int) -> None:
        """Store the descriptors of the locked file and of its folder."""
        self._held: tuple[int, int] | None = (lock, folder)
        self._name = _lock_name()
        self.address: socket.socket | None = None

    def renew(self) -> bool:
        """Create and lock the file again where it, or its folder, was removed; return whether that was so.

        Raises OSError, and HostError where another agent was faster.
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
        """Release the lock. Closing twice is harmless."""
        held, self._held = self._held, None
        if self.address is not None:
            self.address.close()
        if held is not None:
            lock, folder = held
            with suppress(OSError):
                os.unlink(self._name, dir_fd=folder)  # while locked: a waiting agent compares the name again
            os.close(lock)
            os.close(folder)


def _locked_in_folder() -> tuple[int, int]:
    """Open the folder and lock the file in it; return both descriptors, the file's first. Raises OSError, HostError."""
    folder = _open_folder()
    try:
        return _locked(folder), folder
    except BaseException:
        os.close(folder)
        raise


def acquire_table() -> TableLock:
    """Lock the table of this thread's network namespace. Raises HostError; TableHeldError beside an agent."""
    try:
        lock, folder = _locked_in_folder()
    except OSError as error:
        raise HostError(f"cannot lock {_TABLE}: {error}; run nfagent with sudo, or as its service") from None
    acquired = TableLock(lock, folder)
    _remove_abandoned(folder)
    try:
        acquired.address = _bound_address()
    except BaseException:
        acquired.close()
        raise
    return acquired


def holder() -> int | None:
    """Return the process that holds this network namespace's table: None without one, UNKNOWN for an invisible one.

    The check takes no lock, so it never keeps an agent from starting. Raises HostError where only root can read it.
    """
    path = LOCK_FOLDER / _lock_name()
    try:
        with closing(os.fdopen(os.open(path, os.O_RDONLY | _FILE_FLAGS), "rb", buffering=0)) as opened:
            if _is_roots_alone(os.fstat(opened.fileno())) and _is_locked(opened.fileno()):
                return _written_process(opened.fileno())
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise HostError(f"cannot find out which process holds {_TABLE}: {error}; run it with sudo") from None
    return _address_holder()


def holder_name(process: int) -> str:
    """Return a holder as text."""
    return f"process {process}" if process else "a process that can't be seen from here"


def stop_command(process: int) -> str:
    """Return the command that stops the holder."""
    return f"systemctl stop nfagent, or {f'kill {process}' if process else 'delete the Pod of the DaemonSet'}"


def _lock_name() -> str:
    # Of the thread, not of the process: a thread may be in a network namespace of its own.
    namespace = (_PROC / "thread-self" / "ns" / "net").stat()
    return f"{TABLE}-{namespace.st_dev}-{namespace.st_ino}.lock"


def _open_folder() -> int:
    """Open the folder, writable by root only. Raises OSError, HostError."""
    with suppress(FileExistsError):
        LOCK_FOLDER.mkdir(mode=0o700)
    try:
        opened = os.open(LOCK_FOLDER, _FOLDER_FLAGS)
    except NotADirectoryError:
        raise HostError(
            f"cannot lock {_TABLE}: {LOCK_FOLDER} is not a folder; look at what it is, then: rm {LOCK_FOLDER}"
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
        log.warning("%s was writable by other users (mode %04o); mode is 0700 now", LOCK_FOLDER, found.st_mode & 0o7777)
    return opened


def _locked(folder: int) -> int:
    """Open and lock the file of this namespace. Raises OSError, TableHeldError where another agent holds it."""
    name = _lock_name()
    while True:
        opened = _opened(name, folder)
        try:
            if not _is_roots_alone(os.fstat(opened)):
                # A user who could open it may hold the lock, or take it at any time: it proves nothing.
                log.warning("%s can be opened by other users; creating it again", LOCK_FOLDER / name)
                os.unlink(name, dir_fd=folder)
            elif _lock(opened) and _is_named(opened, name, folder):
                os.ftruncate(opened, 0)
                os.pwrite(opened, f"{os.getpid()} {_pid_namespace()}\n".encode(), 0)
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
    """Lock a file. Raises TableHeldError where another agent holds the lock."""
    for _ in range(_TRIES):
        if _try_lock(opened):
            return True
        time.sleep(_TRY_SECONDS)  # an agent that removes abandoned files holds each for a moment
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
    """Delete lock files of killed agents in other network namespaces, which may no longer exist."""
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
    """Return whether the name still refers to this file: the holder before deletes it."""
    try:
        named = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(opened)
    return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)


def _pid_namespace() -> str:
    namespace = (_PROC / "self" / "ns" / "pid").stat()
    return f"{namespace.st_dev}-{namespace.st_ino}"


def _written_process(opened: int) -> int:
    """Return the process that a lock file names: `PID NAMESPACE`, or `PID` alone as earlier versions wrote it.

    UNKNOWN for a process of another PID namespace, where its number is another process's, such as 1 for init.
    """
    process, _, namespace = os.pread(opened, 64, 0).decode("ascii", "replace").strip().partition(" ")
    known = process.isdigit() and namespace in {"", _pid_namespace()}
    return int(process) if known else UNKNOWN


def _taken(process: int) -> TableHeldError:
    return TableHeldError(
        f"another agent holds {_TABLE} in this network namespace: {holder_name(process)}; "
        f"stop it ({stop_command(process)}), then start again"
    )


def _bound_address() -> socket.socket | None:
    """Bind the address; None where it is not root's. Raises HostError where an agent has bound it."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        opened.bind(f"\0{_ADDRESS}")
    except OSError as error:
        opened.close()
        process = _address_holder()
        if process is not None:
            raise _taken(process) from None
        log.warning("unix address @%s is bound by a non-root process (%s); ignored", _ADDRESS, error.strerror)
        return None
    return opened


def _address_holder() -> int | None:
    """Return the process with a socket, created by root, that has bound the address; None without one.

    The kernel says whose the socket is, so that no right to look into other processes is needed (CAP_SYS_PTRACE):
    without it the process is UNKNOWN. Before Linux 5.3 the kernel doesn't, and without that right an agent of an
    earlier version isn't found.
    """
    try:
        bound = next((found for found in _unix_sockets() if found.name == f"\0{_ADDRESS}".encode()), None)
    except (OSError, WireError) as error:
        log.warning("cannot check for an agent of an earlier version: listing unix sockets failed: %s", error)
        return None
    if bound is None or bound.user not in {0, None}:
        return None
    process = _process_with(Path(f"socket:[{bound.inode}]"))
    return UNKNOWN if process is None and bound.user == 0 else process


def _unix_sockets() -> Iterator[UnixSocket]:
    with netlink_socket(NETLINK_SOCK_DIAG) as opened:
        opened.connect((0, 0))
        opened.send(encode_socket_dump(1))  # the kernel replies within send, and queues the next part within recv
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
        # A process that ended meanwhile, or whose files this one may not read.
        with suppress(OSError):
            if any(_is_roots_link(entry, link) for entry in folder.iterdir()):
                return int(folder.parent.name)
    return None


def _is_roots_link(entry: Path, link: Path) -> bool:
    # A socket belongs to the user who created it, also after a set-user-ID program inherits it.
    with suppress(OSError):
        return entry.readlink() == link and entry.stat().st_uid == 0
    return False
