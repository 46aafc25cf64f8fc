"""The agent's socket, its folder and its lock, where another program removes them or opens them to others."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import pytest

from nfagent.clock import SystemClock
from nfagent.errors import HostError
from nfagent.introspection import http_server
from nfagent.introspection.connections import ConnectionLimits
from nfagent.introspection.runtime_files import RuntimeFiles
from nfagent.kernel import table_lock
from nfagent.kernel.table_lock import acquire_table, holder
from nfagent.system.readiness import ReadinessNotifier
from tests.unit.introspection.test_connections import GET, answers
from tests.unit.introspection.test_http_server import DEADLINE, Told

AGAIN = "the agent's socket was removed; created it again"
LOCKED = "the lock file of this agent's table was removed; created and locked it again"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the runtime folder, which has the lock too."""
    made = tmp_path / "nfagent"
    monkeypatch.setattr(table_lock, "LOCK_FOLDER", made)
    monkeypatch.setattr(table_lock, "_ADDRESS", f"nfagent/{tmp_path}")
    return made


def run(body: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(DEADLINE):
            await body

    asyncio.run(limited())


class Kept:
    """An agent's socket and claim."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "agent.sock"
        self.claim = acquire_table()

    async def __aenter__(self) -> Self:
        clock = SystemClock()
        self.serving = await http_server.serve(self.path, Told(), limits=ConnectionLimits())
        self.upkeep = RuntimeFiles(self.serving, self.claim, clock, ReadinessNotifier(clock), list)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.serving.cleanup()
        self.claim.close()


@pytest.mark.parametrize("removed", ["the folder", "the socket alone"])
def test_what_is_removed_is_made_again_and_said(folder: Path, removed: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with Kept(folder) as kept:
            remove(folder) if removed == "the folder" else remove(kept.path)
            await kept.upkeep.check()
            assert await answers(kept.path)
            assert [mode_of(folder), mode_of(kept.path)] == [0o700, 0o600]
            assert holder() == os.getpid()
            with pytest.raises(HostError, match=f"another agent holds .*process {os.getpid()}"):
                acquire_table()
            await kept.upkeep.check()
        assert list_of(folder) == []

    run(body())
    assert caplog.messages == ([LOCKED] if removed == "the folder" else []) + [AGAIN]


def test_a_connection_goes_on_while_the_socket_is_made_again(folder: Path) -> None:
    async def body() -> None:
        async with Kept(folder) as kept:
            reader, writer = await asyncio.open_unix_connection(str(kept.path))
            writer.write(GET)
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            shutil.rmtree(folder)
            await kept.upkeep.check()
            writer.write(GET)
            await reader.readuntil(b"HTTP/1.1 200 OK\r\n")
            writer.transport.abort()

    run(body())


@pytest.mark.parametrize("obstacle", ["a file", "a link", "another user's folder", "a folder that all may write to"])
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user's folder")
def test_what_is_in_the_folder_s_place_is_said_once_and_when_it_has_gone_the_socket_is_made(
    folder: Path, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def body() -> None:
        async with Kept(folder) as kept:
            shutil.rmtree(folder)
            put(obstacle, folder)
            before = found(folder)
            for _ in range(3):
                await kept.upkeep.check()
                assert str(folder) in kept.upkeep.problem
            assert found(folder) == before
            remove(folder)
            await kept.upkeep.check()
            assert kept.upkeep.problem == ""
            assert await answers(kept.path)

    run(body())
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert caplog.messages[-1] == "resolved: the agent's socket and lock exist again"


def found(path: Path) -> list[int]:
    return [path.lstat().st_mode, path.lstat().st_uid]


def list_of(path: Path) -> list[Path]:
    return list(path.iterdir())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to(path: Path, mode: int) -> None:
    path.chmod(mode)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def put(obstacle: str, folder: Path) -> None:
    match obstacle:
        case "a file":
            folder.touch()
        case "a link":
            folder.symlink_to(folder.parent)
        case "another user's folder":
            folder.mkdir()
            os.chown(folder, 65534, 65534)
        case "a folder that all may write to":
            folder.mkdir()
            folder.chmod(0o1777)
            os.chown(folder, 65534, 65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user's folder")
@pytest.mark.parametrize(
    ("obstacle", "words"),
    [
        ("a file", "is no folder; look at it and remove it: rm "),
        ("a link", "is a symbolic link; look at it and remove it: rm "),
        ("another user's folder", "belongs to user 65534, who could replace the socket in it; look at what is in it"),
        ("a common folder", r".* is writable for all users \(mode 1777\); set a folder for nfagent alone"),
    ],
)
def test_a_socket_is_not_made_where_others_could_replace_it(tmp_path: Path, obstacle: str, words: str) -> None:
    folder = tmp_path / "run"
    if obstacle == "a common folder":
        folder.mkdir()
        folder.chmod(0o1777)
    else:
        put(obstacle, folder)
    with pytest.raises(HostError, match=f"cannot listen at .*{words}.*; set another runtime_dir"):
        asyncio.run(http_server.serve(folder / "agent.sock", Told()))


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722, 0o757])
def test_a_folder_that_others_may_write_to_is_closed_to_them_and_reported(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    open_to(folder, mode)

    async def body() -> None:
        served = await http_server.serve(folder / "agent.sock", Told())
        assert mode_of(folder) == mode & ~0o022
        open_to(folder, mode)
        assert not served.bound_again()
        assert mode_of(folder) == mode & ~0o022, "while the agent runs too"
        await served.cleanup()

    run(body())
    said = (
        f"{folder} was writable for others (mode {mode:04o}), who could replace the socket; removed their write access"
    )
    assert caplog.messages == [said, said]


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o711])
def test_a_folder_that_others_may_read_stays_as_it_is(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    open_to(folder, mode)

    async def body() -> None:
        served = await http_server.serve(folder / "agent.sock", Told())
        await served.cleanup()

    run(body())
    assert (mode_of(folder), caplog.messages) == (mode, [])


def test_the_socket_of_another_process_is_left_alone(folder: Path) -> None:
    async def body() -> None:
        async with Kept(folder) as kept:
            remove(kept.path)
            with closing(socket.socket(socket.AF_UNIX)) as other:
                other.bind(str(kept.path))
                other.listen()
                await kept.upkeep.check()
                assert "is another process's socket; give each agent its own runtime_dir" in kept.upkeep.problem
            await kept.upkeep.check()
            assert await answers(kept.path)

    run(body())
