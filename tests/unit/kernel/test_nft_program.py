"""The program `nft` as a child process: what becomes of it when it crashes, hangs, is ended, or can't be started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nfagent.errors import KernelError, UnlistableError
from nfagent.kernel.nft_program import run_nft
from tests.support.programs import unstartable

InPath = Callable[[str], None]


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InPath:
    """Return what makes a shell script the only `nft` in PATH."""

    def write(script: str) -> None:
        program = tmp_path / "nft"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return write


def test_what_it_printed_is_returned_with_its_exit_code(nft: InPath) -> None:
    nft('echo "$1+$2"; echo refused >&2; exit 1')
    done = run_nft("--json", "list table inet nfagent")
    assert done is not None
    assert (done.returncode, done.stdout, done.stderr) == (1, b"--json+list table inet nfagent\n", b"refused\n")


@pytest.mark.parametrize("number", ["ABRT", "SEGV", "BUS"])
def test_a_crash_says_that_the_rules_cannot_be_listed_and_what_nft_said(number: str, nft: InPath) -> None:
    nft(f"echo 'BUG: unknown expression' >&2; echo 'nft: json.c:740: Assertion failed.' >&2; kill -{number} $$")
    with pytest.raises(UnlistableError) as caught:
        run_nft("--json", "list table inet t")
    assert caught.value.reason == (
        f"`nft --json list table inet t` was ended by SIG{number}: nft: json.c:740: Assertion failed."
    )


def test_a_crash_without_words_is_named_by_its_signal(nft: InPath) -> None:
    nft("kill -ABRT $$")
    with pytest.raises(UnlistableError) as caught:
        run_nft("list ruleset")
    assert caught.value.reason == "`nft list ruleset` was ended by SIGABRT"


def test_a_process_that_another_program_or_the_memory_limit_ends_says_nothing_of_the_rules(nft: InPath) -> None:
    nft("kill -KILL $$")
    with pytest.raises(KernelError) as caught:
        run_nft("list ruleset")
    assert (type(caught.value), caught.value.reason) == (KernelError, "`nft list ruleset` was ended by SIGKILL")


def test_a_process_that_does_not_end_is_ended(nft: InPath) -> None:
    nft("exec sleep 300")
    with pytest.raises(KernelError, match=r"`nft list ruleset` has not ended after 1 s"):
        run_nft("list ruleset", seconds=1.0)


def test_without_the_program_nothing_is_returned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("nfagent.kernel.nft_program._FOLDERS", str(tmp_path))
    assert run_nft("list ruleset") is None


def test_of_a_file_that_the_kernel_cannot_start_nothing_is_returned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", unstartable(tmp_path))
    assert run_nft("list ruleset") is None
