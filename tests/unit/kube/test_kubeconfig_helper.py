"""What a kubeconfig says, as kubectl reads it: in this process, where the program itself runs in one of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfagent.kube.kubeconfig_helper import UnresolvedError, main, resolve

PEM = "-----BEGIN CERTIFICATE-----\nxyz\n-----END CERTIFICATE-----\n"
PEM_DATA = base64.b64encode(PEM.encode()).decode()
SECRET = "s3cret-value"  # noqa: S105 - one to look for in messages
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
    said = f"{caught.value}; {caught.value.hint}" if caught.value.hint else str(caught.value)
    assert SECRET not in said
    return said


def plugin(folder: Path, status: object = None, *, script: str = "", **said: object) -> dict[str, Any]:
    """Write an exec plugin, and give the user that names it."""
    answer = json.dumps({"apiVersion": API, "kind": "ExecCredential", "status": status})
    program = folder / "plugin"
    program.write_text(f"#!/bin/sh\n{script or f'cat <<END{chr(10)}{answer}{chr(10)}END'}\n")
    program.chmod(0o755)
    return {"exec": {"apiVersion": API, "command": "./plugin", **said}}


@pytest.mark.parametrize(
    ("user", "found"),
    [
        pytest.param({}, {}, id="nobody"),
        pytest.param(
            {"token": "t"}, {"authorization": "Bearer t", "means": "token in the kubeconfig"}, id="a bearer token"
        ),
        pytest.param(
            {"username": "a", "password": "b"},
            {"authorization": "Basic YTpi", "means": "password in the kubeconfig"},
            id="a password",
        ),
        pytest.param(
            {"tokenFile": "here/token"},
            {"token_file": "{}/here/token", "means": "token file {}/here/token"},
            id="a token file, beside the kubeconfig",
        ),
        pytest.param(
            {"tokenFile": "/run/token", "token": "t"},
            {"token_file": "/run/token", "authorization": "Bearer t", "means": "token file /run/token"},
            id="a token file goes before a token, which is left for when it can't be read",
        ),
        pytest.param(
            {"client-certificate": "pki/me.pem", "client-key": "/me.key"},
            {
                "certificate_file": "{}/pki/me.pem",
                "key_file": "/me.key",
                "means": "client certificate {}/pki/me.pem",
            },
            id="certificates by their paths, so that they can rotate",
        ),
        pytest.param(
            {"client-certificate-data": PEM_DATA, "client-key-data": PEM_DATA, "client-certificate": "no"},
            {"certificate": PEM, "key": PEM, "means": "client certificate in the kubeconfig"},
            id="certificates in the file itself go before paths",
        ),
        pytest.param(
            {"token": "t", "as": "jane", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": {"why": ["x"]}},
            {
                "authorization": "Bearer t",
                "means": "token in the kubeconfig",
                "headers": [
                    ("Impersonate-User", "jane"),
                    ("Impersonate-Uid", "7"),
                    ("Impersonate-Group", "a"),
                    ("Impersonate-Group", "b"),
                    ("Impersonate-Extra-why", "x"),
                ],
            },
            id="somebody else's name",
        ),
        pytest.param(
            {"auth-provider": {"name": "oidc", "config": {"id-token": "a.{jwt}.c"}}},
            {"authorization": "Bearer a.{jwt}.c", "means": "auth-provider oidc in the kubeconfig"},
            id="an id-token that lasts",
        ),
    ],
)
def test_a_users_credentials(tmp_path: Path, user: dict[str, object], found: dict[str, object]) -> None:
    lasting = base64.urlsafe_b64encode(json.dumps({"exp": int(time.time()) + 9999}).encode()).decode().rstrip("=")

    def filled(document: dict[str, object]) -> dict[str, object]:
        text = json.dumps(document).replace("{}/", f"{tmp_path}/").replace("{jwt}", lasting)
        return dict(json.loads(text))

    given = read(write(tmp_path / "config", user=filled(user) if user else {}))
    assert json.loads(json.dumps(given)) == {"server": "https://api:6443"} | filled(found)


def test_a_clusters_fields(tmp_path: Path) -> None:
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


def test_without_credentials_no_plugin_runs(tmp_path: Path) -> None:
    user = plugin(tmp_path, script="exit 1")
    cluster = {"server": "https://api", "certificate-authority": "ca.pem"}
    file = write(tmp_path / "config", user=user, cluster=cluster)
    assert read(file, server_only=True) == {"server": "https://api", "ca_file": f"{tmp_path}/ca.pem"}


def test_of_several_files_the_first_wins_and_paths_belong_to_their_own(tmp_path: Path) -> None:
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
        "means": f"token file {tmp_path}/a/token",
    }
    empty = tmp_path / "empty"
    empty.touch()
    assert read(empty, first, second)["server"] == "https://second"


def test_the_context_can_be_chosen_and_needs_no_user(tmp_path: Path) -> None:
    contexts = [
        {"name": "prod", "context": {"cluster": "c", "user": "u"}},
        {"name": "open", "context": {"cluster": "c"}},
    ]
    file = write(tmp_path / "config", user={"token": "t"}, contexts=contexts)
    assert "authorization" in read(file)
    assert "authorization" not in read(file, context="open")
    assert asyncio.run(resolve([file], "open"))[0] == "open"


def test_a_plugin_gives_a_token_and_says_when_it_ends(tmp_path: Path) -> None:
    user = plugin(tmp_path, {"token": "t", "expirationTimestamp": "2030-01-01T00:00:00Z"})
    found = read(write(tmp_path / "config", user=user))
    assert (found["authorization"], found["expires"]) == ("Bearer t", 1893456000)
    assert found["means"] == "exec plugin ./plugin"


def test_a_plugin_gives_a_certificate(tmp_path: Path) -> None:
    user = plugin(tmp_path, {"clientCertificateData": PEM, "clientKeyData": "key"}) | {"client-certificate": "/old"}
    found = read(write(tmp_path / "config", user=user | {"client-key": "/old"}))
    assert (found["certificate"], found["key"]) == (PEM, "key")
    assert "certificate_file" not in found, "what the plugin gives goes before the file"
    assert "key_file" not in found


def test_a_plugin_gets_arguments_environment_and_the_cluster(tmp_path: Path) -> None:
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
            "./plugin: process returned 3: no login run sso",
            id="it fails: its own words are told",
        ),
        pytest.param("echo hello", None, {}, "./plugin: failed to decode process output", id="it prints no JSON"),
        pytest.param("", {}, {}, "./plugin gave neither a token nor a client certificate", id="it gives nothing"),
        pytest.param("", [], {}, "./plugin gave neither a token nor", id="it gives a list"),
        pytest.param(
            "", {"clientCertificateData": SECRET}, {}, "./plugin gave only one of", id="it gives a certificate, no key"
        ),
        pytest.param(
            "",
            {"token": SECRET, "expirationTimestamp": "soon"},
            {},
            "./plugin: its expirationTimestamp is no time",
            id="it gives no time",
        ),
        pytest.param(
            "",
            {"token": SECRET},
            {"apiVersion": "client.authentication.k8s.io/v1beta1"},
            "plugin api version client.authentication.k8s.io/v1 does not match",
            id="it speaks another version",
        ),
        pytest.param(
            "", {"token": SECRET}, {"interactiveMode": "Always"}, "wants a terminal", id="it wants a terminal"
        ),
        pytest.param(
            "",
            None,
            {"command": "no-such-plugin", "installHint": "brew install it"},
            "no-such-plugin: No such file or directory; brew install it",
            id="it isn't there: its hint is told",
        ),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said(
    tmp_path: Path, script: str, status: object, said: dict[str, object], words: str
) -> None:
    user = plugin(tmp_path, status, script=script, **said)
    assert complaint(write(tmp_path / "config", user=user)).startswith("user u: exec plugin ")
    assert words in complaint(write(tmp_path / "config", user=user))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"user": {"token": [SECRET]}}, "user u: token is no text", id="a token that is a list"),
        pytest.param(
            {"user": {"tokenFile": 5}}, "user u: tokenFile is no text; put it in quotes", id="a path that is a number"
        ),
        pytest.param(
            {"user": {"client-key-data": PEM_DATA}}, "user u has only one of client-certificate", id="a key alone"
        ),
        pytest.param(
            {"user": {"client-certificate-data": "!", "client-key": "k"}},
            "user u: client-certificate-data isn't PEM in base64",
            id="data that isn't base64",
        ),
        pytest.param(
            {"user": {"auth-provider": {"name": "azure"}}},
            "auth-provider 'azure' isn't known",
            id="an unknown provider",
        ),
        pytest.param(
            {"user": {"auth-provider": {"name": "oidc", "config": {"refresh-token": SECRET}}}},
            "user u: the id-token of auth-provider oidc has expired; have kubectl renew it",
            id="an id-token that is over",
        ),
        pytest.param({"user": {"exec": {"command": "x"}}}, "missing key 'apiVersion'", id="a plugin without version"),
        pytest.param({"cluster": {}}, "cluster c has no server; write", id="no server"),
        pytest.param({"clusters": []}, "has no cluster 'c'; it has: none", id="no such cluster"),
        pytest.param({"users": [{"name": "v"}]}, "has no user 'u'; it has: v", id="no such user"),
        pytest.param({"users": [{"user": {"token": SECRET}}]}, "an entry of users has no name", id="no name"),
        pytest.param({"users": {"u": SECRET}}, "users is no list", id="no list"),
        pytest.param(
            {"users": [{"name": "u", "user": SECRET}]},
            "users u is no mapping; write `user:` as a mapping",
            id="no mapping",
        ),
        pytest.param(
            {"current-context": None}, "has no current-context; set the setting context to one of: prod", id="none"
        ),
    ],
)
def test_what_is_wrong_is_said_without_secrets(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    assert words in complaint(write(tmp_path / "config", **fields))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(f"a: b: {SECRET}", "config: is not YAML: line 1: mapping values", id="broken YAML, by its line"),
        pytest.param(f"- {SECRET}", "config: is no kubeconfig", id="a list"),
        pytest.param("\x00", "config: is not YAML", id="no text"),
        pytest.param("", "has no current-context", id="nothing"),
    ],
)
def test_a_file_that_is_none_is_said(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config").write_text(text)
    assert words in complaint(tmp_path / "config")


def test_a_context_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    assert complaint(write(tmp_path / "config"), context="test") == "has no context 'test'; it has: prod"


def test_the_program_prints_one_line_and_no_secret_of_what_it_cant_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write(tmp_path / "config", user={"as-user-extra": [SECRET]})
    monkeypatch.setattr("sys.argv", ["kubeconfig.py", str(broken)])
    main()
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "error": "is no kubeconfig that can be read (AttributeError)",
        "hint": "see whether kubectl takes it",
    }


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
