"""nfagent run, as far as it goes without a kernel: what it writes to stderr, what it refuses."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nfagent.cli import run
from nfagent.errors import HostError, KernelError, NfagentError
from tests.unit.cli.called import Call

LOG = """
import logging, sys
from nfagent.system.own_log import OwnLog
from tests.unit.cli.called import Call
OwnLog().start("info", "text")
log = logging.getLogger("nfagent.agent")
log.info("two\\nlines")
log.error("bad \x1b[2J\u202e")
try:
    raise ValueError("x\\n<2>forged")
except ValueError:
    log.exception("failed")
log.debug("hidden")
logging.getLogger("asyncio").info("hidden too")
"""


def logged(*, journal: bool) -> list[str]:
    reader, writer = os.pipe()
    status = os.fstat(writer)
    stream = f"{status.st_dev}:{status.st_ino}" if journal else f"{status.st_dev}:{status.st_ino + 1}"
    try:
        subprocess.run(
            [sys.executable, "-c", LOG],
            stderr=writer,
            env=os.environ | {"JOURNAL_STREAM": stream},
            check=True,
            timeout=50,
        )
    finally:
        os.close(writer)
        with open(reader, encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, not a path
            lines = file.read().splitlines()
    return lines


def test_in_the_journal_every_line_has_its_priority_and_no_time() -> None:
    said = logged(journal=True)
    assert said[:3] == ["<6>two\\nlines", "<3>bad \\x1b[2J\\u202e", "<3>failed"]
    assert said[3:]
    assert all(line.startswith("<3>  | ") for line in said[3:])
    assert said[-1] == "<3>  | <2>forged"


def test_outside_the_journal_a_line_begins_with_time_and_level() -> None:
    first, error, failed, *traceback = logged(journal=False)
    assert first[8:] == " info two\\nlines"
    assert first[2] == first[5] == ":"
    assert error[8:] == " error bad \\x1b[2J\\u202e"
    assert failed[8:] == " error failed"
    assert all(line.startswith("  | ") for line in traceback)


def test_a_group_of_one_error_is_that_error() -> None:
    only = HostError("run: modprobe nf_tables")
    assert run._plain(ExceptionGroup("tasks", [ExceptionGroup("inner", [only])])) is only  # noqa: SLF001 - see above


def test_a_group_of_nfagent_errors_lists_each_once() -> None:
    found = run._plain(ExceptionGroup("tasks", [KernelError("a"), KernelError("b"), KernelError("a")]))  # noqa: SLF001
    assert isinstance(found, NfagentError)
    assert str(found) == "a; b"


def test_a_group_with_an_unexpected_error_stays_unchanged() -> None:
    group = ExceptionGroup("tasks", [KernelError("a"), ZeroDivisionError()])
    assert run._plain(group) is group  # noqa: SLF001


def test_a_folder_that_is_not_there_is_named(call: Call, tmp_path: Path) -> None:
    said = call("render", "--manifests", tmp_path / "nowhere")
    assert said.code == 2
    assert f"{tmp_path / 'nowhere'} is not a folder" in said.err


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> None:
    assert logging.getLogger("nfagent").level == logging.NOTSET
