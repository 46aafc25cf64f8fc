"""However a secret is written in objects, settings, commands and logs, a bundle doesn't have it; nor does it lose more.

Each way is tried by itself, within strings of JSON, indented, and behind the begin of a line of a log.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TypeAlias

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nfagent.cli.secret_filter import SecretFilter
from nfagent.cli.secret_patterns import REMOVED

Way: TypeAlias = Callable[[str, str], str]
"""Returns a text that has a secret, of a name and the secret."""

SECRETS = st.text("abcdefgHIJKLMNxyz0123456789_.~+/-", min_size=9, max_size=40).filter(
    lambda text: text[0].isalnum() and text[-1].isalnum()
)
NAMES = st.sampled_from(["DB_PASSWORD", "API_TOKEN", "clientSecret", "AWS_SECRET_ACCESS_KEY", "DB_PASS", "api-key"])
HEADERS = st.sampled_from(["Authorization", "Cookie", "X-Auth-Token", "Proxy-Authorization"])


def env(name: str, secret: str) -> list[dict[str, str]]:
    """Return an env list, with entries that are no secret around one that is."""
    return [
        {"name": "LOG_LEVEL", "value": "debug-level"},
        {"name": name, "value": secret},
        {"name": "Z", "value": "kept"},
    ]


ONE_LINE: dict[str, Way] = {
    "an entry of env in JSON": lambda name, secret: json.dumps(env(name, secret)),
    "an entry without spaces": lambda name, secret: json.dumps(env(name, secret), separators=(",", ":")),
    "an entry with its value first": lambda name, secret: json.dumps({"value": secret, "name": name}),
    "an entry of tags": lambda name, secret: json.dumps({"Key": name, "Value": secret}),
    "an entry in YAML's flow style": lambda name, secret: f"- {{name: {name}, value: {secret}}}",
    "an entry as Go shows it": lambda name, secret: f"[]EnvVar{{EnvVar{{Name:{name},Value:{secret},ValueFrom:nil,}}}}",
    "a struct of Go": lambda name, secret: f"{{Name:{name} Value:{secret} ValueFrom:<nil>}}",
    "a member of JSON": lambda name, secret: json.dumps({name: secret, "kept": 1}),
    "a variable": lambda name, secret: f"{name}={secret}",
    "an exported variable": lambda name, secret: f"export {name}='{secret}'",
    "a key of YAML": lambda name, secret: f"{name}: {secret}",
    "a setting of TOML": lambda name, secret: f'{name} = "{secret}"',
    "an arrow": lambda name, secret: f'{{"{name}" => "{secret}"}}',
    "an assignment": lambda name, secret: f"{name} := {secret}",
    "a flag": lambda _, secret: f"run --token {secret} --verbose",
    "a flag with an equals sign": lambda _, secret: f"run --client-secret={secret} --verbose",
    "a flag in a list": lambda _, secret: json.dumps(["run", "--password", secret, "--verbose"]),
    "a flag in a list of YAML": lambda _, secret: f"[run, --password, {secret}, --verbose]",
    "curl's user": lambda _, secret: f"curl -u me:{secret} https://a.example/",
    "curl's header": lambda _, secret: f"curl -H 'Authorization: Token {secret}' https://a.example/",
    "user and password of a URL": lambda _, secret: f"https://me:{secret}@proxy.example:3128/path",
    "a database": lambda _, secret: f"postgres://me:{secret}@db/name",
    "a database of Go": lambda _, secret: f"me:{secret.replace('/', '')}@tcp(10.0.0.1:3306)/name",
    "a connection string": lambda _, secret: f"Server=db;Password={secret};Database=x",
    "a query": lambda _, secret: f"GET /path?a=1&access_token={secret}&b=2",
    "a signed URL": lambda _, secret: f"https://a.example/path?X-Amz-Signature={secret}&b=2",
    "a bearer token": lambda _, secret: f"Authorization: Bearer {secret}",
    "basic authentication": lambda _, secret: f"authorization: Basic {base64.b64encode(secret.encode()).decode()}",
    "another scheme": lambda _, secret: f"Authorization: Token {secret}",
    "a header of a proxy": lambda _, secret: f"Proxy-Authorization: Negotiate {secret}",
    "a cookie": lambda _, secret: f"Cookie: a={secret}; session={secret}",
    "a header of its own": lambda _, secret: f"X-Api-Key: {secret}",
    "a .netrc": lambda _, secret: f"machine a.example login me password {secret}",
    "XML": lambda _, secret: f"<user><password>{secret}</password></user>",
}
"""Ways to write a secret in a line."""

LINES: dict[str, Way] = {
    "an entry of env in YAML": lambda name, secret: yaml.safe_dump({"env": env(name, secret)}, sort_keys=False),
    "an entry of env in indented JSON": lambda name, secret: json.dumps({"env": env(name, secret)}, indent=2),
    "an entry of YAML with its value first": lambda name, secret: f"- value: {secret}\n  name: {name}\n- name: x\n",
    "an entry of JSON with its value first": lambda name, secret: json.dumps(
        [{"value": secret, "name": name}], indent=1
    ),
    "an entry with quotes": lambda name, secret: f"- name: \"{name}\"\n  value: '{secret}'\n",
    "an entry with a block": lambda name, secret: f"- name: {name}\n  value: |\n    {secret}\n    {secret}\n",
    "an entry that goes on": lambda name, secret: f"- name: {name}\n  value: a\n    {secret}\n- name: x\n",
    "a value below": lambda name, secret: f"- name: {name}\n  value:\n    {secret}\n- name: x\n",
    "a block": lambda name, secret: f"{name}: |-\n  {secret}\n  {secret}\nnext: 1\n",
    "a scalar below its key": lambda name, secret: f"{name}:\n  {secret}\nnext: 1\n",
    "a value of several words": lambda name, secret: f"{name}: word {secret}\nnext: 1\n",
    "a variable of several words": lambda _, secret: f"DB_PASSWORD=word {secret}\nNEXT=1\n",
    "a flag in a list of YAML": lambda _, secret: f"args:\n- --token\n- {secret}\n- --verbose\n",
    "a flag in a list of JSON": lambda _, secret: json.dumps({"args": ["--token", secret, "--verbose"]}, indent=2),
    "a private key": lambda _, secret: f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n",
    "a private key in YAML": lambda _, secret: (
        f"key: |\n  -----BEGIN OPENSSH PRIVATE KEY-----\n  {secret}\n  -----END OPENSSH PRIVATE KEY-----\nnext: 1\n"
    ),
}
"""Ways that take several lines."""


def cleaned(text: str) -> str:
    return b"".join(SecretFilter().lines(line.encode() for line in text.splitlines(keepends=True))).decode()


def shapes(text: str) -> list[str]:
    """Return a text as it may stand in a bundle."""
    return [
        text,
        json.dumps({"message": text, "after": "kept"}),
        json.dumps({"outer": json.dumps({"message": text})}),
        "".join(f"      {line}\n" for line in text.splitlines()),
    ]


@pytest.mark.parametrize("way", ONE_LINE)
@given(name=NAMES, secret=SECRETS)
def test_a_secret_in_a_line_is_removed(way: str, name: str, secret: str) -> None:
    text = ONE_LINE[way](name, secret)
    for shape in (*shapes(text), f"Jan 31 10:15:00 node-a kubelet[17]: E0131 cannot start: {text}"):
        found = cleaned(shape)
        assert secret not in found, shape
        assert REMOVED in found


@pytest.mark.parametrize("way", LINES)
@given(name=NAMES, secret=SECRETS)
def test_a_secret_in_several_lines_is_removed(way: str, name: str, secret: str) -> None:
    for shape in shapes(LINES[way](name, secret)):
        found = cleaned(shape)
        assert secret not in found, shape
        assert REMOVED in found


@given(HEADERS, SECRETS)
def test_headers_of_a_probe_are_removed(name: str, secret: str) -> None:
    headers = {"httpHeaders": [{"name": name, "value": f"Bearer {secret}"}, {"name": "Accept", "value": "kept"}]}
    for text in (json.dumps(headers), json.dumps(headers, indent=2), yaml.safe_dump(headers)):
        found = cleaned(text)
        assert secret not in found
        assert yaml.safe_load(found)["httpHeaders"][1] == {"name": "Accept", "value": "kept"}


@given(NAMES, SECRETS)
def test_what_stands_beside_a_secret_stays(name: str, secret: str) -> None:
    wanted = {"env": env(name, REMOVED), "kept": [1, {"name": "shop"}]}
    value = {"env": env(name, secret), "kept": [1, {"name": "shop"}]}
    assert json.loads(cleaned(json.dumps(value))) == wanted
    assert json.loads(cleaned(json.dumps(value, indent=2))) == wanted
    assert yaml.safe_load(cleaned(yaml.safe_dump(value, sort_keys=False))) == wanted
    assert json.loads(json.loads(cleaned(json.dumps({"text": json.dumps(value)})))["text"]) == wanted


@pytest.mark.parametrize(
    "text",
    [
        '{"name":"DB_PASSWORD","valueFrom":{"secretKeyRef":{"name":"db","key":"password"}}},{"name":"A","value":"b"}\n',
        "- name: DB_PASSWORD\n  valueFrom:\n    secretKeyRef:\n      key: password\n- name: A\n  value: b\n",
        '{"name": "TOKEN_FILE", "value": "/var/lib/token"}\n',
        "- name: LOG\n  value: debug\n- name: DB_PASSWORD\n  valueFrom: {}\n",
        "volumes:\n- name: v\n  secret:\n    secretName: db\n",
        "NAME      VALUE\ntoken     -\nshop/web  10.0.0.1\n",
        "image: registry.example:5000/nginx:1.25@sha256:0123456789abcdef\n",
        "ip saddr 10.0.0.1 tcp dport 5432 counter accept\n",
        "args:\n- --token-file\n- /var/lib/token\n",
        '{"key": "log_dir", "value": "/var/log/network"}\n',
    ],
)
def test_what_only_names_a_secret_stays_as_it_is(text: str) -> None:
    assert cleaned(text) == text
