"""What a small change sends to the kernel: a label members of sets only, a policy one restore of a family."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nfagent.desired.state import DesiredState
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_programs import Program, Variant, XtPrograms, programs_of
from nfagent.xtables.lowering import lower
from nfagent.xtables.names import set_name
from nfagent.xtables.options import LoweringOptions
from tests.support.own_namespace import own_iptables
from tests.support.two_node_cluster import Document, decoded, labelled, namespace, node, pod, policy

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

VARIANTS: list[Variant] = ["legacy", "nft"]
_RESTORE = """#!/bin/sh
echo "# restore" >>{log}
tee -a {log} | {program} "$@"
"""
_SAVE = """#!/bin/sh
echo "# save" >>{log}
exec {program} "$@"
"""


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; the lock of iptables is this test's own."""
    with own_iptables("xtsmall", tmp_path, monkeypatch):
        yield


class RecordedPrograms:
    """The programs of a variant, by scripts that write down each run and its input."""

    def __init__(self, variant: Variant, folder: Path) -> None:
        self._folder, self._log = folder, folder / "runs"
        self._log.touch()
        found = programs_of(variant)
        families = {family: self._recorded(program) for family, program in found.families.items()}
        self.programs: XtPrograms = msgspec.structs.replace(found, families=families)

    def _recorded(self, program: Program) -> Program:
        restore, save = (
            self._script(path, text) for path, text in ((program.restore, _RESTORE), (program.save, _SAVE))
        )
        return msgspec.structs.replace(program, restore=restore, save=save)

    def _script(self, program: str, text: str) -> str:
        path = self._folder / Path(program).name
        path.write_text(text.format(log=self._log, program=program), encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def taken(self) -> list[list[str]]:
        """Return the runs since the last call, each the lines of its input."""
        runs = self._log.read_text(encoding="utf-8").split("# ")[1:]
        self._log.write_text("", encoding="utf-8")
        return [run.splitlines()[1:] for run in runs]


def shop(policies: int) -> list[Document]:
    """Return a shop whose Pods have policies, beside others with policies of their own."""
    frontend = [{"from": [{"podSelector": labelled(app="web")}]}]
    others = [
        document
        for number in range(policies)
        for document in (
            pod(f"shop/other-{number}", "a", 20 + number, app=f"other-{number}"),
            policy(f"shop/other-{number}", labelled(app=f"other-{number}"), ingress=frontend),
        )
    ]
    return [
        *map(node, ("a", "b")),
        namespace("shop"),
        pod("shop/db", "a", 10, app="db"),
        pod("shop/web", "b", 11, app="web"),
        policy("shop/db", labelled(app="db"), ingress=frontend),
        *others,
    ]


NO_WEB = pod("shop/web", "b", 11, app="stranger")
MORE = policy("shop/more", labelled(app="db"), types=["Ingress", "Egress"])
_Act = Callable[[Document | None, Document | None], Awaitable[None]]


def with_shop(
    variant: Variant,
    tmp_path: Path,
    body: Callable[[DesiredState, RecordedPrograms, _Act], Awaitable[None]],
    policies: int = 2,
) -> None:
    """Write the rules of a shop, then have them changed by documents that are put or removed."""
    view = DesiredState("a")
    for document in shop(policies):
        view.put(decoded(document))
    recorded = RecordedPrograms(variant, tmp_path)
    client = XtClient(XtKernel(recorded.programs, (4, 6), IpSetSocket(), NfacctSocket()), view.ruleset)

    async def act(put: Document | None, removed: Document | None) -> None:
        if put is not None:
            view.put(decoded(put))
        if removed is not None:
            view.remove(decoded(removed).ref)
        await client.apply(view.drain_changes())

    async def run() -> None:
        ruleset = view.ruleset()
        view.mark_synced()
        await client.apply(await client.difference(ruleset))
        view.clear_recheck(view.recheck_addresses)
        recorded.taken()
        await body(view, recorded, act)
        assert await client.difference(view.ruleset()) == (), "the kernel has what is wanted"

    try:
        asyncio.run(run())
    finally:
        client.close()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_label_of_a_pod_of_another_node_runs_no_program(variant: Variant, tmp_path: Path) -> None:
    async def body(view: DesiredState, recorded: RecordedPrograms, act: _Act) -> None:
        await act(NO_WEB, None)
        assert view.recheck_addresses, "its connections must end"
        assert recorded.taken() == []
        await act(pod("shop/web", "b", 11, app="web"), None)
        assert recorded.taken() == []

    with_shop(variant, tmp_path, body)


@pytest.mark.parametrize("policies", [2, 40])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_policy_of_a_pod_that_has_others_is_one_restore_of_a_family_and_of_its_own_chains(
    variant: Variant, policies: int, tmp_path: Path
) -> None:
    sizes: list[list[int]] = []

    async def body(view: DesiredState, recorded: RecordedPrograms, act: _Act) -> None:
        for put, removed in ((MORE, None), (None, MORE)):
            before = lower(view.ruleset(), LoweringOptions())[0].chains
            await act(put, removed)
            after = lower(view.ruleset(), LoweringOptions())[0].chains
            changed = {key[2] for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
            runs = recorded.taken()
            assert len(runs) == 2, "one of each family"
            written = {line.split()[0][1:] for run in runs for line in run if line.startswith(":")}
            edited = {line.split()[1] for run in runs for line in run if line.startswith("-")}
            assert written | edited == changed
            sizes.append([len(run) for run in runs])

    with_shop(variant, tmp_path, body, policies)
    # However many other policies there are: of the chains that lead to them one rule comes or goes.
    assert all(size <= 60 for both in sizes for size in both), sizes


@pytest.mark.parametrize("variant", VARIANTS)
def test_where_others_have_deleted_rules_of_a_chain_it_is_written_as_a_whole(variant: Variant, tmp_path: Path) -> None:
    async def body(_view: DesiredState, recorded: RecordedPrograms, act: _Act) -> None:
        await act(MORE, None)
        first, *_ = recorded.taken()
        chain = next(line.split()[1] for line in first if line.startswith("-D "))
        recorded.programs.restore(4, f"*mangle\n:{chain} - [0:0]\nCOMMIT\n")
        recorded.taken()
        await act(None, MORE)
        first, second, *_ = recorded.taken()
        assert any(line.startswith(f"-D {chain} ") for line in first), "by the rules that were there"
        assert f":{chain} - [0:0]" in second, "all of it"

    with_shop(variant, tmp_path, body, policies=80)


def test_a_new_member_is_found_by_its_set(tmp_path: Path) -> None:
    async def body(view: DesiredState, recorded: RecordedPrograms, act: _Act) -> None:
        peers = next(name for name in view.ruleset().sets if name.startswith("peers4/"))
        sets = IpSetSocket()
        try:
            await act(pod("shop/web-2", "b", 12, app="web"), None)
            assert sets.read(set_name(peers, 4)).members == {"10.64.1.11", "10.64.1.12"}
        finally:
            sets.close()
        assert recorded.taken() == []

    with_shop("legacy", tmp_path, body)
