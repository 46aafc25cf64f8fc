"""Where settings come from: drop-in files, variables, flags; and variables that are no settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nfagent.config import Settings
from nfagent.errors import SettingError
from nfagent.loaded_settings import LoadedSettings, load_with_origins
from nfagent.setting_layers import Origin, drop_ins, unknown_variables


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    path = tmp_path / "nfagent.toml"
    path.write_text('node = "file"\n[logging]\ngroup = 7\nfile_backups = 7\n')
    return path


def add(file: Path, name: str, text: str) -> Path:
    path = file.parent / "conf.d" / name
    path.write_text(text)
    return path


def origins(loaded: LoadedSettings) -> dict[str, str]:
    return {entry.key: str(entry.origin) for entry in loaded.entries() if entry.origin.kind != "default"}


def test_drop_in_files_override_the_file_and_each_other_by_name_and_the_environment_and_flags_override_them(
    file: Path,
) -> None:
    second = add(file, "20-later.toml", "[logging]\ngroup = 20\n[reconcile]\nresync_seconds = 20\n")
    first = add(file, "10-first.toml", "[logging]\ngroup = 10\nfile_backups = 10\n")
    add(file, ".hidden.toml", "[logging]\nburst = 600\n")
    add(file, "notes.txt", "no TOML")
    loaded = load_with_origins(file, {"NFAGENT_LOG_LEVEL": "debug"}, {"node": "flag", "backend": None})

    found = loaded.settings
    assert (found.logging.group, found.logging.file_backups, found.reconcile.resync_seconds) == (20, 10, 20)
    assert found.logging.burst == Settings().logging.burst
    assert origins(loaded) == {
        "node": "--node",
        "log_level": "NFAGENT_LOG_LEVEL",
        "logging.group": str(second),
        "logging.file_backups": str(first),
        "reconcile.resync_seconds": str(second),
    }


def test_every_setting_has_an_entry_with_its_default() -> None:
    entries = list(load_with_origins(Path("/dev/null"), {}).entries())
    assert len({entry.key for entry in entries}) == len(entries) > 40
    assert [entry.key for entry in entries if entry.value != entry.default or entry.origin != Origin()] == []
    assert 'log_format = "text"' in map(str, entries)


def test_a_drop_in_file_with_an_error_is_named(file: Path) -> None:
    path = add(file, "10-x.toml", "[logging]\ngroups = 1\n")
    with pytest.raises(SettingError, match=f"{path}: unknown setting logging.groups"):
        load_with_origins(file, {})


def test_a_drop_in_file_that_is_a_link_to_nothing_is_named_and_hides_no_other(file: Path) -> None:
    add(file, "10-first.toml", "[logging]\ngroup = 10\n")
    link = file.parent / "conf.d" / "20-gone.toml"
    link.symlink_to(file.parent / "nowhere")
    with pytest.raises(SettingError, match=f"^{link}: No such file or directory"):
        load_with_origins(file, {})


def test_the_flag_that_names_an_api_server_is_the_origin_of_the_absent_folder(file: Path) -> None:
    add(file, "10-x.toml", 'manifests = "/srv"\n')
    loaded = load_with_origins(file, {}, {"kubeconfig": "/k"})
    assert loaded.settings.manifests == ""
    assert (origins(loaded)["kubeconfig"], origins(loaded)["manifests"]) == ("--kubeconfig", "--kubeconfig")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of another user")
@pytest.mark.parametrize(
    ("environment", "flags", "named"),
    [
        pytest.param({"NFAGENT_MANIFESTS": os.fsdecode(b"/srv/\xff")}, {}, "NFAGENT_MANIFESTS", id="a variable"),
        pytest.param({"NFAGENT_CLUSTER_POD_CIDRS": os.fsdecode(b"\xff")}, {}, "NFAGENT_CLUSTER_POD_CIDRS", id="a list"),
        pytest.param({}, {"manifests": os.fsdecode(b"/srv/\xff")}, "--manifests", id="a flag"),
    ],
)
def test_a_value_that_is_no_unicode_text_is_refused(
    file: Path, environment: dict[str, str], flags: dict[str, str], named: str
) -> None:
    """It could be written into no answer, no state and no message."""
    with pytest.raises(SettingError, match=rf"{named}: '.*udcff' isn't UTF-8 text") as refused:
        load_with_origins(file, environment, flags=flags)
    assert str(refused.value).encode()


@pytest.mark.parametrize("place", ["conf.d", "conf.d/10-x.toml"], ids=["its folder", "itself"])
def test_a_drop_in_file_of_another_user_is_refused(file: Path, place: str) -> None:
    add(file, "10-x.toml", "")
    os.chown(file.parent / place, 65534, 65534)
    with pytest.raises(SettingError, match=f"{place}: belongs to user 65534: run chown root, or remove it"):
        load_with_origins(file, {})


def test_without_a_folder_or_with_an_empty_one_there_are_no_drop_in_files(tmp_path: Path, file: Path) -> None:
    assert drop_ins(file) == drop_ins(tmp_path / "none" / "nfagent.toml") == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NFAGENT_LOG_LVEL", "debug", "did you mean NFAGENT_LOG_LEVEL?"),
        ("NFAGENT_LOGGING_GROUPS", "1", "did you mean NFAGENT_LOGGING_GROUP?"),
        ("NFAGENT_XYZZY", "1", "nfagent.toml(5) has all settings"),
        ("NFAGENT_LOGGING", "1", "did you mean"),
    ],
    ids=["a typo", "a key in the plural", "something else", "a section"],
)
def test_a_variable_that_is_no_setting_is_named_with_one_that_is_like_it(name: str, value: str, said: str) -> None:
    (words,) = unknown_variables({name: value, "NFAGENT_NODE": "a", "OTHER": "x"}, Settings)
    assert words.startswith(f"{name} in the environment is no setting, and has no effect; ")
    assert said in words


def test_variables_that_kubelet_sets_for_a_service_are_not_mistaken_for_settings() -> None:
    links = {
        "NFAGENT_SERVICE_HOST": "10.96.0.7",
        "NFAGENT_SERVICE_PORT": "9464",
        "NFAGENT_SERVICE_PORT_METRICS": "9464",
        "NFAGENT_METRICS_SERVICE_HOST": "10.96.0.7",
        "NFAGENT_PORT": "tcp://10.96.0.7:9464",
        "NFAGENT_PORT_9464_TCP": "tcp://10.96.0.7:9464",
        "NFAGENT_PORT_9464_TCP_ADDR": "10.96.0.7",
        "NFAGENT_METRICS_PORT_9464_TCP_PROTO": "tcp",
    }
    assert unknown_variables(links, Settings) == []
    assert len(unknown_variables({"NFAGENT_PORT": "9464"}, Settings)) == 1
