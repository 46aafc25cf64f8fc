"""Calls to file systems, any of which may never answer: a dead NFS server, a FUSE daemon that hangs. Blocking.

Calls are made one after the other in a daemon thread. One that takes too long is left alone with its thread, and the
others go on in a new one. It isn't made again before it has returned.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

SECONDS = 5.0
"""How long the first call may take that doesn't answer; each further one of the same look gets half of the time."""
_LEAST_SECONDS = 0.25
_MOST_STUCK = 64
"""Threads that wait for a file system; with more of them, nothing more is asked."""


class BoundedCalls:
    """Calls with a limit of time."""

    def __init__(self, seconds: float = SECONDS, most_stuck: int = _MOST_STUCK) -> None:
        """Give every call so long; have no more than so many that don't answer."""
        self._seconds = seconds
        self._most_stuck = most_stuck
        self._stuck: set[Hashable] = set()
        self._lock = threading.Lock()

    def each(self, call: Callable[[_K], _T], keys: Iterable[_K]) -> Iterator[tuple[_K, _T | OSError]]:
        """Give what a call returns for each key, or why it can't be had. Raises what calls raise but for OSError."""
        waiting, seconds = deque(keys), self._seconds
        while waiting:
            if waiting[0] in self._stuck or len(self._stuck) >= self._most_stuck:
                yield waiting.popleft(), _no_answer()
                continue
            try:
                thread = _CallThread(call, waiting, self._stuck, self._lock)
            except RuntimeError:  # the machine, or the service, has as many threads as it may have
                yield waiting.popleft(), OSError(errno.EAGAIN, "no thread can be started; see TasksMax, pid_max")
                continue
            stuck = yield from thread.answers(seconds)
            if stuck is not None:
                yield stuck, _no_answer()
                seconds = max(seconds / 2, _LEAST_SECONDS)

    def ask(self, call: Callable[[], _T], key: Hashable) -> _T:
        """Return what one call returns; the key tells it from others. Raises OSError, and what the call raises."""
        for _, answer in self.each(lambda _: call(), [key]):
            if isinstance(answer, OSError):
                raise answer
            return answer
        raise AssertionError("one key has one answer")


class _CallThread(Generic[_K, _T]):
    """A thread that works through keys, until it comes to one that was found stuck, or it is stuck itself."""

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
        threading.Thread(target=self._work, name="bounded-calls", daemon=True).start()

    def answers(self, seconds: float) -> Generator[tuple[_K, _T | OSError], None, _K | None]:
        """Give answers as they come; return the key whose call takes longer than so many seconds, or None."""
        while True:
            try:
                found = self._found.get(timeout=seconds)
            except queue.Empty:
                with self._lock:
                    if not self._found.empty():
                        continue
                    self._left = True
                    self._stuck.add(self._current)
                    return self._current
            if found is None:
                return None
            key, answer = found
            if isinstance(answer, BaseException) and not isinstance(answer, OSError):
                raise answer
            yield key, answer

    def _work(self) -> None:
        while (key := self._next()) is not None:
            answer = self._answer(key)
            with self._lock:
                if self._left:
                    self._stuck.discard(key)
                    return
                self._found.put((key, answer))
        self._found.put(None)

    def _next(self) -> _K | None:
        with self._lock:
            ended = not self._waiting or self._waiting[0] in self._stuck
            self._current = None if ended else self._waiting.popleft()
            return self._current

    def _answer(self, key: _K) -> _T | BaseException:
        try:
            return self._call(key)
        except BaseException as error:  # noqa: BLE001 - the caller's, whatever it is
            return error


def _no_answer() -> OSError:
    return OSError(errno.ETIMEDOUT, "the file system doesn't answer")
