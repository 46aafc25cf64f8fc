"""Where the records of `nfagent logs` come from, and what is to be said about those that aren't shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from nfagent.cli.log_follow import LogFollower, NoFileError
from nfagent.cli.log_reading import Counts, Selection, records_of_file, records_of_lines, stdin_batches
from nfagent.cli.log_streamed import kept_batches, streamed_batches
from nfagent.cli.output import write_remark
from nfagent.config import Settings
from nfagent.errors import HostError, UsageError
from nfagent.introspection.agent_client import NoAgentError, is_listening
from nfagent.model.plurals import counted
from nfagent.verdicts.record_filter import NoCluster, PeerLookup, RecordFilter, RecordMatcher, encode_filter
from nfagent.verdicts.records import Record

_STDIN = Path("-")
_PODS_NAMED = 3
_NAMED = {"from", "to", "peer", "policy"}
"""Fields of filters that have names of the cluster, of which some may be gone."""


class LogSource:
    """A file, stdin, or the agent where the settings name no file.

    counts: what was read so far
    """

    def __init__(self, settings: Settings, path: Path | None, wanted: RecordFilter) -> None:
        """Choose the source; nothing is read yet."""
        self.counts = Counts()
        self._settings = settings
        self._wanted = wanted
        self._path = path or settings.verdict_log
        self._is_agent = path is None and "file" not in settings.logging.sinks
        self._unknown: dict[str, None] = {}

    def batches(self, selection: Selection, manifests: Path | None) -> Iterator[list[Record]]:
        """Yield the records. Raises UsageError, HostError."""
        if self._is_agent:
            yield from self._of_agent(selection)
            return
        matches = RecordMatcher(self._wanted, self._peers(selection, manifests))
        self._unknown = matches.unknown
        try:
            if self._path == _STDIN:
                yield from records_of_lines(stdin_batches(), matches, selection, self.counts)
                return
            follower = LogFollower(self._path)
            if not selection.follow and not follower.exists():
                raise self._missing()
            yield from records_of_file(follower, matches, selection, self.counts)
        except (PermissionError, IsADirectoryError, NoFileError) as error:
            raise HostError(f"{self._path} can't be read: {error.strerror}; use sudo, or another --file") from None

    def _peers(self, selection: Selection, manifests: Path | None) -> PeerLookup:
        if not self._wanted.needs_cluster:
            return NoCluster()
        from nfagent.cli.log_peers import peer_lookup  # most filters need no state, which takes time to import

        return peer_lookup(self._settings, manifests, follow=selection.follow)

    def _of_agent(self, selection: Selection) -> Iterator[list[Record]]:
        last = str(selection.last or ("0" if selection.follow else "all"))
        asked = {"last": "all" if selection.first else last}
        if self._wanted != RecordFilter():
            asked["filter"] = encode_filter(self._wanted)
        path = self._settings.socket_path
        batches = streamed_batches(path, asked) if selection.follow else kept_batches(path, asked, self._unknown)
        every = RecordMatcher(RecordFilter(), NoCluster())
        try:
            yield from records_of_lines(batches, every, selection, self.counts)
        except NoAgentError as error:
            if selection.follow:
                raise
            raise UsageError(
                f"the settings write no log file: logging.sinks has none, and {error}",
                hint="start the agent; `nfagent logs -f` shows new records, --file PATH reads a file",
            ) from None

    @property
    def unknown_pods(self) -> list[str]:
        """Pods whose labels the filter asked for and that are gone."""
        return list(self._unknown)

    def write_unread(self) -> None:
        """Write to stderr how many lines were no records."""
        if self.counts.unread:
            write_remark("warning", f"skipped {counted(self.counts.unread, 'invalid line')} of the log")

    def write_remarks(self, *, cut_at: int) -> None:
        """Write what isn't shown, and why, to stderr. cut_at: the number of records shown where none was asked for."""
        counts = self.counts
        if counts.cut and cut_at:
            write_remark("note", f"the last {cut_at} records; --last N shows more, --all all")
        if self._unknown:
            names = ", ".join(list(self._unknown)[:_PODS_NAMED])
            more = f" and {len(self._unknown) - _PODS_NAMED} more" if len(self._unknown) > _PODS_NAMED else ""
            write_remark("note", f"labels of Pods that are gone aren't known, so no selector matches {names}{more}")
        if not counts.matching:
            write_remark("note", self._nothing())

    def _missing(self) -> UsageError:
        if self._path != self._settings.verdict_log:
            return UsageError(f"{self._path}: there is no such file; without --file: {self._settings.verdict_log}")
        with suppress(HostError):
            if not is_listening(self._settings.socket_path):
                return UsageError(
                    f"{self._path}: no verdict log yet, and no agent listens at {self._settings.socket_path}",
                    hint="see: systemctl status nfagent; --file PATH reads another file",
                )
        return UsageError(
            f"{self._path}: no verdict log yet; the NetworkLogging object `default` switches logging on, "
            "and --file PATH reads another file"
        )

    def _nothing(self) -> str:
        counts = self.counts
        if counts.records or (self._is_agent and self._wanted != RecordFilter()):
            of = counted(counts.records, "record") if counts.records else "the latest records"
            named = {clause.field for clause in (*self._wanted.all, *self._wanted.none)} & _NAMED
            names = ", and do the names exist (`nfagent dump state -A`, `dump policies`)" if named else ""
            return f"none of {of} matches; is logging on for these connections{names}?"
        if counts.unread:
            return f"none of the lines of {self._path} is a record: it is of another program, or of another version"
        return "the log has no records; the NetworkLogging object `default` switches logging on"
