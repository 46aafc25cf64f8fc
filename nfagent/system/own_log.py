"""The agent's own log on stderr: level and format, which a reload may change."""

from __future__ import annotations

import logging

from nfagent.system.log_lines import formatter, is_journal
from nfagent.system.repeated_lines import RepeatedLines
from nfagent.system.stderr_log import StderrLog

_NAME = "nfagent"


class OwnLog:
    """The log of this process, from `start` on."""

    def __init__(self, handler: StderrLog | None = None) -> None:
        """Write to stderr, or where `handler` does."""
        self._handler = handler or StderrLog()
        self._repeated = RepeatedLines(self._handler.emit)
        self._handler.addFilter(self._repeated)

    def start(self, level: str, form: str) -> None:
        """Take what is logged from now on. level, form: settings log_level and log_format."""
        self._handler.start()  # before other threads, which a limit may refuse: that is to be said
        self.configure(level, form)
        logging.basicConfig(level=logging.WARNING, handlers=[self._handler])

    def configure(self, level: str, form: str) -> None:
        """Change level and format."""
        self._handler.setFormatter(formatter(form, journal=is_journal()))
        logging.getLogger(_NAME).setLevel(level.upper())

    def finish(self) -> bool:
        """Write what waits, within some seconds; return whether all is written."""
        self._repeated.report()
        self._handler.flush()
        return not self._handler.waiting
