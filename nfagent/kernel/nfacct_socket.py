"""Creates, deletes and reads the named counters of nfnetlink_acct, on a netlink socket of our own.

The kernel answers within `send`. The network namespace is that of the thread that opens the socket.
"""

from __future__ import annotations

import errno
import os
import threading

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.refusals import error_name
from nfagent.kernel.sockets import AS_ROOT, ask, discard_received, dump_replies, request_socket
from nfagent.netlink import codec, nfacct

_NEEDS_ROOT = "nfacct needs root (CAP_NET_ADMIN)"
_MISSING = "this kernel has no named counters for iptables (nfnetlink_acct)"
_LOAD = "modprobe nfnetlink_acct, or run a kernel with CONFIG_NETFILTER_NETLINK_ACCT"
_BUFFER_BYTES = 1024 * 1024


class NfacctSocket:
    """A netlink socket in the network namespace of its constructor. Any thread may use it; one waits for another."""

    def __init__(self) -> None:
        """Open the socket. Raises HostError, KernelError."""
        self._in_use = threading.Lock()
        self._sequence = 0
        self._socket = request_socket(
            _NEEDS_ROOT, blocking=False, send_buffer=_BUFFER_BYTES, receive_buffer=_BUFFER_BYTES
        )

    def close(self) -> None:
        """Close the socket. Closing twice is harmless."""
        self._socket.close()

    def create(self, name: str) -> None:
        """Create a counter; one that is there stays as it is. Raises KernelError, HostError, WireError."""
        with self._in_use:
            code = self._changed(nfacct.create_request(name, self._next()))
        if code not in {0, errno.EEXIST, errno.EBUSY}:
            raise _refused(f"add counter {name}", code)

    def delete(self, name: str) -> None:
        """Delete a counter that no rule refers to, where there is one. Raises KernelError, HostError, WireError."""
        with self._in_use:
            code = self._changed(nfacct.delete_request(name, self._next()))
        if code not in {0, errno.ENOENT}:
            raise _refused(f"delete counter {name}", code)

    def read(self) -> list[nfacct.Account]:
        """Return all counters of all programs. Raises KernelError, HostError."""
        found: list[nfacct.Account] = []
        with self._in_use:
            sequence = self._next()
            try:
                discard_received(self._socket)
                self._socket.send(nfacct.list_request(sequence))
                for reply in dump_replies(self._socket, sequence):
                    if reply.type == codec.NLMSG_ERROR and (code := codec.ack_errno(reply)):
                        raise _refused("list counters", code)
                    if reply.type == nfacct.NEW:
                        found.append(nfacct.decode_account(reply))
            except (OSError, WireError) as error:
                raise KernelError(f"nfacct: cannot list counters: {error}") from error
        return found

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) & codec.SEQUENCE_MASK
        return self._sequence

    def _changed(self, content: bytes) -> int:
        """Send a request; return the errno of its reply."""
        try:
            reply = ask(self._socket, content, self._sequence)
            if reply is not None:
                return codec.ack_errno(reply)
        except (OSError, WireError) as error:
            raise KernelError(f"nfacct: cannot change a counter: {error}") from error
        raise KernelError("nfacct: no reply from the kernel")


def _refused(command: str, code: int) -> KernelError | HostError:
    if code == errno.EPERM:
        return HostError(_NEEDS_ROOT, hint=AS_ROOT)
    if code in {errno.EINVAL, errno.EOPNOTSUPP}:
        return HostError(_MISSING, hint=_LOAD)
    return KernelError(f"nfacct: {command}: {os.strerror(code).lower()} ({error_name(code)})")
