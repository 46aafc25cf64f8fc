"""The file of the ip-masq-agent configuration, followed on a disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from nfagent.checkpoint.store import delete_checkpoints
from nfagent.clock import SystemClock
from nfagent.controllers.ip_masq_file import IpMasqFile
from nfagent.decode.ip_masq import decode_ip_masq
from nfagent.desired.state import DesiredState
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.netaddr import parse_cidr

NINE = parse_cidr("9.0.0.0/8")
LISTED = "nonMasqueradeCIDRs: [9.0.0.0/8]"
DEFAULT = "10.0.0.0/8"


class Followed:
    """A file, and the state that follows it."""

    def __init__(self, path: Path, given: IpMasqConfig | None = None) -> None:
        self.path = path
        self.desired = DesiredState("n1", MasqueradeSettings(ip_masq=given or IpMasqConfig()))
        self.file = IpMasqFile(str(path), path.parent / "state", SystemClock(), 0.001, self._apply)
        self.changes = 0
        self.changed = asyncio.Event()

    def _apply(self, found: IpMasqConfig | None) -> None:
        if self.desired.put_ip_masq_file(str(self.path), found):
            self.changes += 1
            self.changed.set()

    def read(self) -> list[str]:
        """Read once; return the destinations that see Pods' addresses, but for link-local ones."""
        asyncio.run(self.file.read())
        return [str(item) for item in self.desired.masquerade_exempt if not str(item).startswith(("169", "fe80"))]

    @property
    def said(self) -> list[str]:
        return list(map(str, self.file.problems))


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path / "ip-masq-agent")


def test_a_missing_file_is_normal(followed: Followed) -> None:
    assert DEFAULT in followed.read()
    assert (followed.said, followed.changes, followed.desired.egress.base) == ([], 0, None)


def test_the_list_of_the_file_replaces_the_default_one_until_the_file_is_gone(followed: Followed) -> None:
    followed.path.write_text(LISTED)
    assert followed.read() == ["9.0.0.0/8"]
    assert str(followed.desired.egress.base) == f"file {followed.path}"
    assert followed.desired.rebuilt().ruleset() == followed.desired.ruleset()
    followed.path.unlink()
    assert DEFAULT in followed.read()
    assert followed.changes == 2


def test_an_unchanged_file_changes_nothing(followed: Followed) -> None:
    followed.path.write_text(LISTED)
    followed.read()
    followed.read()
    followed.path.write_text(LISTED + "\n")
    followed.read()
    assert followed.changes == 1


def test_a_config_map_has_precedence(followed: Followed) -> None:
    metadata = {"namespace": "kube-system", "name": "ip-masq-agent"}
    data = {"config": "nonMasqueradeCIDRs: [11.0.0.0/8]"}
    found = decode_ip_masq({"kind": "ConfigMap", "metadata": metadata, "data": data})
    assert found is not None
    followed.desired.put(found)
    followed.path.write_text(LISTED)
    assert followed.read() == ["11.0.0.0/8"]
    followed.desired.remove(found.ref)
    assert followed.read() == ["9.0.0.0/8"]


def test_a_link_that_is_replaced_as_kubelet_does_is_read_anew(followed: Followed) -> None:
    for version, cidr in (("one", "9.0.0.0/8"), ("two", "7.0.0.0/8")):
        folder = followed.path.parent / version
        folder.mkdir()
        (folder / "ip-masq-agent").write_text(f"nonMasqueradeCIDRs: [{cidr}]")
        link = followed.path.parent / "..data_tmp"
        link.symlink_to(version)
        link.rename(followed.path.parent / "..data")
        if not followed.path.is_symlink():
            followed.path.symlink_to("..data/ip-masq-agent")
        assert followed.read() == [cidr]


def _written(text: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(_written(b"nonMasqueradeCIDRs: [9.0.0.1/8]"), "has host bits set; write 9.0.0.0/8", id="a list"),
        pytest.param(_written(b"a: ["), "is neither YAML nor JSON at its line 2", id="a text"),
        pytest.param(_written(b"- a"), "is not a mapping", id="a list of text"),
        pytest.param(_written(b"\xff"), "is not UTF-8 at byte 0; write the configuration as YAML", id="bytes"),
        pytest.param(_written(b"a" * 70_000), "has more than 64 KiB", id="a long text"),
        pytest.param(_folder, "cannot be read: is a folder", id="a folder"),
    ],
)
def test_an_invalid_file_keeps_what_was_read_before_and_says_so(
    followed: Followed, spoil: Callable[[Path], object], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    followed.path.write_text(LISTED)
    followed.read()
    spoil(followed.path)
    assert followed.read() == ["9.0.0.0/8"]
    [said] = followed.said
    assert said.startswith(f"file {followed.path}: ")
    assert message in said
    assert followed.file.fault == said
    followed.read()
    assert caplog.messages == [said], "it is logged once"
    if followed.path.is_dir():
        followed.path.rmdir()
    followed.path.write_text("nonMasqueradeCIDRs: [7.0.0.0/8]")
    assert followed.read() == ["7.0.0.0/8"]
    assert (followed.said, followed.file.fault, caplog.messages[1:]) == ([], "", [f"resolved: {said}"])


def test_an_invalid_file_keeps_what_the_previous_run_read(followed: Followed) -> None:
    followed.path.write_text(LISTED)
    followed.read()
    followed.path.write_text("nonMasqueradeCIDRs: [x]")
    again = Followed(followed.path)
    assert again.read() == ["9.0.0.0/8"]
    assert len(again.said) == 1
    followed.path.write_text("nonMasqueradeCIDRs: [7.0.0.0/8]")
    assert Followed(followed.path).read() == ["7.0.0.0/8"]


def test_an_invalid_file_keeps_what_the_previous_run_read_as_soon_as_that_can_be_read(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    followed.path.write_text(LISTED)
    followed.read()
    followed.path.write_text("nonMasqueradeCIDRs: [x]")
    folder, aside = followed.path.parent / "state", followed.path.parent / "aside"
    folder.rename(aside)
    folder.write_text("in the way")
    again = Followed(followed.path)
    for _ in range(2):
        assert DEFAULT in again.read()
        assert "had last can't be read" in again.file.problem
    folder.unlink()
    aside.rename(folder)
    assert again.read() == ["9.0.0.0/8"]
    assert again.file.problem == again.file.fault
    assert len([message for message in caplog.messages if "had last can't be read" in message]) == 1


def test_a_list_that_cannot_be_kept_is_a_problem_until_it_is_without_a_change_of_the_file(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    folder = followed.path.parent / "state"
    folder.write_text("in the way")
    followed.path.write_text(LISTED)
    for _ in range(2):
        assert followed.read() == ["9.0.0.0/8"]
        assert followed.file.problem == f"what {followed.path} has can't be kept for the next start: File exists"
    assert len(caplog.messages) == 2, "what was had last can't be read, and this can't be kept: each is logged once"
    folder.unlink()
    followed.read()
    assert (followed.file.problem, followed.file.fault) == ("", "")
    followed.path.write_text("nonMasqueradeCIDRs: [x]")
    assert Followed(followed.path).read() == ["9.0.0.0/8"]


def test_a_list_beside_another_wrong_key_is_kept_for_the_next_run(followed: Followed) -> None:
    followed.path.write_text("nonMasqueradeCIDRs: [9.0.0.0/8]")
    followed.read()
    followed.path.write_text("nonMasqueradeCIDRs: [11.0.0.0/8]\nresyncInterval: 60")
    followed.read()
    followed.path.write_text("nonMasqueradeCIDRs: [11.0.0.1/8]")
    again = Followed(followed.path)
    again.read()
    assert "11.0.0.0/8" in map(str, again.desired.egress.base_list(all_reserved_ranges=False))


SWITCH = "masqLinkLocal: true"
LIST_THEN_BROKEN = [
    pytest.param([f"{LISTED}\nmasqLinkLocal: 7"], "{{x", ["9.0.0.0/8"], False, id="a list that came beside it"),
    pytest.param(
        [f"nonMasqueradeCIDRs: [7.0.0.0/8]\n{SWITCH}", f"{LISTED}\nmasqLinkLocal: 7"],
        "{{x",
        ["9.0.0.0/8"],
        True,
        id="a newer list, and the switch of before",
    ),
    pytest.param(
        [LISTED, f"nonMasqueradeCIDRs: [x]\n{SWITCH}"],
        "{{x",
        ["9.0.0.0/8"],
        True,
        id="a newer switch, the list of before",
    ),
    pytest.param(
        [f"{LISTED}\nmasqLinkLocal: 7"],
        f"nonMasqueradeCIDRs: [x]\n{SWITCH}",
        ["9.0.0.0/8"],
        True,
        id="a switch that becomes readable after the restart, while the list is broken",
    ),
]


@pytest.mark.parametrize(("texts", "last", "expected", "masked"), LIST_THEN_BROKEN)
def test_each_key_that_could_be_read_is_kept_for_the_next_run(
    followed: Followed, texts: list[str], last: str, expected: list[str], *, masked: bool
) -> None:
    for text in texts:
        followed.path.write_text(text)
        followed.read()
    followed.path.write_text(last)
    again = Followed(followed.path)
    assert again.read() == expected
    link_local = "169.254.0.0/16" in map(str, again.desired.masquerade_exempt)
    assert link_local is not masked
    assert again.desired.rebuilt().ruleset() == again.desired.ruleset()
    assert Followed(followed.path).read() == expected


def test_a_key_that_could_never_be_read_comes_from_the_settings_after_a_restart_too(followed: Followed) -> None:
    followed.path.write_text(f"nonMasqueradeCIDRs: [x]\n{SWITCH}")
    assert DEFAULT in followed.read()
    followed.path.write_text("{{x")
    again = Followed(followed.path, IpMasqConfig((NINE,)))
    assert again.read() == ["9.0.0.0/8"]


def test_nothing_of_the_previous_run_holds_where_the_file_is_gone(followed: Followed) -> None:
    followed.path.write_text(LISTED)
    followed.read()
    followed.path.unlink()
    again = Followed(followed.path)
    assert DEFAULT in again.read()
    again.path.write_text("a: [")
    assert DEFAULT in again.read()
    assert DEFAULT in Followed(followed.path).read()


@pytest.mark.parametrize("spoil", [_written(b"a: ["), _written(b"\xff"), _folder], ids=["a text", "bytes", "a folder"])
def test_what_was_kept_and_cannot_be_read_delays_nothing(
    followed: Followed, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    followed.path.write_text(LISTED)
    followed.read()
    spoil(followed.path.parent / "state" / "ip-masq-agent-file")
    assert Followed(followed.path).read() == ["9.0.0.0/8"]
    assert "had last can't be read" in caplog.messages[0]


def test_what_others_could_have_written_is_not_recalled(followed: Followed, caplog: pytest.LogCaptureFixture) -> None:
    followed.path.write_text(LISTED)
    followed.read()
    (followed.path.parent / "state").chmod(0o777)
    followed.path.write_text("a: [")
    assert DEFAULT in Followed(followed.path).read()
    assert "is writable by other users" in caplog.messages[0]


def test_what_was_kept_is_deleted_with_the_last_good_objects(followed: Followed) -> None:
    followed.path.write_text(LISTED)
    followed.read()
    folder = followed.path.parent / "state"
    assert (delete_checkpoints(folder), list(folder.iterdir())) == (1, [])


def test_without_a_path_nothing_is_read(tmp_path: Path) -> None:
    applied: list[object] = []
    file = IpMasqFile("", tmp_path, SystemClock(), 1, applied.append)
    asyncio.run(asyncio.wait_for(file.run(), 60))
    asyncio.run(file.read())
    assert applied == []


def test_a_file_that_appears_is_read_at_the_next_interval(followed: Followed) -> None:
    async def follow() -> None:
        running = asyncio.create_task(followed.file.run())
        followed.path.write_text(LISTED)
        await asyncio.wait_for(followed.changed.wait(), 60)
        running.cancel()

    asyncio.run(follow())
    assert NINE in followed.desired.masquerade_exempt
