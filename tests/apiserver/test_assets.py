"""etcd and kube-apiserver are found, or built once by the first process; `go` is a script of the test here."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nfagent.errors import HostError
from nfagent.lab.machine import binaries
from tests.support.packet_labs import wait_until

ROOT = Path(__file__).parents[2]
# Notes in `builds` that it was called, and does what the test says; `-o FOLDER/` are its last words but two.
GO = """#!/bin/sh
if [ "$1" = env ]; then echo go1.{minor}.0; exit; fi
cd "{folder}"
echo $$ >>builds
{does}
while [ "$1" != -o ]; do shift; done
for name in etcd kube-apiserver; do printf '#!/bin/sh\\n' >"$2/$name"; chmod +x "$2/$name"; done
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout with nothing built, on a machine without Go."""
    shutil.copytree(ROOT / "tests/apiserver/server", tmp_path / "tests/apiserver/server")
    (tmp_path / "bin").mkdir()
    for name in ("sh", "setpriv", "timeout", "chmod", "sleep"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv(binaries.VARIABLE, raising=False)
    return tmp_path


def install_go(checkout: Path, does: str = "", minor: int = 24) -> None:
    path = checkout / "bin" / "go"
    path.write_text(GO.format(minor=minor, folder=checkout, does=does), encoding="utf-8")
    path.chmod(0o755)


def builds(checkout: Path) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(line) for line in (checkout / "builds").read_text(encoding="ascii").split()]
    return []


def find(checkout: Path) -> binaries.ControlPlaneBinaries:
    return binaries.find(checkout=checkout)


def test_they_are_built_once(checkout: Path) -> None:
    install_go(checkout)
    assert find(checkout) == find(checkout)
    assert find(checkout).etcd == checkout / "build/etcd"
    assert len(builds(checkout)) == 1


def test_two_that_want_them_at_once_build_them_once(checkout: Path) -> None:
    install_go(checkout, "sleep 0.3")
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(find, [checkout, checkout])
    assert first == second
    assert len(builds(checkout)) == 1


def break_binary(checkout: Path) -> None:
    (checkout / "build/etcd").unlink()


def change_source(checkout: Path) -> None:
    with (checkout / "tests/apiserver/server/go.sum").open("a", encoding="ascii") as sums:
        sums.write("\n")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change_source, id="when a source has changed"),
        pytest.param(break_binary, id="when one was deleted"),
    ],
)
def test_they_are_built_again(checkout: Path, change: Callable[[Path], None]) -> None:
    install_go(checkout)
    find(checkout)
    change(checkout)
    find(checkout)
    assert len(builds(checkout)) == 2


def test_a_build_that_failed_says_its_last_words_and_leaves_nothing(checkout: Path) -> None:
    install_go(checkout, "echo missing go.sum entry >&2; exit 1")
    with pytest.raises(HostError, match=r"missing go\.sum entry"):
        find(checkout)
    assert sorted(path.name for path in (checkout / "build").iterdir()) == ["control-plane.lock", "control-plane.log"]


def test_without_go_it_says_what_to_install(checkout: Path) -> None:
    with pytest.raises(HostError, match=r"install Go 1\.24 or later, or name a folder .* in KUBEBUILDER_ASSETS"):
        find(checkout)


def test_an_old_go_builds_nothing(checkout: Path) -> None:
    install_go(checkout, minor=19)
    with pytest.raises(HostError, match=r"is go1\.19\.0: install Go 1\.24"):
        find(checkout)
    assert builds(checkout) == []


def test_a_folder_that_is_named_is_taken_and_nothing_is_built(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_go(checkout)
    named = find(checkout).etcd.parent.rename(checkout / "elsewhere")
    monkeypatch.setenv(binaries.VARIABLE, str(named))
    assert find(checkout).kube_apiserver == named / "kube-apiserver"
    (named / "etcd").unlink()
    with pytest.raises(HostError, match="elsewhere/etcd isn't there: KUBEBUILDER_ASSETS names a folder"):
        find(checkout)
    assert len(builds(checkout)) == 1


def test_a_build_ends_when_it_is_broken_off(checkout: Path) -> None:
    install_go(checkout, "number=0; while [ $number -lt 200 ]; do echo package; number=$((number + 1)); done; sleep 60")

    def break_off(said: str) -> None:
        if "200 packages" in said:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        binaries.find(break_off, checkout)
    (compiler,) = builds(checkout)
    assert not Path("/proc", str(compiler)).exists()
    assert not (checkout / "build/control-plane.new").exists()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_build_ends_with_the_process_that_started_it(checkout: Path, number: signal.Signals) -> None:
    install_go(checkout, "sleep 60")
    program = (
        f"import pathlib; from nfagent.lab.machine import binaries; binaries.main(pathlib.Path({str(checkout)!r}))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, env=environment) as builder:
        wait_until(lambda: builds(checkout) != [])
        builder.send_signal(number)
    (compiler,) = builds(checkout)
    wait_until(lambda: not Path("/proc", str(compiler)).exists())
    assert not Path("/proc", str(compiler)).exists()
