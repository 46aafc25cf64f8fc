"""Reads what is secret on this node, so that `nfagent bundle` can leave it out of all that it writes.

Tokens, passwords, keys and the environment of exec plugins in every kubeconfig that the agent may use, files of tokens
and keys that these name, and passwords in the environment of this process and of the service.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nfagent.config import Settings
from nfagent.kube.credentials import CredentialPaths

_SERVICE_ENVIRONMENT = Path("/etc/default/nfagent")
_MOST_BYTES = 1 << 20
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|passphrase|api_?key|private_?key|credential")
_USER_FILES = {"tokenFile", "client-key"}
_USER_TEXTS = {"token", "password", "client-key-data"}


def known_secrets(
    settings: Settings,
    environment: Mapping[str, str] = os.environ,
    places: CredentialPaths = CredentialPaths(),  # noqa: B008 - frozen
    service_environment: Path = _SERVICE_ENVIRONMENT,
) -> set[str]:
    """Return all secret values that can be read. A file that can't be read by this user can't be shown by it either."""
    written = dict(_assignments(_text(service_environment)))
    files = [
        path
        for variable in (settings.kubeconfig, environment.get("KUBECONFIG", ""), written.get("KUBECONFIG", ""))
        for path in variable.split(":")
        if path
    ]
    kubeconfigs = [*map(Path, files), *places.node_files, Path(environment.get("HOME", "/root")) / ".kube/config"]
    tokens = [places.service_account / "token", *([Path(settings.token_file)] if settings.token_file else [])]
    found = chain(
        (_text(path) for path in tokens),
        *map(_of_kubeconfig, kubeconfigs),
        _of_environment(environment),
        _of_environment(written),
    )
    return {value.strip() for value in found if value.strip()}


def _text(path: Path) -> str:
    """Return the text of a file; '' for one that can't be read, or is no regular file."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _of_kubeconfig(path: Path) -> Iterator[str]:
    import yaml

    text = _text(path)
    try:
        document = yaml.safe_load(text) if text else None
    except (yaml.YAMLError, ValueError, RecursionError):
        # What can't be read as a whole is looked through line by line.
        yield from (value.strip(" '\"") for line in text.splitlines() if (value := line.partition(":")[2]))
        return
    if not isinstance(document, dict):
        return
    for entry in _entries(document, "users", "user"):
        yield from _of_user(entry, path.parent)
    for entry in _entries(document, "clusters", "cluster"):
        yield from _of_url(str(entry.get("proxy-url", "")))


def _entries(document: dict[Any, Any], plural: str, singular: str) -> Iterator[dict[Any, Any]]:
    listed = document.get(plural)
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and isinstance(item.get(singular), dict):
            yield item[singular]


def _of_user(user: dict[Any, Any], folder: Path) -> Iterator[str]:
    for key, value in user.items():
        if key in _USER_TEXTS:
            yield str(value)
            yield from _decoded(str(value))
        elif key in _USER_FILES:
            yield _text(folder / str(value))
    if isinstance(user.get("exec"), dict):
        yield from _of_plugin(user["exec"])
    provider = user.get("auth-provider")
    if isinstance(provider, dict) and isinstance(provider.get("config"), dict):
        for key, value in provider["config"].items():
            if _SECRET_NAME.search(str(key)):
                yield str(value)


def _of_plugin(plugin: dict[Any, Any]) -> Iterator[str]:
    listed, arguments = plugin.get("env"), plugin.get("args")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict):
            yield str(item.get("value", ""))
    before = ""
    for argument in map(str, arguments if isinstance(arguments, list) else ()):
        name, equals, value = argument.partition("=")
        if value and _SECRET_NAME.search(name):
            yield value
        if before.startswith("-") and _SECRET_NAME.search(before) and not argument.startswith(("-", "/")):
            yield argument
        before = "" if equals else argument


def _decoded(value: str) -> Iterator[str]:
    try:
        yield base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """Yield the variables of a file as systemd's EnvironmentFile= has them."""
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";")):
            yield name, value.strip().strip("'\"")


def _of_environment(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and not value.startswith("/"):
            yield value
        yield from _of_url(value)


def _of_url(url: str) -> Iterator[str]:
    """Yield the password of a URL, as written and decoded."""
    try:
        password = urlsplit(url if "://" in url else f"//{url}").password
    except ValueError:
        return
    if password:
        yield password
        yield unquote(password)
