"""Settings: which source overrides, and the errors for invalid ones."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from nfagent.config import Settings, load_settings, mark_bits
from nfagent.egress.gateways import MarkBits
from nfagent.errors import SettingError
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.netaddr import parse_cidr

Write = Callable[[str], Path]
EXAMPLE = Path(__file__).parents[2] / "systemd" / "nfagent.toml"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        path = tmp_path / "nfagent.toml"
        path.write_text(text)
        return path

    return written


def test_without_settings_the_defaults_apply(write: Write) -> None:
    assert load_settings(write(""), {}) == Settings()


def test_the_installed_file_documents_the_defaults(write: Write) -> None:
    uncommented = [
        line.removeprefix("#").removeprefix(" ") if " = " in line and line.startswith("#") else line
        for line in EXAMPLE.read_text().splitlines()
    ]
    settings = load_settings(write("\n".join(uncommented)), {})
    assert settings.metrics == Settings().metrics
    assert (settings.cluster, settings.masquerade, settings.logging, settings.reconcile) == (
        Settings().cluster,
        Settings().masquerade,
        Settings().logging,
        Settings().reconcile,
    )


@pytest.mark.parametrize(
    ("file", "environment", "flags", "wins"),
    [
        pytest.param('node = "file"', {}, {}, "file", id="the file, alone"),
        pytest.param('node = "file"', {"NFAGENT_NODE": "environment"}, {}, "environment", id="the environment over it"),
        pytest.param('node = "file"', {"NFAGENT_NODE": "environment"}, {"node": "flag"}, "flag", id="a flag over both"),
        pytest.param('node = "file"', {}, {"node": None}, "file", id="a flag that was not given"),
        pytest.param('node = "file"', {}, {"node": ""}, "file", id="a flag that is empty"),
        pytest.param('node = "file"', {"NFAGENT_NODE": ""}, {}, "file", id="a variable that is empty"),
    ],
)
def test_the_later_source_overrides(
    write: Write, file: str, environment: dict[str, str], flags: dict[str, object], wins: str
) -> None:
    assert load_settings(write(file), environment, flags).node_name == wins


@pytest.mark.parametrize(
    ("text", "sinks"), [("journald, stdout", ("journald", "stdout")), ("", ())], ids=["two", "an empty variable: none"]
)
def test_the_sinks_of_the_environment_are_separated_by_commas(write: Write, text: str, sinks: tuple[str, ...]) -> None:
    settings = load_settings(write('[logging]\nsinks = ["file"]'), {"NFAGENT_LOGGING_SINKS": text})
    assert settings.logging.sinks == sinks


def test_sections_are_merged_key_by_key(write: Write) -> None:
    file = write('[logging]\ngroup = 7\nfile_backups = 2\n[cluster]\npod_cidrs = ["10.0.0.0/8"]')
    settings = load_settings(file, {"NFAGENT_LOGGING_FILE_BACKUPS": "3", "NFAGENT_MASQUERADE_ENABLED": "false"})
    assert (settings.logging.group, settings.logging.file_backups) == (7, 3)
    assert (settings.masquerade.enabled, settings.cluster.pod_cidrs) == (False, ("10.0.0.0/8",))


def test_lists_in_the_environment_are_comma_separated_and_an_empty_one_empties(write: Write) -> None:
    file = write('[cluster]\npod_cidrs = ["10.0.0.0/8"]\nservice_cidrs = ["10.1.0.0/16"]')
    environment = {"NFAGENT_CLUSTER_POD_CIDRS": "10.64.0.0/16, fd00::/64,", "NFAGENT_CLUSTER_SERVICE_CIDRS": ""}
    assert load_settings(file, environment).masquerade_settings().cluster_ranges == (
        parse_cidr("10.64.0.0/16"),
        parse_cidr("fd00::/64"),
    )


def test_masquerade_settings_have_pod_and_service_ranges_in_one_list(write: Write) -> None:
    file = write('[cluster]\npod_cidrs = ["10.0.0.0/16"]\nservice_cidrs = ["10.1.0.5/16"]')
    ranges = load_settings(file, {}).masquerade_settings().cluster_ranges
    assert list(map(str, ranges)) == ["10.0.0.0/16", "10.1.0.0/16"], "host bits are masked away"


def test_the_default_node_name_is_the_host_name_in_lower_case() -> None:
    assert Settings().node_name == socket.gethostname().lower()
    assert Settings(node="Node-1").node_name == "Node-1"


def test_paths_follow_from_their_folders() -> None:
    settings = Settings(runtime_dir="/run/x", log_dir="/var/log/x")
    assert settings.socket_path == Path("/run/x/agent.sock")
    assert settings.verdict_log == Path("/var/log/x/policy_action.log")


def complaint(file: Path | None, environment: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(SettingError) as caught:
        load_settings(file, environment or {}, flags)
    return str(caught.value)


KNOWN = "systemd/nfagent.toml lists all settings"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param('nod = "a"', f"unknown setting nod; {KNOWN}; did you mean node?", id="an unknown key"),
        pytest.param(
            "[logging]\ngroups = 1",
            f"unknown setting logging.groups; {KNOWN}; did you mean logging.group?",
            id="an unknown key in a section",
        ),
        pytest.param("[sets]\ngroup = 1", f"unknown setting sets; {KNOWN}", id="an unknown section"),
        pytest.param(
            '[cluster]\nservice_cidrs = ["10.0.0.0/8", "10.0.0.0/33"]',
            "cluster.service_cidrs = '10.0.0.0/33': is not a CIDR; write one like 10.0.0.0/8 or 2001:db8::/32",
            id="a prefix length that can't be",
        ),
        pytest.param("[logging]\ngroup = 65536", "logging.group = 65536: write 0 to 65535", id="a group too high"),
        pytest.param("[logging]\ngroup = -1", "logging.group = -1: write 0 to 65535", id="a group below 0"),
        pytest.param(
            "[logging]\nfile_max_bytes = 4095", "logging.file_max_bytes = 4095: write 4096 to", id="files too small"
        ),
        pytest.param(
            "[logging]\naggregation_seconds = -1",
            "logging.aggregation_seconds = -1.0: write 0 to 300",
            id="an aggregation below 0",
        ),
        pytest.param("[logging]\naggregation_keys = 0", "logging.aggregation_keys = 0: write 1 to", id="no keys"),
        pytest.param(
            "[logging]\nrecords_per_second = nan",
            "logging.records_per_second = nan: write 1 to",
            id="a rate that is no number",
        ),
        pytest.param("[logging]\nburst = 0", "logging.burst = 0: write 1 to", id="no burst"),
        pytest.param(
            "[logging]\nburst = 49",
            "logging.burst = 49: write 50 or more, for records_per_second = 500",
            id="a burst with which the rate isn't reached",
        ),
        pytest.param(
            '[logging]\nsinks = ["syslog"]',
            "logging.sinks = 'syslog': write file, journald, stdout",
            id="a sink that there isn't",
        ),
        pytest.param(
            '[logging]\nsinks = ["file", "stdout", "file"]',
            "logging.sinks: 'file' is there twice; write each sink once",
            id="a sink twice",
        ),
        pytest.param("[logging]\nsinks = 1", "logging.sinks = 1: expected array, got int", id="sinks that are no list"),
        pytest.param("[logging]\nfile_backups = 1001", "logging.file_backups = 1001: write 0 to 1000", id="too many"),
        pytest.param(
            "[logging]\nreceive_buffer = 1", "logging.receive_buffer = 1: write 65536 to", id="a buffer too small"
        ),
        pytest.param(
            '[metrics]\nlisten = "9464"',
            "metrics.listen = '9464': write ADDRESS:PORT, like 127.0.0.1:9464 or [::1]:9464",
            id="a port without an address",
        ),
        pytest.param(
            '[metrics]\nlisten = "localhost:9464"',
            "metrics.listen = 'localhost:9464': is not an IP address",
            id="a name to listen at",
        ),
        pytest.param(
            '[ui]\nlisten = "0.0.0.0:9465"',
            "ui.listen = '0.0.0.0:9465': write an address of loopback, like 127.0.0.1:9465 or [::1]:9465: nothing is "
            "encrypted",
            id="a page that others reach",
        ),
        pytest.param('[ui]\nlisten = "9465"', "ui.listen = '9465': write ADDRESS:PORT", id="a page without an address"),
        pytest.param(
            "[reconcile]\nresync_seconds = 0", "reconcile.resync_seconds = 0.0: write 1 to 86400", id="a resync of none"
        ),
        pytest.param(
            "[reconcile]\nretry_max_seconds = nan", "reconcile.retry_max_seconds = nan: write 0.1 to 3600", id="no time"
        ),
        pytest.param(
            'log_level = "loud"', "log_level = 'loud': write debug, info, warning, error", id="an unknown level"
        ),
        pytest.param('runtime_dir = ""', "runtime_dir = '': write a folder's path", id="a folder without a name"),
        pytest.param(
            'backend = "nft"', """backend = 'nft': write "auto" or "nftables" or "iptables\"""", id="no backend"
        ),
        pytest.param("node =", "is not TOML: Invalid value (at end of document)", id="no TOML"),
        pytest.param("node = 'a'\nnode = 'b'", "is not TOML: Cannot overwrite a value (at", id="a key twice"),
        pytest.param("a = " + "[" * 5000, "is not TOML: maximum recursion depth", id="brackets without end"),
    ],
)
def test_an_invalid_setting_is_reported_with_file_key_and_value(write: Write, text: str, words: str) -> None:
    file = write(text)
    assert complaint(file).startswith(f"{file}: {words}")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "nfagent.toml"
    file.write_bytes(b'node = "\xff"')
    assert complaint(file).startswith(f"{file}: is not TOML: 'utf-8' codec can't decode")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("NFAGENT_LOGGING_GROUP", "x", "environment: logging.group = 'x': expected int, got str"),
        ("NFAGENT_LOGGING_GROUP", "70000", "environment: logging.group = 70000: write 0 to 65535"),
        ("NFAGENT_CLUSTER_POD_CIDRS", "10.0.0.0/8,x", "environment: cluster.pod_cidrs = 'x': is not a CIDR"),
    ],
)
def test_an_invalid_variable_is_reported_as_the_environment(
    write: Write, variable: str, value: str, words: str
) -> None:
    assert complaint(write("[logging]\ngroup = 1"), {variable: value}).startswith(words)


def test_an_overridden_setting_must_be_valid_too(write: Write) -> None:
    file = write("[logging]\ngroup = 70000")
    assert complaint(file, {"NFAGENT_LOGGING_GROUP": "1"}).startswith(f"{file}: logging.group = 70000")


def test_an_invalid_flag_is_reported_as_the_command_line(write: Write) -> None:
    assert complaint(write(""), log_level="loud").startswith("command line: log_level = 'loud'")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    file = tmp_path / "none.toml"
    assert complaint(file) == f"{file}: there is no such file; give the right one with --config"
    assert complaint(tmp_path) == f"{tmp_path}: is a folder; put a regular file there, or delete it"


def test_lists_of_the_ip_masq_agent_are_given_in_file_and_environment(write: Write) -> None:
    file = write('[masquerade]\nnon_masquerade_cidrs = ["10.0.0.0/8"]\nmasq_link_local = true')
    found = load_settings(file, {"NFAGENT_MASQUERADE_MASQUERADE_CIDRS": "192.0.2.0/24,::/0"}).masquerade_settings()
    assert found.ip_masq == IpMasqConfig(
        (parse_cidr("10.0.0.0/8"),), (True, False), translated=(parse_cidr("192.0.2.0/24"), parse_cidr("::/0"))
    )
    emptied = load_settings(file, {"NFAGENT_MASQUERADE_NON_MASQUERADE_CIDRS": ""}).masquerade_settings()
    assert emptied.ip_masq.cidrs == ()


@pytest.mark.parametrize("cidr", ["10.0.0.1/8", "10.0.0.0", "::ffff:10.0.0.0/104"])
def test_a_list_in_the_settings_is_refused_as_a_whole(write: Write, cidr: str) -> None:
    with pytest.raises(SettingError, match=r"masquerade\.masquerade_cidrs = "):
        load_settings(write(f'[masquerade]\nmasquerade_cidrs = ["192.0.2.0/24", "{cidr}"]'), {})


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param("1024-29999,32768-65535", ((1024, 29_999), (32_768, 65_535)), id="as ip-masq-agent has them"),
        pytest.param("7,1-2", ((1, 2), (7, 7)), id="one port, and any order"),
        pytest.param("", (), id="none"),
    ],
)
def test_ranges_of_ports_are_read(written: str, read: tuple[tuple[int, int], ...], tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.touch()
    assert load_settings(file, {"NFAGENT_MASQUERADE_TO_PORTS": written}).masquerade_settings().to_ports == read


@pytest.mark.parametrize("written", ["0", "0-5", "5-4", "65536", "1-70000", "x", "1-", "-1", "1-2-3", "٣"])
def test_what_is_no_range_of_ports_is_refused(written: str, write: Write) -> None:
    with pytest.raises(
        SettingError, match=f"masquerade.to_ports = '{written}': write ranges of ports, like 1024-29999"
    ):
        load_settings(write(f'[masquerade]\nto_ports = ["{written}"]'), {})


def test_ranges_of_ports_that_overlap_are_refused(write: Write) -> None:
    with pytest.raises(SettingError, match=r"masquerade\.to_ports: port 9 is in two ranges"):
        load_settings(write('[masquerade]\nto_ports = ["9-12", "1-9"]'), {})


@pytest.mark.parametrize(("written", "mask"), [("0x1fe00", 0x1FE00), ('"0xff000000"', 0xFF000000), ("255", 255)])
def test_the_bits_of_the_packet_mark_are_a_mask_of_eight_bits(write: Write, written: str, mask: int) -> None:
    settings = load_settings(write(f"[masquerade]\ngateway_mark = {written}"), {})
    assert settings.masquerade_settings().gateway_mark == MarkBits(mask)


@pytest.mark.parametrize("written", ["0", "0x7f", "0xff01", "0x1ff", "0xff00000000", '"eight"', '"-255"', "-255"])
def test_bits_of_the_packet_mark_that_are_not_eight_in_a_row_are_refused(write: Write, written: str) -> None:
    with pytest.raises(SettingError, match=r"gateway_mark = .*: write a mask of eight bits in a row, like 0x0ff00000"):
        load_settings(write(f"[masquerade]\ngateway_mark = {written}"), {})


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"mark_bit": 0x3000}, "iptables.mark_bit = 12288"),
        ({"mark_bit": 0}, "iptables.mark_bit = 0"),
        ({"route_mark_bit": "0x1000"}, "iptables.route_mark_bit = '0x1000'"),
        ({"route_mark_bit": "bit"}, "iptables.route_mark_bit = 'bit'"),
    ],
    ids=["two bits", "none", "the bit of the other", "no number"],
)
def test_a_mark_of_iptables_is_one_bit_of_its_own(section: dict[str, int | str], named: str) -> None:
    with pytest.raises(SettingError, match=re.escape(f"{named}: write one bit")):
        load_settings(environment={}, flags={"iptables": section})


def test_marks_of_iptables_are_read_as_written() -> None:
    settings = load_settings(environment={"NFAGENT_IPTABLES_MARK_BIT": "0x100000"})

    assert mark_bits(settings.iptables) == (0x100000, 0x40)
