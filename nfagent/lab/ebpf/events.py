"""Reads the program's verdict events from its ring buffer."""

from __future__ import annotations

import ctypes
import sys
from collections import deque

from nfagent.errors import WireError
from nfagent.lab.ebpf.codec import VerdictEvent, decode_event
from nfagent.lab.ebpf.libbpf import SAMPLE_FUNCTION, failure, libbpf
from nfagent.lab.ebpf.maps import EbpfMap

KEPT = 1024
"""Events that are kept."""
_FIRST = bytes(4)


class EventReader:
    """The events of a loaded program.

    kept:       the last ones
    allowed, denied: number of events since the start
    unreadable: number of records that aren't events
    """

    def __init__(self, events: EbpfMap, lost: EbpfMap) -> None:
        """Open the ring buffer. Raises KernelError."""
        self.kept: deque[VerdictEvent] = deque(maxlen=KEPT)
        self.allowed = self.denied = self.unreadable = 0
        self._lost = lost
        self._take = SAMPLE_FUNCTION(self._taken)  # libbpf calls it: it must live as long as the buffer
        self._buffer = ctypes.c_void_p(libbpf().ring_buffer__new(events.descriptor, self._take, None, None))
        if self._buffer.value is None:
            raise failure("cannot read the ring buffer of verdicts")

    def fileno(self) -> int:
        """Return the descriptor that is readable while there are events."""
        return int(libbpf().ring_buffer__epoll_fd(self._buffer))

    def read(self) -> None:
        """Read all waiting events."""
        libbpf().ring_buffer__consume(self._buffer)

    @property
    def lost(self) -> int:
        """The number of events for which the ring buffer had no space."""
        value = self._lost.value(_FIRST, 8)
        return int.from_bytes(value or b"", sys.byteorder)

    def close(self) -> None:
        """Close the ring buffer; may be called twice."""
        opened, self._buffer = self._buffer, ctypes.c_void_p()
        if opened.value is not None:
            libbpf().ring_buffer__free(opened)

    def _taken(self, _context: object, record: int, size: int) -> int:
        try:
            event = decode_event(ctypes.string_at(record, size))
        except WireError:
            self.unreadable += 1
            return 0
        self.kept.append(event)
        if event.allowed:
            self.allowed += 1
        else:
            self.denied += 1
        return 0
