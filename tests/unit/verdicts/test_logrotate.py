"""The log is rotated by the real logrotate, as docs/log-shipping.md configures it, while lines are written."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from nfagent.config import Settings
from nfagent.verdicts.log_file import RotatingFile

TEXT = (Path(__file__).parents[3] / "docs" / "log-shipping.md").read_text("utf-8")
ROTATIONS = 20


def test_no_line_is_lost_and_every_file_has_whole_lines(tmp_path: Path) -> None:
    logrotate = shutil.which("logrotate")
    if logrotate is None:
        pytest.skip("logrotate isn't installed")
    path = tmp_path / "policy_action.log"
    found = re.search(r"^```\n(/var/log/.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert found is not None
    text = found[1].replace(str(Settings().verdict_log), str(path)).replace("rotate 10", f"rotate {ROTATIONS + 1}")
    (tmp_path / "conf").write_text(text)
    log = RotatingFile(path, max_bytes=2**40)
    stop = threading.Event()
    written: list[bytes] = []

    def write() -> None:
        while not stop.is_set():
            lines = [b"line %d\n" % number for number in range(len(written), len(written) + 5)]
            log.write(lines)
            written.extend(lines)

    writing = threading.Thread(target=write)
    writing.start()
    for _ in range(ROTATIONS):
        command = [logrotate, "--force", "--state", str(tmp_path / "state"), str(tmp_path / "conf")]
        subprocess.run(command, check=True, timeout=60)
    stop.set()
    writing.join(30)
    log.close()
    for packed in tmp_path.glob("*.gz"):
        subprocess.run(["gunzip", str(packed)], check=True)
    files = [path, *(tmp_path / f"policy_action.log.{age}" for age in range(1, ROTATIONS + 1))]
    assert b"".join(file.read_bytes() for file in reversed(files) if file.exists()) == b"".join(written)
    assert (log.lost, log.errors) == ({}, 0)
