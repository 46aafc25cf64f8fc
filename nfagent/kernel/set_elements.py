"""Commits element changes on a netlink socket of our own: one sendmsg, one answer, nothing read back.

The kernel does the work within sendmsg and has answered when it returns, so `commit` may be called on the event
loop: it takes as long as the kernel's own work. nf_tables commits one transaction at a time in a network namespace:
while another one is under way, on another thread or in another process, `commit` waits for it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nfagent.errors import HostError, KernelError, SetFullError, WireError
from nfagent.kernel.sockets import AS_ROOT, asking_socket
from nfagent.model.netaddr import Range
from nfagent.netlink import codec
from nfagent.netlink.extack import Acknowledgement, decode_answer
from nfagent.netlink.nft_elements import Batch, ElementRequest, MapElement, encode_batch, is_elements_only
from nfagent.nftables.objects import TABLE, TABLE_FAMILY, Element, LinkName, PortRange, ServicePort
from nfagent.nftables.render import element_text
from nfagent.nftables.transaction import Transaction

_ANSWER_BYTES = 8192  # an answer is some 60 bytes, and words
NEEDS_ROOT = "nf_tables needs root (CAP_NET_ADMIN)"


class ElementError(KernelError):
    """The kernel refused an element change, and with it the whole batch: nothing of it was applied.

    errno:   why, as in errno(3)
    verb:    'add' or 'delete'
    set:     name of the set or map
    element: the one at fault; None where it is the set or the table, or where an old kernel doesn't tell
    """

    def __init__(self, request: ElementRequest, answer: Acknowledgement, others: int = 0) -> None:
        """Put request and answer into words; `others` counts further messages that were refused."""
        self.errno = answer.errno
        self.verb = request.verb
        self.set = request.set
        self.element = request.element_at(answer.offset)
        lone = request.elements[0] if len(request.elements) == 1 else self.element
        what = f"{len(request.elements)} elements" if lone is None else _element_words(lone)
        words = f"{self.verb} element {TABLE_FAMILY} {TABLE} {self.set} {{ {what} }}: "
        words += _reason(request, answer, self.element) + f" ({errno.errorcode.get(answer.errno, answer.errno)})"
        words += f"; the kernel says: {answer.text}" if answer.text else ""
        words += f"; {others} more of the batch's messages were refused" if others else ""
        super().__init__(words)


class FullError(ElementError, SetFullError):
    """The set has as many elements as it has room for."""


class UnsentError(KernelError):
    """There was no room for a batch, in the socket's send buffer or in memory: the kernel has seen nothing of it."""


class SetElementSocket:
    """A netlink socket of the network namespace in which it is made. One thread at a time may use it.

    send_buffer:    half the bytes that a batch may have (the kernel doubles it); nothing is reserved
    receive_buffer: half the bytes that answers may take, about 1 KiB each: one, or one for each message refused
    reopened:       called after a socket was opened in the place of one that failed, before anything is sent by it
    """

    def __init__(
        self,
        *,
        send_buffer: int = 128 * 1024 * 1024,
        receive_buffer: int = 4 * 1024 * 1024,
        reopened: Callable[[], None] = lambda: None,
    ) -> None:
        """Open it. Raises MachineError where this machine stands in the way, KernelError otherwise."""
        self._buffers = send_buffer, receive_buffer
        self._reopened = reopened
        self._sequence = 1
        self._socket: socket.socket | None = self._open()

    def close(self) -> None:
        """Close the socket. Closing twice is harmless."""
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    def commit(self, transaction: Transaction) -> None:
        """Apply a transaction that has element commands only, all of it or nothing.

        Raises ElementError, which says what was refused and why; UnsentError where there is no room for the batch;
        KernelError where it failed as a whole or its outcome isn't known (read the table then); MachineError
        without the right to do it; WireError for what can't be written.
        """
        if not is_elements_only(transaction):
            raise WireError("a batch of elements can't carry other commands; commit them through libnftables")
        batch = encode_batch(transaction, self._sequence)
        if not batch.requests:
            return
        self._sequence = batch.following
        with self._asking() as opened:
            try:
                opened.send(batch.data)
            except OSError as error:
                raise _unsent(error, len(batch.data)) from error
            answers, lost = self._answers(opened, batch)
        self._judge(batch, answers, lost=lost)

    def _open(self) -> socket.socket:
        send, receive = self._buffers
        return asking_socket(NEEDS_ROOT, blocking=False, send_buffer=send, receive_buffer=receive)

    @contextmanager
    def _asking(self) -> Iterator[socket.socket]:
        """Give the socket. One that fails is closed, for it may never work again: who commits next gets a new one."""
        try:
            if self._socket is None:
                self._socket = self._open()
                self._reopened()
            yield self._socket
        except UnsentError:
            raise
        except BaseException:
            self.close()
            raise

    def _judge(self, batch: Batch, answers: list[Acknowledgement], *, lost: bool) -> None:
        refusals = [answer for answer in answers if answer.errno]
        whole = next((answer for answer in refusals if answer.sequence not in batch.requests), None)
        if whole is not None:
            raise _refused_whole(whole)
        if refusals:
            first = refusals[0]
            kind = FullError if first.errno == errno.ENFILE else ElementError
            raise kind(batch.requests[first.sequence], first, len(refusals) - 1)
        if lost or not answers:
            why = "its answers overflowed the receive buffer (ENOBUFS)" if lost else "the kernel didn't answer"
            raise KernelError(f"the outcome of a batch of {len(batch.requests)} messages is unknown: {why}")

    def _answers(self, opened: socket.socket, batch: Batch) -> tuple[list[Acknowledgement], bool]:
        """Take the answers to a batch, in their order, and tell whether some were lost."""
        found: list[Acknowledgement] = []
        expected = {batch.first, *batch.requests}
        lost = False
        while True:
            try:
                datagram = opened.recv(_ANSWER_BYTES)
            except BlockingIOError:
                return found, lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError(
                        f"the answer to a batch can't be read: {os.strerror(error.errno or 0)}"
                    ) from error
                lost = True
                continue
            if not datagram:
                raise KernelError("the answer to a batch can't be read: its socket has ended")
            found += [answer for answer in _decoded(datagram) if answer.sequence in expected]
            if found and found[-1].sequence == batch.last:
                return found, lost


def _decoded(datagram: bytes) -> list[Acknowledgement]:
    try:
        return [decode_answer(reply) for reply in codec.messages(datagram) if reply.type == codec.NLMSG_ERROR]
    except WireError as error:
        raise KernelError(f"a batch's answer can't be read: {error}") from None


def _unsent(error: OSError, size: int) -> KernelError:
    match error.errno:
        case errno.EMSGSIZE:
            return UnsentError(f"a batch of {size} bytes is more than the socket's send buffer (EMSGSIZE)")
        case errno.ENOBUFS | errno.ENOMEM:
            return UnsentError(f"the kernel has no memory for a batch of {size} bytes (ENOBUFS)")
    return KernelError(f"a batch of {size} bytes can't be sent: {os.strerror(error.errno or 0)}")


def _refused_whole(answer: Acknowledgement) -> HostError | KernelError:
    if answer.errno == errno.EPERM:
        return HostError(NEEDS_ROOT, hint=AS_ROOT)
    if answer.errno == errno.EOPNOTSUPP:
        return HostError("this kernel has no nf_tables", hint="modprobe nf_tables")
    said = f"; the kernel says: {answer.text}" if answer.text else ""
    name = errno.errorcode.get(answer.errno, answer.errno)
    return KernelError(f"the kernel refused a batch of elements as a whole: {os.strerror(answer.errno)} ({name}){said}")


def _reason(request: ElementRequest, answer: Acknowledgement, element: Element | MapElement | None) -> str:
    kind = "map" if request.is_map else "set"
    match answer.errno:
        case errno.ENOENT:
            return _missing(request, answer, element, kind)
        # kernels differ in which of the two they answer
        case errno.EEXIST | errno.EBUSY if request.is_map:
            return "the address has another target already"
        case errno.EEXIST | errno.EBUSY if isinstance(element, Range | PortRange):
            return "the interval is in the set already, or overlaps with one that is"
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


def _element_words(element: Element | MapElement) -> str:
    match element:
        case (str(address), str(chain)):
            return f"{address} : goto {chain}"
        case str() | int() | Range() | PortRange() | LinkName() | ServicePort() | (_, _, _) | (_, _, _, _, _):
            return element_text(element)
