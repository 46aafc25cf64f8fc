"""What `nfagent bundle` removes from text: known values in every form, and what looks like a secret; nothing else."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from nfagent.cli.known_secrets import known_secrets
from nfagent.cli.secret_filter import SecretFilter
from nfagent.cli.secret_patterns import REMOVED
from nfagent.config import Settings
from nfagent.kube.credentials import CredentialPaths

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAplanted\nsecondLineOfTheKey==\n-----END RSA PRIVATE KEY-----\n"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl"


def cleaned(text: str, *known: str) -> str:
    return b"".join(SecretFilter(known).lines(line.encode() for line in text.splitlines(keepends=True))).decode()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        pytest.param(f"token {JWT} was refused\n", JWT, id="a JSON web token"),
        pytest.param("Authorization: Basic dXNlcjpwYXNz\n", "dXNlcjpwYXNz", id="basic authentication"),
        pytest.param('{"Authorization": "Bearer abcdefgh1234"}\n', "abcdefgh1234", id="a header in JSON"),
        pytest.param("bearer abcdefgh.1234 is no token\n", "abcdefgh.1234", id="a bearer token"),
        pytest.param("proxy http://me:p@ss:w0rd@proxy:3128 refused\n", "p@ss:w0rd", id="a password with @ in a URL"),
        pytest.param("HTTPS_PROXY=https://hunter2@proxy\n", "hunter2", id="a URL with one word"),
        pytest.param("password: hunter2\n", "hunter2", id="a password in YAML"),
        pytest.param("token = 'hunter2 hunter3'\n", "hunter3", id="a token in TOML"),
        pytest.param('{"client-key-data": "aHVudGVy", "a": 1}\n', "aHVudGVy", id="a key in JSON"),
        pytest.param('{"password": "a\\"hunter2", "a": 1}\n', "hunter2", id="a quote in a value"),
        pytest.param("AWS_SECRET_ACCESS_TOKEN=hunter2\n", "hunter2", id="a variable"),
        pytest.param("AWS_SECRET_ACCESS_KEY=hunter2\n", "hunter2", id="a key of AWS"),
        pytest.param('{"accessToken": "hunter2"}\n', "hunter2", id="a key of two words in one"),
        pytest.param("clientSecret: hunter2\n", "hunter2", id="a secret of two words in one"),
        pytest.param("PGPASSWORD=hunter2\n", "hunter2", id="a variable without a line between its words"),
        pytest.param("DB_PASS=hunter2\n", "hunter2", id="a word cut short"),
        pytest.param("plugin --client-secret hunter2 failed\n", "hunter2", id="a flag with its value behind it"),
        pytest.param(json.dumps({"text": PEM}) + "\n", "MIIEowIBAAKCAQEAplanted", id="a key within JSON"),
        pytest.param(f"before\n{PEM}after\n", "secondLineOfTheKey", id="a key of several lines"),
    ],
)
def test_what_looks_like_a_secret_is_removed(text: str, secret: str) -> None:
    found = cleaned(text)
    assert secret not in found
    assert REMOVED in found


def test_behind_a_key_the_text_goes_on() -> None:
    assert cleaned(f"before\n{PEM}after\n") == f"before\n{REMOVED}\n\nafter\n"


@pytest.mark.parametrize(
    "text",
    [
        '{"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\\"x\\":\\"hunter2\\"}"}}\n',
        "kubectl.kubernetes.io/last-applied-configuration: |\n  {\n  hunter2\n\n  }\nnext: 1\n",
        "    kubectl.kubernetes.io/last-applied-configuration: >-\n      hunter2\n    next: 1\n",
        'kubectl.kubernetes.io/last-applied-configuration: \'{"x": "hunter2"}\'\nnext: 1\n',
        'kubectl.kubernetes.io/last-applied-configuration={"x":"a b", "y":"hunter2"} was seen\n',
    ],
)
def test_the_last_applied_configuration_is_removed_as_a_whole(text: str) -> None:
    found = cleaned(text)
    assert "hunter2" not in found
    assert ("next: 1" in text) == ("next: 1" in found)


def test_json_stays_json_around_an_annotation() -> None:
    text = json.dumps({"kubectl.kubernetes.io/last-applied-configuration": '{"x":"y"}\n', "kept": 1})
    assert json.loads(cleaned(text)) == {"kubectl.kubernetes.io/last-applied-configuration": REMOVED, "kept": 1}


@pytest.mark.parametrize("key", ["password", "client-key-data", "kubectl.kubernetes.io/last-applied-configuration"])
@pytest.mark.parametrize(
    "secret", ["hunter2", "hunter2, hunter2; {hunter2}", 'a"hunter2', '{"a": "hunter2"}', "hunter2\\"]
)
def test_json_within_json_stays_json(key: str, secret: str) -> None:
    inner = json.dumps({"before": 1, key: secret, "after": "kept"})
    for text, levels in (
        (inner, 0),
        (json.dumps({"text": inner}), 1),
        (json.dumps({"a": json.dumps({"b": inner})}), 2),
    ):
        found = cleaned(text)
        assert "hunter2" not in found
        value = json.loads(found)
        for _ in range(levels):
            (value,) = value.values()
            value = json.loads(value)
        assert value == {"before": 1, key: REMOVED, "after": "kept"}


def test_a_number_of_a_secret_key_stays_json() -> None:
    assert json.loads(cleaned('{"token": 1234, "after": 1}')) == {"token": REMOVED, "after": 1}


def test_a_key_without_an_end_takes_not_all_that_follows_along() -> None:
    text = "-----BEGIN PRIVATE KEY-----\n" + "line\n" * 1_000
    assert cleaned(text).count("line\n") == 800


@pytest.mark.parametrize("secret", ["hunter2/+ü", 'quo"ted\\', "two\nlines here"])
def test_a_known_value_is_removed_in_each_form_that_text_has_it_in(secret: str) -> None:
    for form in (
        secret.splitlines()[-1],
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
        quote(secret.splitlines()[-1], safe=""),
        base64.b64encode(secret.encode()).decode(),
    ):
        found = cleaned(f"x{form}y\n", secret)
        assert form.strip('"') not in found, form
        assert REMOVED in found


@pytest.mark.parametrize(
    "text",
    [
        'token_file = "/var/lib/token"\n',
        '{"kubeconfig": "/etc/nfagent/kubeconfig"}\n',
        "https://192.0.2.1:6443/api/v1/pods?limit=500\n",
        "shop/web -> data/db:5432/tcp by data/wall\n",
        '{"server": "https://192.0.2.1:6443", "mail": "a@b.example"}\n',
        "ip daddr @peer-4 accept # token\n",
        "see --token-file FILE, --token\n",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert cleaned(text) == text


KUBECONFIG = """
users:
- name: a
  user: {token: secret-token, password: secret-password, client-key-data: c2VjcmV0LWtleQ==, tokenFile: token.txt}
- name: b
  user:
    exec:
      args: [get-token, --client-secret=secret-argument, --password, secret-word, --token-file, /a/file]
      env: [{name: ANY, value: secret-variable}]
    auth-provider: {config: {refresh-token: secret-refresh}}
clusters:
- cluster: {proxy-url: "http://me:secret%2Fproxy@proxy:3128", server: "https://192.0.2.1:6443"}
"""


def known(folder: Path, environment: dict[str, str] | None = None, **settings: str) -> set[str]:
    places = CredentialPaths(folder / "account", (folder / "node.conf",))
    return known_secrets(
        Settings(**settings),  # type: ignore[arg-type]
        {"HOME": str(folder), **(environment or {})},
        places,
        folder / "default",
    )


def test_secrets_are_known_from_every_place_that_the_agent_may_use(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    (tmp_path / "token.txt").write_text("secret-file\n")
    (tmp_path / "node.conf").write_text("users: [{user: {token: secret-node}}]")
    (tmp_path / "account").mkdir()
    (tmp_path / "account" / "token").write_text("secret-account")
    (tmp_path / "setting").write_text("secret-setting")
    (tmp_path / "default").write_text("# X_TOKEN=no\nMY_TOKEN='secret-service'\nHTTPS_PROXY=me:secret-there@proxy:1\n")
    environment = {"HTTP_PROXY": "http://me:secret-here@proxy", "A_PASSWORD": "secret-own", "SSH_KEY_TOKEN": "/a/path"}
    found = known(tmp_path, environment, kubeconfig=str(tmp_path / "kubeconfig"), token_file=str(tmp_path / "setting"))
    words = "token password key file argument variable refresh node account setting service there here own"
    assert {f"secret-{word}" for word in words.split()} | {"secret/proxy"} <= found
    assert not any(value.startswith("/") for value in found)


@pytest.mark.parametrize("text", ["users: [", "[]", "users: 5", "users: [{user: 5}]", "\x00", "a: &a [*a]"])
def test_a_kubeconfig_of_any_content_stops_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "node.conf").write_text(text)
    known(tmp_path)


def test_of_a_kubeconfig_that_does_not_parse_every_value_is_taken_for_secret(tmp_path: Path) -> None:
    (tmp_path / "node.conf").write_text("users: [\n  token: hunter2\n")
    assert "hunter2" in known(tmp_path)


@pytest.mark.parametrize(
    "part", ['"', "\\", '\\"', "token=", "://", "-", "a-", "eyJ", '{"', "last-applied-configuration:", "x@"]
)
def test_a_line_of_any_length_is_filtered_in_little_time(part: str) -> None:
    before = time.process_time()
    cleaned(f"token=a{part * 20_000}\n")
    assert time.process_time() - before < 5
