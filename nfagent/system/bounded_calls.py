"""Blocking file system calls with a time limit: an NFS server or FUSE daemon may never reply.

Calls run one after the other in a daemon thread. A call that exceeds the limit keeps its thread, and the next calls
run in a new one. The same call isn't repeated before it has returned.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from nfagent.system.threads import start_daemon

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

SECONDS = 5.0
"""The limit of a call; halved after each stuck call within one `each`."""
_LEAST_SECONDS = 0.25
_MOST_STUCK = 64
"""The largest number of stuck threads; beyond it, calls fail at once."""


class BoundedCalls:
    """Runs calls with a time limit."""

    def __init__(self, seconds: float = SECONDS, most_stuck: int = _MOST_STUCK) -> None:
        """Set the limit of a call in seconds, and the largest number of stuck calls."""
        self._seconds = seconds
        self._most_stuck = most_stuck
        self._stuck: set[Hashable] = set()
        self._lock = threading.Lock()

    def each(self, call: Callable[[_K], _T], keys: Iterable[_K]) -> Iterator[tuple[_K, _T | OSError]]:
        """Yield each key with the result of its call, or the OSError. Raises other exceptions of the calls."""
        waiting, seconds = deque(keys), self._seconds
        while waiting:
            if waiting[0] in self._stuck or len(self._stuck) >= self._most_stuck:
                yield waiting.popleft(), _no_answer()
                continue
            try:
                thread = _CallThread(call, waiting, self._stuck, self._lock)
            except OSError as error:  # the limit of threads is reached
                yield waiting.popleft(), error
                continue
            stuck = yield from thread.answers(seconds)
            if stuck is not None:
                yield stuck, _no_answer()
                seconds = max(seconds / 2, _LEAST_SECONDS)

    def ask(self, call: Callable[[], _T], key: Hashable) -> _T:
        """Return the result of one call, identified by its key. Raises OSError, and what the call raises."""
        for _, answer in self.each(lambda _: call(), [key]):
            if isinstance(answer, OSError):
                try:
                    raise answer
                finally:
                    del answer  # its traceback has this frame: a cycle, with a thread's queue and lock
            return answer
        raise AssertionError("one key has one answer")


class _CallThread(Generic[_K, _T]):
    """A thread that runs the calls of keys in order, up to a key that is stuck."""

    def __init__(
        self, call: Callable[[_K], _T], waiting: deque[_K], stuck: set[Hashable], lock: threading.Lock
    ) -> None:
        self._call = call
        self._waiting = waiting
        self._stuck = stuck
        self._lock = lock
        self._left = False
        self._current: _K | None = None
        self._found: queue.SimpleQueue[tuple[_K, _T | BaseException] | None] = queue.SimpleQueue()
        start_daemon(self._work, "bounded-calls")

    def answers(self, seconds: float) -> Generator[tuple[_K, _T | OSError], None, _K | None]:
        """Yield results as they arrive; return the key whose call exceeds the limit in seconds, or None."""
        while True:
            try:
                found = self._found.get(timeout=seconds)
            except queue.Empty:
                with self._lock:
                    # Between two calls the thread waits for the processor, not for a file system.
                    if self._current is None or not self._found.empty():
                        continue
                    self._left = True
                    self._stuck.add(self._current)
                    return self._current
            if found is None:
                return None
            key, answer = found
            if isinstance(answer, BaseException) and not isinstance(answer, OSError):
                try:
                    raise answer
                finally:
                    del found, answer  # as in `ask`
            yield key, answer

    def _work(self) -> None:
        while (key := self._next()) is not None:
            answer = self._answer(key)
            with self._lock:
                if self._left:
                    self._stuck.discard(key)
                    return
                self._found.put((key, answer))
                self._current = None
            del answer  # the frames of an error's traceback lead to this one
        self._found.put(None)

    def _next(self) -> _K | None:
        with self._lock:
            ended = not self._waiting or self._waiting[0] in self._stuck
            self._current = None if ended else self._waiting.popleft()
            return self._current

    def _answer(self, key: _K) -> _T | BaseException:
        try:
            return self._call(key)
        except BaseException as error:  # noqa: BLE001 - raised in the caller
            return error


def _no_answer() -> OSError:
    return OSError(errno.ETIMEDOUT, "the file system does not respond")
