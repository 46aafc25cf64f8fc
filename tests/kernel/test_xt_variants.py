"""What is accepted as our rules in another form, where iptables-save prints them otherwise than they were written."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_programs import Variant, XtPrograms, programs_of
from tests.kernel.test_xt_client import SHOP, VARIANTS, add_rule, client, converge, first_rule
from tests.support.own_namespace import own_iptables

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; the lock of iptables is this test's own."""
    with own_iptables("xtvariants", tmp_path, monkeypatch):
        yield


def with_scripts(variant: Variant, folder: Path, *, restore: str = "", save: str = "") -> XtPrograms:
    """Return programs of which those of IPv4 are followed by a script: behind each restore, or for what is saved."""
    found = programs_of(variant)
    program = found.families[4]
    paths = {}
    for name, content in (
        ("restore", f'#!/bin/sh\n{program.restore} "$@" || exit\n{restore}\n'),
        ("save", f'#!/bin/sh\n{program.save} "$@" | {save or "cat"}\n'),
    ):
        path = folder / name
        path.write_text(content, encoding="utf-8")
        path.chmod(0o755)
        paths[name] = str(path)
    return msgspec.structs.replace(found, families={**found.families, 4: msgspec.structs.replace(program, **paths)})


async def repaired(kernel: XtClient, change: Callable[[], None]) -> tuple[str, ...]:
    """Repair what is changed, and return what is accepted as equal, as the reconciler does."""
    change()
    repair = await kernel.difference(SHOP)
    assert repair
    await kernel.apply(repair)
    return await kernel.accept_variants(SHOP, repair)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_rule_that_another_program_puts_back_at_once_is_none_of_ours(variant: Variant, tmp_path: Path) -> None:
    with client(variant) as before:
        asyncio.run(converge(before, SHOP))
    puts = f"iptables-{variant} -t mangle -I {first_rule(variant)} 1 -j ACCEPT"
    programs = with_scripts(variant, tmp_path, restore=puts)
    kernel = XtClient(XtKernel(programs, (4, 6), IpSetSocket(), NfacctSocket()), lambda: SHOP)
    try:
        assert asyncio.run(repaired(kernel, lambda: add_rule(variant))) == ()
        assert asyncio.run(kernel.difference(SHOP))
    finally:
        kernel.close()


def test_a_match_that_is_printed_in_another_form_is_accepted(tmp_path: Path) -> None:
    programs = with_scripts("legacy", tmp_path, save="sed 's/--ctstate ESTABLISHED/--state ESTABLISHED/'")
    kernel = XtClient(XtKernel(programs, (4, 6), IpSetSocket(), NfacctSocket()), lambda: SHOP)
    try:
        asyncio.run(converge(kernel, SHOP))
        assert asyncio.run(repaired(kernel, lambda: None))
        assert asyncio.run(kernel.difference(SHOP)) == ()
    finally:
        kernel.close()
