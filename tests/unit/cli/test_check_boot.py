"""What `nfagent check` says about the next boot."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from nfagent.checkpoint.ruleset_codec import SavedHeader, encode_batches, encode_saved
from nfagent.checkpoint.ruleset_file import ruleset_path, write_saved
from nfagent.cli import check_boot
from nfagent.cli.check_boot import boot_checks
from nfagent.config import BootSection, Settings
from nfagent.desired.state import DesiredState
from nfagent.policy.options import PolicyOptions

HEADER = SavedHeader(
    version="1", node="a", boot_id="", written_at=0.0, pod_ranges=("10.64.0.0/24",), holds_unknown=True
)
BATCHES, _ = encode_batches(DesiredState("a").ruleset())


def settings(folder: Path, **boot: object) -> Settings:
    section = msgspec.convert(boot, BootSection)
    return Settings(node="a", state_dir=str(folder), boot=section, policy=PolicyOptions(unknown_pods="held"))


def saved(folder: Path, header: SavedHeader = HEADER, age: float = 0.0, **boot: object) -> tuple[str, str]:
    """Return result and words about a saved ruleset that was in force so many seconds ago."""
    path = ruleset_path(str(folder))
    write_saved(path, encode_saved(header, BATCHES))
    then = time.time() - age
    os.utime(path, (then, then))
    *_, found = boot_checks(settings(folder, **boot))
    return found.result, found.found


def test_a_saved_ruleset_is_described(tmp_path: Path) -> None:
    result, found = saved(tmp_path, age=7200.0)
    assert result == "ok"
    assert found.startswith("in force 2.0 h ago, ")
    assert found.endswith(" bytes, unknown Pods held")


WARNED = {
    "another node's": (
        msgspec.structs.replace(HEADER, node="b"),
        0.0,
        {},
        "a boot doesn't restore it: it is of node b",
    ),
    "too old": (HEADER, 3600.0, {"max_age_seconds": 60}, "a boot doesn't restore it: it was in force 1.0 h ago"),
    "a clock before it": (HEADER, -3600.0, {}, "the clock stands at "),
    "no Pod ranges to hold": (msgspec.structs.replace(HEADER, pod_ranges=()), 0.0, {}, "holds no Pod"),
    "switched off": (HEADER, 0.0, {"save_ruleset": False}, "boot.save_ruleset is false"),
}


@pytest.mark.parametrize(("header", "age", "boot", "said"), WARNED.values(), ids=WARNED)
def test_a_ruleset_that_a_boot_would_not_restore_is_a_warning(
    tmp_path: Path, header: SavedHeader, age: float, boot: dict[str, object], said: str
) -> None:
    result, found = saved(tmp_path, header, age, **boot)
    assert result == "warn"
    assert said in found


def test_a_missing_and_a_damaged_file_are_warnings(tmp_path: Path) -> None:
    *_, found = boot_checks(settings(tmp_path))
    assert (found.result, found.found) == ("warn", f"none in {tmp_path} yet")
    ruleset_path(str(tmp_path)).write_bytes(b"x")
    *_, found = boot_checks(settings(tmp_path))
    assert found.result == "warn"
    assert "it is no saved ruleset" in found.found


def test_the_early_unit_is_enabled_where_a_target_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_boot, "_SYSTEMD", tmp_path)
    units = tmp_path / "units"
    units.mkdir()
    monkeypatch.setattr(check_boot, "_UNITS", (units,))

    def early() -> tuple[str, str, str]:
        found = next(iter(boot_checks(settings(tmp_path))))
        return found.result, found.found.partition(":")[0], found.fix

    assert early() == ("warn", "there is no nfagent-early.service", "install it as docs/boot.md says")
    (units / "nfagent-early.service").touch()
    assert early() == ("warn", "nfagent-early.service is not enabled", "systemctl enable nfagent-early.service")
    (units / "sysinit.target.wants").mkdir()
    (units / "sysinit.target.wants" / "nfagent-early.service").symlink_to(units / "nfagent-early.service")
    assert early() == ("ok", "nfagent-early.service is enabled", "")
    monkeypatch.setattr(check_boot, "_SYSTEMD", tmp_path / "none")
    assert early()[1] == "not used"
