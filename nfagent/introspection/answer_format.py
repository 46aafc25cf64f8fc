"""What a command says of an answer of the agent that it can't read: the agent has another version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from nfagent.errors import HostError
from nfagent.model.netaddr import AddressError


@contextmanager
def answer_format(what: str) -> Iterator[None]:
    """Raise HostError for an answer that can't be converted. what: `the running agent's syncs have`."""
    try:
        yield
    except (msgspec.ValidationError, AddressError) as error:
        raise HostError(
            f"{what} another format than this command reads ({error})",
            hint="restart it, so that both have one version: systemctl restart nfagent",
        ) from None
