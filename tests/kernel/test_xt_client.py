"""Rulesets in iptables and ipset of a real kernel: what is written is listed, what others change is put back."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from nfagent.errors import KernelError, SetFullError
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_programs import Variant, programs_of
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.nftables.transaction import ChangeElements
from nfagent.xtables.saved import is_ours
from tests.properties.strategies import desired, worlds
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

VARIANTS: list[Variant] = ["legacy", "nft"]


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; the lock of iptables is this test's own."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with own_namespace("xtclient"):
        yield


@contextmanager
def client(variant: Variant, known: Callable[[], Ruleset] = lambda: ABSENT) -> Iterator[XtClient]:
    made = XtClient(XtKernel(programs_of(variant), (4, 6), IpSetSocket(), NfacctSocket()), known)
    try:
        yield made
    finally:
        made.close()


async def converge(kernel: XtClient, wanted: Ruleset) -> int:
    """Make the kernel's rules the wanted ones, as the reconciler does; return the number of commands."""
    transaction = await kernel.difference(wanted)
    if transaction:
        await kernel.apply(transaction)
    return len(transaction)


def run(*command: str) -> str:
    """Run another program."""
    return subprocess.run(command, text=True, check=True, capture_output=True).stdout


RULESETS = worlds().map(lambda world: desired("a", world).ruleset())


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=RULESETS, after=RULESETS)
def test_any_ruleset_is_listed_as_it_was_written(variant: Variant, before: Ruleset, after: Ruleset) -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, before)
        assert await kernel.difference(before) == ()
        await kernel.apply(diff(before, after))
        assert await kernel.difference(after) == ()
        assert not await kernel.is_changed(with_members=True)

    with client(variant) as kernel:
        asyncio.run(body(kernel))
