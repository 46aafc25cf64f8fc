"""What the sandbox of a unit lets the agent read and write, by the properties that systemd prints."""

from __future__ import annotations

import msgspec
import pytest

from nfagent.system.unit_sandbox import FileOwner, Obstacle, UnitSandbox, parse_properties

SHOWN = """\
LoadState=loaded
User=root
CapabilityBoundingSet=cap_net_admin
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ReadWritePaths=/srv/a -/srv/b
ReadOnlyPaths=
InaccessiblePaths=-/run/dbus -/run/containerd
BindPaths=/tmp/shared:/mnt/x:rbind
BindReadOnlyPaths=/home/op/k
RuntimeDirectory=nfagent
StateDirectory=nfagent
LogsDirectory=network
CacheDirectory=
"""
SANDBOX = UnitSandbox(
    capabilities=frozenset({"cap_net_admin"}),
    system="strict",
    home="read-only",
    private_tmp=True,
    writable=("/run/nfagent", "/var/lib/nfagent", "/var/log/network", "/srv/a", "/srv/b", "/mnt/x"),
    bound=("/home/op/k",),
    inaccessible=("/run/dbus", "/run/containerd"),
)
TMP = "/tmp"  # noqa: S108 - nothing is created there
ROOTS = FileOwner("/srv", 0, 0, 0o755)


def changed(**fields: object) -> UnitSandbox:
    return msgspec.structs.replace(SANDBOX, **fields)


def test_the_properties_of_a_unit_are_its_sandbox() -> None:
    assert parse_properties(SHOWN) == SANDBOX


@pytest.mark.parametrize("text", ["", "LoadState=not-found\nUser=\n", "no lines of properties"])
def test_without_a_unit_there_is_no_sandbox(text: str) -> None:
    assert parse_properties(text) is None


def test_a_unit_without_such_settings_hides_nothing() -> None:
    plain = parse_properties("LoadState=loaded\nUser=\nCapabilityBoundingSet=cap_dac_override\nProtectHome=no\n")
    assert plain is not None
    for path in ("/etc/x", "/home/op", f"{TMP}/x", "/run/dbus"):
        assert plain.write_obstacle(path, [FileOwner(path, 1000, 1000, 0o700)]) is None
        assert plain.read_obstacle(path, [FileOwner(path, 1000, 1000, 0o700)]) is None


@pytest.mark.parametrize(
    ("sandbox", "folder", "setting"),
    [
        pytest.param(SANDBOX, "/var/log/network", None, id="the log folder of the unit"),
        pytest.param(SANDBOX, "/var/log/network/deeper", None, id="a folder in it"),
        pytest.param(SANDBOX, "/run/nfagent", None, id="the runtime folder"),
        pytest.param(SANDBOX, "/srv/b/x", None, id="a folder of ReadWritePaths"),
        pytest.param(SANDBOX, "/mnt/x", None, id="a folder of BindPaths"),
        pytest.param(SANDBOX, "/srv/logs", "ReadWritePaths=/srv/logs", id="a folder elsewhere"),
        pytest.param(
            SANDBOX, "/srv/ab", "ReadWritePaths=/srv/ab", id="a name that only begins like one of its folders"
        ),
        pytest.param(SANDBOX, "/var/log/policies", "LogsDirectory=policies", id="one that systemd makes, of logs"),
        pytest.param(SANDBOX, "/var/lib/net/x", "StateDirectory=net/x", id="one that systemd makes, of state"),
        pytest.param(SANDBOX, "/run/net", "RuntimeDirectory=net", id="one that systemd makes at each start"),
        pytest.param(SANDBOX, "/root/logs", "ReadWritePaths=/root/logs", id="a home folder"),
        pytest.param(changed(home="yes"), "/root/logs", "BindPaths=/root/logs", id="a hidden home folder"),
        pytest.param(SANDBOX, f"{TMP}/logs", "", id="a folder in /tmp"),
        pytest.param(SANDBOX, "/run/dbus/x", "", id="a folder that is hidden"),
        pytest.param(changed(system="full"), "/srv/logs", None, id="a folder that a weaker ProtectSystem leaves"),
        pytest.param(changed(system="full"), "/etc/x", "ReadWritePaths=/etc/x", id="a folder that it doesn't leave"),
        pytest.param(
            changed(system="no", read_only=("/srv",)), "/srv/c", "ReadWritePaths=/srv/c", id="one of ReadOnlyPaths"
        ),
    ],
)
def test_writing(sandbox: UnitSandbox, folder: str, setting: str | None) -> None:
    found = sandbox.write_obstacle(folder)
    assert (found and found.setting) == setting


@pytest.mark.parametrize(
    ("sandbox", "path", "setting"),
    [
        pytest.param(SANDBOX, "/etc/nfagent/kubeconfig", None, id="a kubeconfig in /etc"),
        pytest.param(SANDBOX, "/root/.kube/config", None, id="one in a home folder"),
        pytest.param(changed(home="tmpfs"), "/root/.kube/config", "BindReadOnlyPaths=/root/.kube/config", id="hidden"),
        pytest.param(changed(home="yes"), "/home/op/k/x", None, id="one of BindReadOnlyPaths"),
        pytest.param(SANDBOX, f"{TMP}/manifests", "", id="manifests in /tmp"),
        pytest.param(SANDBOX, "/run/containerd/x", "", id="a path that is hidden"),
    ],
)
def test_reading(sandbox: UnitSandbox, path: str, setting: str | None) -> None:
    found = sandbox.read_obstacle(path)
    assert (found and found.setting) == setting


@pytest.mark.parametrize(
    ("owners", "reads"),
    [
        pytest.param([ROOTS, FileOwner("/srv/k", 0, 0, 0o600)], True, id="a file of root alone"),
        pytest.param([ROOTS, FileOwner("/srv/k", 1000, 1000, 0o644)], True, id="a user's file that all may read"),
        pytest.param([ROOTS, FileOwner("/srv/k", 1000, 0, 0o640)], True, id="a user's file for group root"),
        pytest.param([ROOTS, FileOwner("/srv/k", 1000, 1000, 0o600)], False, id="a user's file for that user alone"),
        pytest.param(
            [FileOwner("/home/op", 1000, 1000, 0o700), FileOwner("/home/op/k", 0, 0, 0o600)],
            False,
            id="a file of root in a user's closed folder",
        ),
        pytest.param(
            [FileOwner("/home/op", 1000, 1000, 0o711), FileOwner("/home/op/k", 0, 0, 0o600)],
            True,
            id="a file of root in a folder that all may search",
        ),
    ],
)
def test_root_without_rights_reads_what_permissions_let_it_read(owners: list[FileOwner], reads: bool) -> None:  # noqa: FBT001 - a table's column
    found = SANDBOX.read_obstacle("/srv/k", owners)
    assert (found is None) is reads
    if found is not None:
        assert found.setting == "CapabilityBoundingSet=CAP_DAC_READ_SEARCH"
    assert changed(capabilities=frozenset({"cap_dac_read_search"})).read_obstacle("/srv/k", owners) is None


@pytest.mark.parametrize(
    ("owner", "obstacle"),
    [
        pytest.param(FileOwner("/srv/a", 0, 0, 0o700), None, id="a folder of root"),
        pytest.param(FileOwner("/srv/a", 1000, 1000, 0o777), None, id="a folder that all may write to"),
        pytest.param(
            FileOwner("/srv/a", 1000, 1000, 0o755),
            Obstacle("/srv/a belongs to user 1000 (mode 0755)", remedy="chown 0 /srv/a"),
            id="a user's folder",
        ),
    ],
)
def test_root_without_rights_writes_where_permissions_let_it_write(owner: FileOwner, obstacle: Obstacle | None) -> None:
    assert SANDBOX.write_obstacle("/srv/a", [owner]) == obstacle
    assert changed(capabilities=frozenset({"cap_dac_override"})).write_obstacle("/srv/a", [owner]) is None
