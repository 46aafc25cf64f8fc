"""Commits transactions on a netlink socket of our own: one sendmsg, one acknowledgement, no read-back.

The kernel commits within sendmsg and has replied when it returns, so `commit` may be called on the event loop: it
takes as long as the kernel's own work. nf_tables commits one transaction at a time in a network namespace: during a
transaction of another thread or process, `commit` waits.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.own_ports import OwnPorts
from nfagent.kernel.refusals import refusal, refusal_of_batch
from nfagent.kernel.sockets import AS_ROOT, NEEDS_ROOT, SO_SNDBUFFORCE, dump_replies, end_of_file, request_socket
from nfagent.netlink import codec
from nfagent.netlink.extack import Acknowledgement, decode_acknowledgement
from nfagent.netlink.nft_batch import Batch, encode_batch
from nfagent.netlink.nft_messages import NFPROTO_INET
from nfagent.netlink.nft_rewrite import is_worth_handles, numbers_of_known
from nfagent.netlink.nft_rule_handles import RuleHandle, decode_rule_handle, encode_handles_request, is_interrupted
from nfagent.nftables.transaction import RewriteChain, Transaction

_ACK_BYTES = 8192  # an acknowledgement has some 60 bytes, and a message text
_SPARE_BYTES = 4096  # of a send buffer, beside the batch; the kernel takes 32 of them


class UnsentError(KernelError):
    """A batch is larger than a send buffer may be, or than free memory: the kernel has received nothing."""


class NftSocket:
    """A netlink socket in the network namespace of its constructor. Any thread may commit; one waits for another.

    send_buffer:    half the bytes of a batch that is sent at once (the kernel doubles it); no memory is reserved
    largest_batch:  bytes of the largest batch; the send buffer grows once to one that is larger than itself
    receive_buffer: half the bytes of all replies, about 1 KiB each: one, or one for each refused message
    ports:          told the port id of each socket that is opened, which notifications of its commits carry
    """

    def __init__(
        self,
        *,
        send_buffer: int = 8 * 1024 * 1024,
        largest_batch: int = 1024 * 1024 * 1024,
        receive_buffer: int = 4 * 1024 * 1024,
        ports: OwnPorts | None = None,
    ) -> None:
        """Open the socket. Raises HostError for what an administrator must change, KernelError otherwise."""
        self._buffers = send_buffer, receive_buffer
        self._largest_batch = largest_batch
        self._ports = ports
        self._port = 0  # kept, as a socket that fails may not know its own any more
        self._sequence = 1
        self._in_use = threading.RLock()
        self._socket: socket.socket | None = self._open()

    def close(self) -> None:
        """Close the socket. Closing twice is harmless."""
        opened, self._socket = self._socket, None
        if opened is not None:
            if self._ports is not None:
                self._ports.closed(self._port)
            opened.close()

    def commit(self, transaction: Transaction, *, family: int = NFPROTO_INET) -> None:
        """Commit a transaction atomically, on table nfagent of a family (NFPROTO_INET or NFPROTO_BRIDGE).

        Raises RefusedError for a refused command, FullError where a set is full; UnsentError for a batch that is too
        large to send; KernelError where the batch failed as a whole or its outcome is unknown (then read the table);
        HostError without CAP_NET_ADMIN; WireError for a command that can't be encoded.
        """
        with self._in_use:
            handles = self._handles(transaction, family)
            batch = encode_batch(transaction, self._sequence, family=family, handles=handles)
            self._sequence = batch.following
            if batch.requests:
                self.commit_batch(batch)

    def commit_batch(self, batch: Batch) -> None:
        """Commit an encoded batch. Raises what `commit` does, but for WireError."""
        with self._in_use, self._opened() as opened:
            self._send(opened, batch.data)
            answers, lost = self._answers(opened, batch)
        self._check(batch, answers, lost=lost)

    def rule_handles(self, chain: str, *, family: int = NFPROTO_INET) -> tuple[RuleHandle, ...] | None:
        """Return the handles of a chain's rules in order; () for a chain that is absent.

        None where rules changed while they were read, or can't be read. Raises KernelError, HostError.
        """
        with self._in_use, self._opened() as opened:
            sequence, self._sequence = self._sequence, (self._sequence + 1) & codec.SEQUENCE_MASK
            self._send(opened, encode_handles_request(chain, sequence, family=family))
            return _received_handles(opened, sequence)

    def _handles(self, transaction: Transaction, family: int) -> dict[str, tuple[int, ...]]:
        """Return the handles of rules in chains that are rewritten, where they save more than reading them costs."""
        found: dict[str, tuple[int, ...]] = {}
        for command in transaction:
            if isinstance(command, RewriteChain) and is_worth_handles(command):
                handles = self.rule_handles(command.name, family=family)
                numbers = None if handles is None else numbers_of_known(command, handles)
                if numbers is not None:
                    found[command.name] = numbers
        return found

    def _open(self) -> socket.socket:
        send, receive = self._buffers
        opened = request_socket(NEEDS_ROOT, blocking=False, send_buffer=send, receive_buffer=receive)
        if self._ports is not None:
            self._port = opened.getsockname()[0]
            self._ports.opened(self._port)
        return opened

    @contextmanager
    def _opened(self) -> Iterator[socket.socket]:
        """Return the socket. One that fails is closed, as it may never work again; the next commit opens a new one."""
        try:
            if self._socket is None:
                self._socket = self._open()
            yield self._socket
        except UnsentError:
            raise
        except BaseException:
            self.close()
            raise

    def _send(self, opened: socket.socket, content: bytes) -> None:
        """Send in one datagram; a send buffer that is too small is made as large as this one needs, once."""
        if len(content) > self._largest_batch:
            raise UnsentError(f"a batch of {len(content)} bytes exceeds the largest, {self._largest_batch}")
        try:
            try:
                opened.send(content)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                opened.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, (len(content) + _SPARE_BYTES) // 2)
                opened.send(content)
        except OSError as error:
            raise _unsent(error, len(content)) from error

    def _check(self, batch: Batch, answers: list[Acknowledgement], *, lost: bool) -> None:
        refusals = [answer for answer in answers if answer.errno]
        whole = next((answer for answer in refusals if answer.sequence not in batch.requests), None)
        if whole is not None:
            raise refusal_of_batch(whole, len(batch.requests))
        if refusals:
            first = refusals[0]
            raise refusal(batch.requests[first.sequence], first, len(refusals) - 1)
        if lost or not answers:
            why = "replies overflowed the receive buffer (ENOBUFS)" if lost else "no reply from the kernel"
            raise KernelError(f"the outcome of a batch of {len(batch.requests)} messages is unknown: {why}")

    def _answers(self, opened: socket.socket, batch: Batch) -> tuple[list[Acknowledgement], bool]:
        """Read the replies to a batch, in order; return them, and whether some were lost."""
        found: list[Acknowledgement] = []
        expected = {batch.first, *batch.requests}
        lost = False
        while True:
            try:
                datagram = opened.recv(_ACK_BYTES)
            except BlockingIOError:
                return found, lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise _unreceived(error) from error
                lost = True
                continue
            if not datagram:
                raise _unreceived(end_of_file())
            found += [answer for answer in _decoded(datagram) if answer.sequence in expected]
            if found and found[-1].sequence == batch.last:
                return found, lost


def _received_handles(opened: socket.socket, sequence: int) -> tuple[RuleHandle, ...] | None:
    """Read the reply to a request for handles."""
    found: list[RuleHandle] = []
    interrupted = False
    try:
        for reply in dump_replies(opened, sequence):
            interrupted = interrupted or is_interrupted(reply)
            if reply.type == codec.NLMSG_ERROR:
                if codec.ack_errno(reply) == errno.EPERM:
                    raise HostError(NEEDS_ROOT, hint=AS_ROOT)
                return None
            if reply.type != codec.NLMSG_DONE:
                found.append(decode_rule_handle(reply))
    except OSError as error:
        raise _unreceived(error) from error
    except WireError as error:
        raise KernelError(f"cannot decode the rules of a chain: {error}") from None
    return None if interrupted else tuple(found)


def _decoded(datagram: bytes) -> list[Acknowledgement]:
    try:
        return [decode_acknowledgement(reply) for reply in codec.messages(datagram) if reply.type == codec.NLMSG_ERROR]
    except WireError as error:
        raise KernelError(f"cannot decode the reply to a batch: {error}") from None


def _unsent(error: OSError, size: int) -> KernelError | HostError:
    match error.errno:
        case errno.EMSGSIZE:
            return UnsentError(f"a batch of {size} bytes exceeds the largest send buffer (EMSGSIZE)")
        case errno.ENOBUFS | errno.ENOMEM:
            return UnsentError(f"the kernel has no memory for a batch of {size} bytes (ENOBUFS)")
        case errno.EPERM:
            return HostError(NEEDS_ROOT, hint=AS_ROOT)
    return KernelError(f"cannot send a batch of {size} bytes: {os.strerror(error.errno or 0)}")


def _unreceived(error: OSError) -> KernelError:
    return KernelError(f"cannot receive the reply to a batch: {error.strerror}")
