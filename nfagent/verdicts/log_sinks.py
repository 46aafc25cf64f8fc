"""All sinks of the verdict log: each line goes to every one, and none delays another."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from nfagent.verdicts.log_stream import LogStream
from nfagent.verdicts.log_writer import LogWriter, SinkStatus

STREAM = "stream"
"""The name of the stream in `status`, beside those of the sinks."""
_STOP_SECONDS = 2.0


class LogSinks:
    """The sinks that the settings name, and the stream of the agent's socket, which is always there."""

    def __init__(self, writers: Mapping[str, LogWriter], stream: LogStream) -> None:
        """Keep the writers, by the names that the settings use."""
        self._writers = writers
        self._stream = stream

    @property
    def problem(self) -> str:
        """Why lines are being lost, or may be soon; '' without a problem."""
        return "; ".join(writer.problem for writer in self._writers.values() if writer.problem)

    def start(self) -> None:
        """Start the sinks' threads."""
        for writer in self._writers.values():
            writer.start()

    def write(self, lines: Sequence[bytes]) -> None:
        """Queue lines, each with its newline, for every sink; returns at once."""
        for writer in self._writers.values():
            writer.write(lines)
        self._stream.write(lines)

    def report_problem(self) -> None:
        """Log what is wrong with each sink, at most once a minute."""
        for writer in self._writers.values():
            writer.report_problem()

    def reopen(self) -> None:
        """Reopen the sinks, after another program may have moved the file."""
        for writer in self._writers.values():
            writer.reopen()

    def close(self) -> None:
        """End the streams, and write what is queued within two seconds for all sinks together."""
        self._stream.close()
        for writer in self._writers.values():
            writer.end()
        deadline = time.monotonic() + _STOP_SECONDS
        for writer in self._writers.values():
            writer.close(max(0.0, deadline - time.monotonic()))

    def status(self) -> dict[str, SinkStatus]:
        """Return the status of each sink by name; the stream's lost lines are those of slow readers."""
        found = {name: writer.status() for name, writer in self._writers.items()}
        lost = dict(self._stream.lost)
        return found | {STREAM: SinkStatus(lost_lines=sum(lost.values()), lost_by=lost)}


def lost_by_reason(sinks: Mapping[str, SinkStatus]) -> dict[str, int]:
    """Return the lines that sinks lost, by reason; those that slow readers of the stream missed are left out."""
    total: Counter[str] = Counter()
    for name, sink in sinks.items():
        if name != STREAM:
            total.update(sink.lost_by)
    return dict(sorted(total.items()))
