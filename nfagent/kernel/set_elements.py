"""Commits changes of set elements on a netlink socket of our own: one sendmsg, one acknowledgement, no read-back.

The kernel commits within sendmsg and has replied when it returns, so `commit` may be called on the event loop: it
takes as long as the kernel's own work. nf_tables commits one transaction at a time in a network namespace: during a
transaction of another thread or process, `commit` waits.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from nfagent.errors import HostError, KernelError, SetFullError, WireError
from nfagent.kernel.sockets import AS_ROOT, request_socket
from nfagent.model.netaddr import Range
from nfagent.netlink import codec
from nfagent.netlink.extack import Acknowledgement, decode_acknowledgement
from nfagent.netlink.nft_elements import Batch, ElementRequest, MapElement, encode_batch, is_elements_only
from nfagent.nftables.objects import TABLE, TABLE_FAMILY, Element, LinkName, PortRange, ProtocolPort
from nfagent.nftables.render import element_text
from nfagent.nftables.transaction import Transaction

_ACK_BYTES = 8192  # an acknowledgement has some 60 bytes, and a message text
NEEDS_ROOT = "nf_tables needs root (CAP_NET_ADMIN)"


class ElementError(KernelError):
    """The kernel refused an element change, and with it the whole batch: nothing was applied.

    errno:   the reason, as in errno(3)
    verb:    'add' or 'delete'
    set:     name of the set or map
    element: the refused element; None where the set or the table is at fault, or where an old kernel doesn't report it
    """

    def __init__(self, request: ElementRequest, answer: Acknowledgement, others: int = 0) -> None:
        """Build the message from request and acknowledgement; `others` counts further refused requests."""
        self.errno = answer.errno
        self.verb = request.verb
        self.set = request.set
        self.element = request.element_at(answer.offset)
        lone = request.elements[0] if len(request.elements) == 1 else self.element
        what = f"{len(request.elements)} elements" if lone is None else _element_description(lone)
        message = f"{self.verb} element {TABLE_FAMILY} {TABLE} {self.set} {{ {what} }}: "
        message += _reason(request, answer, self.element) + f" ({errno.errorcode.get(answer.errno, answer.errno)})"
        message += f"; the kernel says: {answer.text}" if answer.text else ""
        message += f"; {others} more of the batch's messages were refused" if others else ""
        super().__init__(message)


class FullError(ElementError, SetFullError):
    """The set has as many elements as its size allows."""


class UnsentError(KernelError):
    """A batch exceeds the socket's send buffer or free memory: the kernel has received nothing."""


class SetElementSocket:
    """A netlink socket in the network namespace of its constructor. One thread at a time may use it.

    send_buffer:    half the bytes of the largest batch (the kernel doubles it); no memory is reserved
    receive_buffer: half the bytes of all replies, about 1 KiB each: one, or one for each refused request
    """

    def __init__(self, *, send_buffer: int = 128 * 1024 * 1024, receive_buffer: int = 4 * 1024 * 1024) -> None:
        """Open the socket. Raises HostError for what an administrator must change, KernelError otherwise."""
        self._buffers = send_buffer, receive_buffer
        self._sequence = 1
        self._socket: socket.socket | None = self._open()

    def close(self) -> None:
        """Close the socket. Closing twice is harmless."""
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    def commit(self, transaction: Transaction) -> None:
        """Commit a transaction of element commands atomically.

        Raises ElementError for a refused element; UnsentError for a batch that is too large to send; KernelError where
        the batch failed as a whole or its outcome is unknown (then read the table); HostError without CAP_NET_ADMIN;
        WireError for a command that can't be encoded.
        """
        if not is_elements_only(transaction):
            raise WireError("a batch of elements has other commands; commit them by libnftables")
        batch = encode_batch(transaction, self._sequence)
        if not batch.requests:
            return
        self._sequence = batch.following
        with self._opened() as opened:
            try:
                opened.send(batch.data)
            except OSError as error:
                raise _unsent(error, len(batch.data)) from error
            answers, lost = self._answers(opened, batch)
        self._check(batch, answers, lost=lost)

    def _open(self) -> socket.socket:
        send, receive = self._buffers
        return request_socket(NEEDS_ROOT, blocking=False, send_buffer=send, receive_buffer=receive)

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

    def _check(self, batch: Batch, answers: list[Acknowledgement], *, lost: bool) -> None:
        refusals = [answer for answer in answers if answer.errno]
        whole = next((answer for answer in refusals if answer.sequence not in batch.requests), None)
        if whole is not None:
            raise _refused_whole(whole)
        if refusals:
            first = refusals[0]
            kind = FullError if first.errno == errno.ENFILE else ElementError
            raise kind(batch.requests[first.sequence], first, len(refusals) - 1)
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
                    raise KernelError(
                        f"cannot receive the reply to a batch: {os.strerror(error.errno or 0)}"
                    ) from error
                lost = True
                continue
            if not datagram:
                raise KernelError("cannot receive the reply to a batch: end of file on the socket")
            found += [answer for answer in _decoded(datagram) if answer.sequence in expected]
            if found and found[-1].sequence == batch.last:
                return found, lost


def _decoded(datagram: bytes) -> list[Acknowledgement]:
    try:
        return [decode_acknowledgement(reply) for reply in codec.messages(datagram) if reply.type == codec.NLMSG_ERROR]
    except WireError as error:
        raise KernelError(f"cannot decode the reply to a batch: {error}") from None


def _unsent(error: OSError, size: int) -> KernelError:
    match error.errno:
        case errno.EMSGSIZE:
            return UnsentError(f"a batch of {size} bytes exceeds the socket's send buffer (EMSGSIZE)")
        case errno.ENOBUFS | errno.ENOMEM:
            return UnsentError(f"the kernel has no memory for a batch of {size} bytes (ENOBUFS)")
    return KernelError(f"cannot send a batch of {size} bytes: {os.strerror(error.errno or 0)}")


def _refused_whole(answer: Acknowledgement) -> HostError | KernelError:
    if answer.errno == errno.EPERM:
        return HostError(NEEDS_ROOT, hint=AS_ROOT)
    if answer.errno == errno.EOPNOTSUPP:
        return HostError("this kernel has no nf_tables", hint="modprobe nf_tables")
    detail = f"; the kernel says: {answer.text}" if answer.text else ""
    name = errno.errorcode.get(answer.errno, answer.errno)
    return KernelError(
        f"the kernel refused a batch of elements as a whole: {os.strerror(answer.errno)} ({name}){detail}"
    )


def _reason(request: ElementRequest, answer: Acknowledgement, element: Element | MapElement | None) -> str:
    kind = "map" if request.is_map else "set"
    match answer.errno:
        case errno.ENOENT:
            return _missing(request, answer, element, kind)
        # which of the two depends on the kernel version
        case errno.EEXIST | errno.EBUSY if request.is_map:
            return "the address has another target already"
        case errno.EEXIST | errno.EBUSY if isinstance(element, Range | PortRange):
            return "the interval is in the set already, or overlaps one in it"
        case errno.EINVAL if element is not None:
            return f"it isn't of the {kind}'s type"
        case errno.ENFILE:
            return f"the {kind} is full"
    return os.strerror(answer.errno).lower()


def _missing(request: ElementRequest, answer: Acknowledgement, element: Element | MapElement | None, kind: str) -> str:
    if request.names_table(answer.offset):
        return f"there is no table {TABLE_FAMILY} {TABLE}"
    if element is None and answer.offset is not None:
        return f"there is no {kind} of that name"
    if element is not None and request.verb == "delete":
        return f"it isn't in the {kind}"
    if element is not None and request.is_map:
        return "there is no chain of that name"
    return os.strerror(answer.errno).lower()


def _element_description(element: Element | MapElement) -> str:
    match element:
        case (str(address), str(chain)):
            return f"{address} : goto {chain}"
        case str() | int() | Range() | PortRange() | LinkName() | ProtocolPort() | (_, _, _) | (_, _, _, _, _):
            return element_text(element)
