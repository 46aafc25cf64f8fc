"""Samples of the agent's packet counts, for `nfagent top`; an agent that ends meanwhile is asked again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from nfagent.cli.packet_rates import CountSample, with_rates
from nfagent.errors import HostError, UsageError
from nfagent.introspection.agent_client import get_json
from nfagent.introspection.answer_format import answer_format
from nfagent.introspection.counts_view import CountsView

_SECONDS = 5.0


class CountSampler:
    """Asks the agent at a socket from time to time."""

    def __init__(self, socket: Path, interval: float, wait: Callable[[float], object] = time.sleep) -> None:
        """Ask nothing yet. interval: seconds between two samples; wait: waits for so long."""
        self._socket = socket
        self._interval = interval
        self._wait = wait
        self._before: CountsView | None = None

    def samples(self, most: int | None = None) -> Iterator[CountSample | str]:
        """Yield samples, or why there is none; so many at most."""
        number = 0
        while most is None or number < most:
            if number:
                self._wait(self._interval)
            number += 1
            yield self.sample()

    def sample(self) -> CountSample | str:
        """Return a sample with rates since the one before, or why there is none."""
        try:
            content = get_json(self._socket, "/v1/counts", {}, seconds=_SECONDS)
            with answer_format("the running agent's counts have"):
                now = msgspec.convert(content, CountsView)
        except (HostError, UsageError) as error:
            return str(error)
        before, self._before = self._before, now
        return with_rates(before, now)
