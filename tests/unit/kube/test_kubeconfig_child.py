"""Kubeconfigs resolved as kubectl resolves them: in the process of the test, without the child process."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfagent.kube.kubeconfig_child import UnresolvedError, main, resolve

PEM = "-----BEGIN CERTIFICATE-----\nxyz\n-----END CERTIFICATE-----\n"
PEM_DATA = base64.b64encode(PEM.encode()).decode()
SECRET = "s3cret-value"  # noqa: S105 - messages are searched for it
API = "client.authentication.k8s.io/v1"


def write(path: Path, user: object = None, cluster: object = None, **others: object) -> Path:
    document = {
        "current-context": "prod",
        "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api:6443"} if cluster is None else cluster}],
        "users": [{"name": "u", "user": {} if user is None else user}],
        **others,
    }
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    return path


def read(*files: Path, context: str = "", server_only: bool = False) -> dict[str, Any]:
    _, access = asyncio.run(resolve(list(files), context, server_only=server_only))
    return {key: value for key, value in access.items() if value}


def complaint(*files: Path, context: str = "") -> str:
    with pytest.raises(UnresolvedError) as caught:
        read(*files, context=context)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def plugin(folder: Path, status: object = None, *, script: str = "", **said: object) -> dict[str, Any]:
    """Write an exec plugin, and return a user section that names it."""
    answer = json.dumps({"apiVersion": API, "kind": "ExecCredential", "status": status})
    program = folder / "plugin"
    program.write_text(f"#!/bin/sh\n{script or f'cat <<END{chr(10)}{answer}{chr(10)}END'}\n")
    program.chmod(0o755)
    return {"exec": {"apiVersion": API, "command": "./plugin", **said}}


@pytest.mark.parametrize(
    ("user", "found"),
    [
        pytest.param({}, {}, id="no credentials"),
        pytest.param(
            {"token": "t"}, {"authorization": "Bearer t", "auth_method": "token in the kubeconfig"}, id="a bearer token"
        ),
        pytest.param(
            {"username": "a", "password": "b"},
            {"authorization": "Basic YTpi", "auth_method": "password in the kubeconfig"},
            id="a password",
        ),
        pytest.param(
            {"tokenFile": "here/token"},
            {"token_file": "{}/here/token", "auth_method": "token file {}/here/token"},
            id="a token file, beside the kubeconfig",
        ),
        pytest.param(
            {"tokenFile": "/run/token", "token": "t"},
            {"token_file": "/run/token", "authorization": "Bearer t", "auth_method": "token file /run/token"},
            id="a token file has precedence over a token, which remains for when the file can't be read",
        ),
        pytest.param(
            {"client-certificate": "pki/me.pem", "client-key": "/me.key"},
            {
                "certificate_file": "{}/pki/me.pem",
                "key_file": "/me.key",
                "auth_method": "client certificate {}/pki/me.pem",
            },
            id="certificates by their paths, so that they can rotate",
        ),
        pytest.param(
            {"client-certificate-data": PEM_DATA, "client-key-data": PEM_DATA, "client-certificate": "no"},
            {"certificate": PEM, "key": PEM, "auth_method": "client certificate in the kubeconfig"},
            id="embedded certificates have precedence over paths",
        ),
        pytest.param(
            {"token": "t", "as": "jane", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": {"why": ["x"]}},
            {
                "authorization": "Bearer t",
                "auth_method": "token in the kubeconfig",
                "headers": [
                    ("Impersonate-User", "jane"),
                    ("Impersonate-Uid", "7"),
                    ("Impersonate-Group", "a"),
                    ("Impersonate-Group", "b"),
                    ("Impersonate-Extra-why", "x"),
                ],
            },
            id="impersonation",
        ),
        pytest.param(
            {"auth-provider": {"name": "oidc", "config": {"id-token": "a.{jwt}.c"}}},
            {"authorization": "Bearer a.{jwt}.c", "auth_method": "auth-provider oidc in the kubeconfig"},
            id="an id-token that hasn't expired",
        ),
    ],
)
def test_credentials_of_a_user(tmp_path: Path, user: dict[str, object], found: dict[str, object]) -> None:
    lasting = base64.urlsafe_b64encode(json.dumps({"exp": int(time.time()) + 9999}).encode()).decode().rstrip("=")

    def filled(document: dict[str, object]) -> dict[str, object]:
        text = json.dumps(document).replace("{}/", f"{tmp_path}/").replace("{jwt}", lasting)
        return dict(json.loads(text))

    given = read(write(tmp_path / "config", user=filled(user) if user else {}))
    assert json.loads(json.dumps(given)) == {"server": "https://api:6443"} | filled(found)


def test_fields_of_a_cluster(tmp_path: Path) -> None:
    cluster = {
        "server": "https://api:6443",
        "certificate-authority-data": PEM_DATA,
        "tls-server-name": "kubernetes",
        "proxy-url": "http://proxy:3128",
        "insecure-skip-tls-verify": True,
    }
    assert read(write(tmp_path / "config", cluster=cluster)) == {
        "server": "https://api:6443",
        "ca": PEM,
        "tls_server_name": "kubernetes",
        "proxy": "http://proxy:3128",
        "insecure": True,
    }


def test_server_only_runs_no_plugin(tmp_path: Path) -> None:
    user = plugin(tmp_path, script="exit 1")
    cluster = {"server": "https://api", "certificate-authority": "ca.pem"}
    file = write(tmp_path / "config", user=user, cluster=cluster)
    assert read(file, server_only=True) == {"server": "https://api", "ca_file": f"{tmp_path}/ca.pem"}


def test_the_first_of_several_files_wins_and_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    users = [{"name": "u", "user": {"tokenFile": "token"}}]
    first = write(tmp_path / "a" / "config", cluster=None, clusters=None, users=users)
    clusters = [{"name": "c", "cluster": {"server": "https://second", "certificate-authority": "ca.pem"}}]
    second = write(tmp_path / "b" / "config", user={"token": "no"}, clusters=clusters, **{"current-context": "other"})
    assert read(first, second) == {
        "server": "https://second",
        "ca_file": f"{tmp_path}/b/ca.pem",
        "token_file": f"{tmp_path}/a/token",
        "auth_method": f"token file {tmp_path}/a/token",
    }
    empty = tmp_path / "empty"
    empty.touch()
    assert read(empty, first, second)["server"] == "https://second"


def test_a_context_can_be_chosen_and_may_have_no_user(tmp_path: Path) -> None:
    contexts = [
        {"name": "prod", "context": {"cluster": "c", "user": "u"}},
        {"name": "open", "context": {"cluster": "c"}},
    ]
    file = write(tmp_path / "config", user={"token": "t"}, contexts=contexts)
    assert "authorization" in read(file)
    assert "authorization" not in read(file, context="open")
    assert asyncio.run(resolve([file], "open"))[0] == "open"


def test_a_plugin_prints_a_token_and_its_expiration(tmp_path: Path) -> None:
    user = plugin(tmp_path, {"token": "t", "expirationTimestamp": "2030-01-01T00:00:00Z"})
    found = read(write(tmp_path / "config", user=user))
    assert (found["authorization"], found["expires"]) == ("Bearer t", 1893456000)
    assert found["auth_method"] == "exec plugin ./plugin"


def test_a_plugin_prints_a_certificate(tmp_path: Path) -> None:
    user = plugin(tmp_path, {"clientCertificateData": PEM, "clientKeyData": "key"}) | {"client-certificate": "/old"}
    found = read(write(tmp_path / "config", user=user | {"client-key": "/old"}))
    assert (found["certificate"], found["key"]) == (PEM, "key")
    assert "certificate_file" not in found, "the plugin has precedence over the file"
    assert "key_file" not in found


def test_a_plugin_receives_arguments_environment_and_the_cluster(tmp_path: Path) -> None:
    script = (
        f'echo "$1 $WORD $KUBERNETES_EXEC_INFO" > {tmp_path}/told; '
        f'echo \'{{"apiVersion":"{API}","kind":"ExecCredential","status":{{"token":"t"}}}}\''
    )
    said = {"args": ["one"], "env": [{"name": "WORD", "value": "two"}], "provideClusterInfo": True}
    extensions = [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}]
    cluster = {"server": "https://api", "certificate-authority-data": PEM_DATA, "extensions": extensions}
    read(write(tmp_path / "config", user=plugin(tmp_path, script=script, **said), cluster=cluster))
    first, second, info = (tmp_path / "told").read_text().split(" ", 2)
    assert (first, second) == ("one", "two")
    assert json.loads(info)["spec"] == {
        "interactive": False,
        "cluster": {
            "server": "https://api",
            "certificate-authority-data": PEM_DATA,
            "config": {"audience": "x"},
        },
    }


@pytest.mark.parametrize(
    ("script", "status", "said", "words"),
    [
        pytest.param(
            "echo 'no login' >&2; echo 'run sso' >&2; exit 3",
            None,
            {},
            "./plugin: exit code 3: no login run sso",
            id="it fails: the message has its standard error",
        ),
        pytest.param("echo hello", None, {}, "./plugin: its output is not JSON", id="it prints no JSON"),
        pytest.param(
            "", {}, {}, "./plugin returned neither a token nor a client certificate", id="it prints an empty status"
        ),
        pytest.param("", [], {}, "./plugin returned neither a token nor", id="it prints a list as status"),
        pytest.param(
            "",
            {"clientCertificateData": SECRET},
            {},
            "./plugin returned only one of",
            id="it prints a certificate without key",
        ),
        pytest.param(
            "",
            {"token": SECRET, "expirationTimestamp": "soon"},
            {},
            "./plugin: expirationTimestamp is not an RFC 3339 time",
            id="it prints an expirationTimestamp that is no time",
        ),
        pytest.param(
            "",
            {"token": SECRET},
            {"apiVersion": "client.authentication.k8s.io/v1beta1"},
            "its output has apiVersion client.authentication.k8s.io/v1 instead of client.authentication.k8s.io/v1beta1",
            id="it prints another apiVersion",
        ),
        pytest.param(
            "", {"token": SECRET}, {"interactiveMode": "Always"}, "requires a terminal", id="it requires a terminal"
        ),
        pytest.param(
            "",
            {"token": SECRET},
            {"env": [{"name": "A", "value": 7}]},
            "./plugin: an entry of env has no name or no value",
            id="a value of its env is a number",
        ),
        pytest.param(
            "",
            None,
            {"command": "no-such-plugin", "installHint": "brew install it"},
            "no-such-plugin: No such file or directory; brew install it",
            id="it isn't installed: the message has installHint",
        ),
    ],
)
def test_a_failing_plugin_is_reported(
    tmp_path: Path, script: str, status: object, said: dict[str, object], words: str
) -> None:
    user = plugin(tmp_path, status, script=script, **said)
    assert complaint(write(tmp_path / "config", user=user)).startswith("user u: exec plugin ")
    assert words in complaint(write(tmp_path / "config", user=user))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"user": {"token": [SECRET]}}, "user u: token is not a string", id="a token that is a list"),
        pytest.param(
            {"user": {"tokenFile": 5}},
            "user u: tokenFile is not a string; put it in quotes",
            id="a path that is a number",
        ),
        pytest.param(
            {"user": {"client-key-data": PEM_DATA}}, "user u has only one of client-certificate", id="a key alone"
        ),
        pytest.param(
            {"user": {"client-certificate-data": "!", "client-key": "k"}},
            "user u: client-certificate-data is not PEM in base64",
            id="data that isn't base64",
        ),
        pytest.param(
            {"user": {"auth-provider": {"name": "azure"}}},
            "unknown auth-provider 'azure'",
            id="an unknown provider",
        ),
        pytest.param(
            {"user": {"auth-provider": {"name": "oidc", "config": {"refresh-token": SECRET}}}},
            "user u: auth-provider oidc has no valid id-token; renew it with kubectl",
            id="no id-token, and a refresh-token that is not used",
        ),
        pytest.param(
            {"user": {"exec": {"command": "x"}}}, "user u: exec has no apiVersion", id="a plugin without apiVersion"
        ),
        pytest.param({"cluster": {}}, "cluster c has no server; write", id="no server"),
        pytest.param({"clusters": []}, "has no cluster 'c'; it has: none", id="no such cluster"),
        pytest.param({"users": [{"name": "v"}]}, "has no user 'u'; it has: v", id="no such user"),
        pytest.param({"users": [{"user": {"token": SECRET}}]}, "an entry of users has no name", id="no name"),
        pytest.param({"users": {"u": SECRET}}, "users is not a list", id="no list"),
        pytest.param(
            {"users": [{"name": "u", "user": SECRET}]}, "users u: write `user:` as a mapping", id="no mapping"
        ),
        pytest.param(
            {"current-context": None}, "has no current-context; set the setting context to one of: prod", id="none"
        ),
    ],
)
def test_an_invalid_kubeconfig_is_reported_without_its_secrets(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    assert words in complaint(write(tmp_path / "config", **fields))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(f"a: b: {SECRET}", "config: not YAML: line 1: mapping values", id="broken YAML, by its line"),
        pytest.param(f"- {SECRET}", "config: not a kubeconfig", id="a list"),
        pytest.param("\x00", "config: not YAML", id="no text"),
        pytest.param("", "has no current-context", id="nothing"),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_reported(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config").write_text(text)
    assert words in complaint(tmp_path / "config")


def test_an_unknown_context_is_reported_with_the_known_ones(tmp_path: Path) -> None:
    assert complaint(write(tmp_path / "config"), context="test") == "has no context 'test'; it has: prod"


def test_the_program_prints_one_line_without_secrets_for_an_unexpected_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write(tmp_path / "config", user={"as-user-extra": [SECRET]})
    monkeypatch.setattr("sys.argv", ["kubeconfig_child.py", str(broken)])
    main()
    said = json.loads(capsys.readouterr().out)
    assert said == {"error": "is not a valid kubeconfig (AttributeError)", "hint": "check it with kubectl"}


def test_nothing_is_written_to_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    user = plugin(tmp_path, {"clientCertificateData": PEM, "clientKeyData": PEM})
    cluster = {"server": "https://api", "certificate-authority-data": PEM_DATA}
    both = {"client-certificate-data": PEM_DATA, "client-key-data": PEM_DATA}
    stamp = folder.stat().st_mtime_ns
    assert read(write(tmp_path / "config", user=user | both, cluster=cluster))["ca"] == PEM
    assert folder.stat().st_mtime_ns == stamp, "not even for a moment"


def test_a_refresh_token_is_not_sent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as issuer:
        issuer.settimeout(0)
        settings = {
            "idp-issuer-url": f"http://127.0.0.1:{issuer.getsockname()[1]}",
            "client-id": "me",
            "client-secret": SECRET,
            "refresh-token": SECRET,
        }
        user = {"auth-provider": {"name": "oidc", "config": settings}}
        assert "no valid id-token" in complaint(write(tmp_path / "config", user=user))
        with pytest.raises(BlockingIOError):
            issuer.accept()
