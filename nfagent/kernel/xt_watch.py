"""Looks every second whether another program has changed our rules in iptables or our sets.

Nothing reports such changes. A look costs some milliseconds (`xt_fingerprint`); only what it finds is read and
compared. The members of sets are read as often as that takes a fiftieth of the time, but at least every second where
it is fast. So a change is put back within two seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from nfagent.clock import Clock
from nfagent.errors import HostError, KernelError
from nfagent.kernel.xt_client import XtClient

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
_REST = 49


class XtWatch:
    """Reports changes by other programs.

    problem: why the last look failed, '' otherwise
    """

    def __init__(self, client: XtClient, changed: Callable[[], None], clock: Clock) -> None:
        """Store the client, and what is called after a change by another program."""
        self._client = client
        self._changed = changed
        self._clock = clock
        self._members_at = 0.0
        self.problem = ""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._clock.wait(asyncio.Event(), LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look once; a failure is logged once."""
        now = self._clock.monotonic()
        with_members = now >= self._members_at
        began = time.process_time()
        try:
            if await self._client.is_changed(with_members=with_members):
                self._changed()
            self.problem = ""
        except (KernelError, HostError) as error:
            if self.problem != str(error):
                log.warning("cannot look for changes of the rules in iptables: %s; retrying", error)
            self.problem = str(error)
        if with_members:
            self._members_at = now + (time.process_time() - began) * _REST
