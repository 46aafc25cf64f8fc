"""Changes and lists ipsets on a netlink socket of our own: one sendmsg a request, which the kernel answers within it.

A request for members has as many as fit in a message, some thousand. Each is sent alone, so that nothing follows a
refused one. The network namespace is that of the thread that opens the socket.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from nfagent.errors import KernelError, WireError
from nfagent.kernel.ipset_refusals import NEEDS_ROOT, SetRefusedError, SetRequest, set_refusal
from nfagent.kernel.sockets import ask, discard_received, dump_replies, request_socket
from nfagent.netlink import codec, ipset
from nfagent.netlink.ipset_listing import (
    SetHeader,
    decode_answer,
    decode_name,
    decode_packets,
    decode_part,
    decode_type,
)
from nfagent.xtables.objects import IpSet, SetMember, SetType

_REQUEST_BYTES = 1024 * 1024


class ListedSet(msgspec.Struct, frozen=True):
    """A set as the kernel has it.

    unknown: number of members of a form that nfagent never writes
    """

    header: SetHeader
    members: frozenset[SetMember]
    unknown: int


class IpSetSocket:
    """A netlink socket in the network namespace of its constructor. Any thread may use it; one waits for another."""

    def __init__(self) -> None:
        """Open the socket. Raises HostError, KernelError."""
        self.created = 0  # sets, by this socket; each may have got the index of one that is gone
        self._in_use = threading.RLock()
        self._sequence = 0
        self._types: dict[tuple[str, int], ipset.TypeRange] = {}
        self._socket = request_socket(
            NEEDS_ROOT, blocking=False, send_buffer=_REQUEST_BYTES, receive_buffer=4 * _REQUEST_BYTES
        )

    def close(self) -> None:
        """Close the socket. Closing twice is harmless."""
        self._socket.close()

    def create(self, name: str, shape: IpSet) -> None:
        """Create a set without members. Raises SetRefusedError, HostError, WireError."""
        with self._in_use:
            request = SetRequest(f"create {name} {shape.type}")
            revision = ipset.revision_of(shape.type, self.supported(shape.type, shape.family))
            self.created += 1  # first: the kernel may have made a set whose answer is lost
            self._send(ipset.create_request(name, shape, revision, self._next()), request)

    def change(
        self, verb: Literal["add", "delete"], name: str, members: Iterable[SetMember], *, timeout: int = 0
    ) -> None:
        """Add members to a set or delete them; one that is in it already, or isn't, is no error.

        After an error the members before the refused one are changed. Raises SetFullError for a full set,
        SetRefusedError, HostError, WireError.
        """
        with self._in_use:
            sequence = self._next()
            for part in ipset.member_requests(verb, name, members, sequence, timeout=timeout):
                self._send(part.data, SetRequest(f"{'add' if verb == 'add' else 'del'} {name}", part.members))

    def flush(self, name: str) -> None:
        """Delete all members of a set. Raises SetRefusedError, HostError."""
        with self._in_use:
            self._send(ipset.flush_request(name, self._next()), SetRequest(f"flush {name}"))

    def swap(self, name: str, other: str) -> None:
        """Exchange the contents of two sets in one moment. Raises SetRefusedError, HostError."""
        with self._in_use:
            self._send(ipset.swap_request(name, other, self._next()), SetRequest(f"swap {name} {other}"))

    def rename(self, name: str, new: str) -> None:
        """Rename a set that nothing refers to. Raises SetRefusedError, HostError."""
        with self._in_use:
            self._send(ipset.rename_request(name, new, self._next()), SetRequest(f"rename {name} {new}"))

    def destroy(self, name: str) -> None:
        """Delete a set that nothing refers to; one that is gone is no error. Raises SetRefusedError, HostError."""
        with self._in_use:
            try:
                self._send(ipset.destroy_request(name, self._next()), SetRequest(f"destroy {name}"))
            except SetRefusedError as error:
                if error.code != errno.ENOENT:  # of kernels before 5.11, which have no such flag for this request
                    raise

    def names(self) -> list[str]:
        """Return the names of all sets of all programs. Raises KernelError, HostError."""
        with self._in_use:
            request, sequence = SetRequest("list -name"), self._next()
            with _failures(request):
                return [decode_name(reply) for reply in self._dump(ipset.names_request(sequence), sequence, request)]

    def headers(self) -> list[SetHeader]:
        """Return all sets of all programs without their members. Raises KernelError, HostError."""
        with self._in_use:
            request, sequence = SetRequest("list -terse"), self._next()
            replies = self._dump(ipset.headers_request(sequence), sequence, request)
            with _failures(request):
                return [part.header for part in map(decode_part, replies) if part.header is not None]

    def raw_headers(self) -> list[bytes]:
        """Return the messages of all sets without their members, as they are. Raises KernelError, HostError."""
        with self._in_use:
            request, sequence = SetRequest("list -terse"), self._next()
            return [reply.payload for reply in self._dump(ipset.headers_request(sequence), sequence, request)]

    def read(self, name: str) -> ListedSet:
        """Return a set with its members. Raises SetRefusedError without it, KernelError, HostError."""
        return listed_set(name, self.messages(name))

    def messages(self, name: str) -> list[codec.Message]:
        """Return the messages of a set's listing: equal payloads hold equal sets. Raises what `read` does."""
        with self._in_use:
            return list(self._list(name))

    def packets(self, name: str) -> dict[str, int]:
        """Return the packets that each address of a set has counted; none without the set. Raises what `read` does."""
        with self._in_use, _failures(SetRequest(f"list {name}")):
            try:
                return dict(found for reply in self._list(name) for found in decode_packets(reply))
            except SetRefusedError as error:
                if error.code != errno.ENOENT:
                    raise
                return {}

    def raw(self, name: str) -> list[bytes]:
        """Return the payloads of a set's listing. Raises what `read` does."""
        return [reply.payload for reply in self.messages(name)]

    def supported(self, kind: SetType, family: int) -> ipset.TypeRange:
        """Return the revisions of a set type that the kernel has. Raises SetRefusedError without it, HostError."""
        with self._in_use:
            found = self._types.get((kind, family))
            if found is None:
                request = SetRequest(f"create NAME {kind}")
                answer = self._asked(ipset.type_request(kind, family, self._next()), request)
                found = self._types[kind, family] = _decoded(answer)
            return found

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) & codec.SEQUENCE_MASK
        return self._sequence

    def _list(self, name: str) -> Iterator[codec.Message]:
        sequence = self._next()
        return self._dump(ipset.list_request(name, sequence), sequence, SetRequest(f"list {name}"))

    def _send(self, content: bytes, request: SetRequest) -> None:
        self._asked(content, request)

    def _asked(self, content: bytes, request: SetRequest) -> codec.Message:
        reply = self._exchange(content, request)
        with _failures(request):
            _raise_refusal(reply, request)
        return reply

    def _exchange(self, content: bytes, request: SetRequest) -> codec.Message:
        """Send a request; return its reply."""
        with _failures(request):
            reply = ask(self._socket, content, self._sequence)
        if reply is None:
            raise KernelError(f"{request.describe()}: no reply from the kernel")
        return reply

    def _dump(self, content: bytes, sequence: int, request: SetRequest) -> Iterator[codec.Message]:
        with _failures(request):
            discard_received(self._socket)
            self._socket.send(content)
            for reply in dump_replies(self._socket, sequence):
                _raise_refusal(reply, request)
                if reply.type not in {codec.NLMSG_DONE, codec.NLMSG_ERROR}:
                    yield reply


def listed_set(name: str, messages: Iterable[codec.Message]) -> ListedSet:
    """Return the set that messages of its listing hold. Raises KernelError."""
    with _failures(SetRequest(f"list {name}")):
        parts = [decode_part(reply) for reply in messages]
    header = next((part.header for part in parts if part.header is not None), None)
    if header is None:
        raise KernelError(f"ipset list {name}: the kernel listed no such set")
    members = frozenset(member for part in parts for member in part.members)
    return ListedSet(header, members, sum(part.unknown for part in parts))


def _decoded(reply: codec.Message) -> ipset.TypeRange:
    try:
        return decode_type(reply)
    except WireError as error:
        raise KernelError(f"cannot decode the revisions of a set type: {error}") from None


def _raise_refusal(reply: codec.Message, request: SetRequest) -> None:
    if reply.type == codec.NLMSG_ERROR:
        answer = decode_answer(reply)
        if answer.code:
            raise set_refusal(request, answer.code, answer.line)


@contextmanager
def _failures(request: SetRequest) -> Iterator[None]:
    """Turn errors of the socket, and replies that can't be decoded, into errors about a request."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPERM:
            raise set_refusal(request, errno.EPERM) from error
        raise KernelError(f"{request.describe()}: {os.strerror(error.errno or 0).lower()}") from error
    except WireError as error:
        raise KernelError(f"{request.describe()}: cannot decode the reply: {error}") from None
