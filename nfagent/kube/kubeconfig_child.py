"""The child process that resolves kubeconfigs.

Usage: `python -I kubeconfig_child.py [--context NAME] [--server-only] FILE...`.

The `kubernetes` package reads the authentication methods of a user section, but its import takes 41 MiB and most of a
second. So the agent runs this program, which prints one line of JSON: `{"context": "...", "access": {...}}` with fields
of kube.credentials.ClientConfig, or `{"error": "...", "hint": "..."}`. It imports nothing of nfagent and is run by its
path.

The package reads tokens, passwords and the auth-providers `gcp` and `oidc`. It has no support for the following, which
is read here as client-go does: several files, of which the first wins, also for current-context; paths relative to the
file that names them; exec plugins with an error message, with cluster information (`provideClusterInfo`) and with
certificates that expire; impersonation.
Secrets are written to standard output only, and to no file. An error names the place, never the value.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, load_kube_config_from_dict
from kubernetes.aio.config.dateutil import parse_rfc3339

from nfagent.system.regular_file import read_regular

Section: TypeAlias = dict[str, Any]
NamedEntry: TypeAlias = dict[str, tuple[Section, Path]]
"""Name -> the section under that name, and the folder of its file."""

_CLUSTER_CONFIG = "client.authentication.k8s.io/exec"
_PROVIDERS = frozenset({"gcp", "oidc"})
_MAX_STDERR = 300
"""Characters of a plugin's standard error in a message, from its end."""


class UnresolvedError(Exception):
    """A kubeconfig that can't be resolved. Its message contains no secret; hint: what to do about it."""

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{reason}; {hint}" if hint else reason)
        self.reason = reason
        self.hint = hint


def main() -> None:
    """Resolve the files and print one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--context", default="")
    parser.add_argument("--server-only", action="store_true", help="leave the credentials out")
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    result: Section
    try:
        context, access = asyncio.run(resolve(arguments.files, arguments.context, server_only=arguments.server_only))
        result = {"context": context, "access": access}
    except UnresolvedError as error:
        result = {"error": " ".join(error.reason.split()), "hint": " ".join(error.hint.split())}
    except Exception as error:  # noqa: BLE001 - a malformed file can raise anything, with secrets in the message
        result = {"error": f"is not a valid kubeconfig ({type(error).__name__})", "hint": "check it with kubectl"}
    sys.stdout.write(json.dumps(result))


async def resolve(files: list[Path], context: str, *, server_only: bool = False) -> tuple[str, Section]:
    """Return the name of the context, and the fields of ClientConfig but for `origin` and `sources`.

    files:       kubeconfigs that exist; the first that has an entry wins
    context:     its name; empty for the current-context
    server_only: leave the credentials out, and run no exec plugin
    Raises UnresolvedError.
    """
    contexts, clusters, users, current = _merged(files)
    name = context or current
    if not name:
        raise UnresolvedError("has no current-context", hint=f"set the setting context to one of: {_names(contexts)}")
    chosen, _ = _entry(contexts, "context", name)
    cluster, cluster_folder = _entry(clusters, "cluster", _text(chosen, "cluster", f"context {name}"))
    access = _cluster_fields(cluster, cluster_folder, f"cluster {chosen['cluster']}")
    if not server_only and (user_name := _text(chosen, "user", f"context {name}")):
        user, folder = _entry(users, "user", user_name)
        access |= _user_fields(user, folder, f"user {user_name}")
        access |= await _authentication(user, folder, f"user {user_name}", partial(_exec_cluster, cluster, access))
    return name, access


def _merged(files: list[Path]) -> tuple[NamedEntry, NamedEntry, NamedEntry, str]:
    """Read contexts, clusters, users and the current-context. Raises UnresolvedError."""
    contexts: NamedEntry = {}
    clusters: NamedEntry = {}
    users: NamedEntry = {}
    current = ""
    for file in files:
        document = _document(file)
        folder = file.absolute().parent
        for kind, into in (("contexts", contexts), ("clusters", clusters), ("users", users)):
            for entry in _list(document.get(kind), f"{file}: {kind}"):
                if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                    raise UnresolvedError(f"{file}: an entry of {kind} has no name", hint="write `name: ...`")
                section = entry.get(kind[:-1]) or {}
                if not isinstance(section, dict):
                    raise UnresolvedError(f"{file}: {kind} {entry['name']}: write `{kind[:-1]}:` as a mapping")
                into.setdefault(entry["name"], (section, folder))
        current = current or _text(document, "current-context", str(file))
    return contexts, clusters, users, current


def _document(file: Path) -> Section:
    try:
        document = yaml.safe_load(read_regular(file).decode())
    except OSError as error:
        raise UnresolvedError(f"{file}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UnresolvedError(f"{file}: not YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UnresolvedError(f"{file}: not YAML") from None
    if not isinstance(document or {}, dict):
        raise UnresolvedError(f"{file}: not a kubeconfig", hint="write a mapping with clusters, users and contexts")
    return document or {}


def _cluster_fields(cluster: Section, folder: Path, place: str) -> Section:
    server = _text(cluster, "server", place)
    if not server:
        raise UnresolvedError(f"{place} has no server", hint="write `server: https://HOST:PORT`")
    ca, ca_file = _pem(cluster, "certificate-authority", folder, place)
    return {
        "server": server,
        "ca": ca,
        "ca_file": ca_file,
        "insecure": cluster.get("insecure-skip-tls-verify") is True,
        "tls_server_name": _text(cluster, "tls-server-name", place),
        "proxy": _text(cluster, "proxy-url", place),
    }


def _user_fields(user: Section, folder: Path, place: str) -> Section:
    """Read the fields that the package ignores, or reads only once: certificates, token file, impersonation."""
    certificate, certificate_file = _pem(user, "client-certificate", folder, place)
    key, key_file = _pem(user, "client-key", folder, place)
    if bool(certificate or certificate_file) != bool(key or key_file):
        raise UnresolvedError(f"{place} has only one of client-certificate and client-key", hint="write both")
    token_file = _text(user, "tokenFile", place)
    headers = [("Impersonate-User", _text(user, "as", place)), ("Impersonate-Uid", _text(user, "as-uid", place))]
    headers += [("Impersonate-Group", str(group)) for group in _list(user.get("as-groups"), f"{place}: as-groups")]
    for extra, values in (user.get("as-user-extra") or {}).items():
        headers += [(f"Impersonate-Extra-{extra}", str(value)) for value in values]
    certified = f"client certificate {certificate_file or 'in the kubeconfig'}" if key or key_file else ""
    return {
        "certificate": certificate,
        "certificate_file": certificate_file,
        "key": key,
        "key_file": key_file,
        "token_file": str(folder / token_file) if token_file else "",
        "headers": [header for header in headers if header[1]],
        "auth_method": f"token file {folder / token_file}" if token_file else certified,
    }


async def _authentication(user: Section, folder: Path, place: str, cluster: Callable[[], Section]) -> Section:
    """Return the fields that come from an auth-provider, an exec plugin, a token or a password, in this order."""
    for key in ("token", "username", "password"):
        _text(user, key, place)
    provider = user.get("auth-provider")
    provider_name = provider.get("name") if isinstance(provider, dict) else None
    if provider is not None and provider_name not in _PROVIDERS:
        raise UnresolvedError(f"{place}: unknown auth-provider {provider_name!r}", hint="use an exec plugin")
    if provider is None and "exec" in user:
        return await _exec_credentials(user["exec"], folder, place, cluster)
    authorization = await _loaded_authorization(user, place)
    if not authorization:
        return {}
    static = "token" if authorization.startswith("Bearer") else "password"
    auth_method = f"auth-provider {provider_name}" if provider_name else static
    return {"authorization": authorization} | (
        {} if "tokenFile" in user else {"auth_method": f"{auth_method} in the kubeconfig"}
    )


async def _loaded_authorization(user: Section, place: str) -> str | None:
    """Return the Authorization header that the `kubernetes` package makes of a user section; None without one."""
    # Without files and certificates: the package copies the latter to temporary files.
    names = ("token", "username", "password", "auth-provider")
    fields = {name: user[name] for name in names if user.get(name) is not None}
    oidc = fields.get("auth-provider", {}).get("name") == "oidc"
    if oidc and isinstance(settings := fields["auth-provider"].get("config"), dict):
        # With a refresh-token, the package would send it to the issuer without verifying the issuer's certificate.
        kept = {key: value for key, value in settings.items() if key != "refresh-token"}
        fields["auth-provider"] = fields["auth-provider"] | {"config": kept}
    document = {
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": "https://it"}}],
        "users": [{"name": "it", "user": fields}],
    }
    configuration = Configuration()
    try:
        await load_kube_config_from_dict(document, "it", configuration)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        if oidc:
            raise UnresolvedError(
                f"{place}: auth-provider oidc has no valid id-token",
                hint="renew it with kubectl, or use an exec plugin",
            ) from None
        raise UnresolvedError(f"{place}: {error}") from None
    return configuration.api_key.get("BearerToken")


async def _exec_credentials(plugin: object, folder: Path, place: str, cluster: Callable[[], Section]) -> Section:
    """Return the fields that an exec plugin fills. Source: client.authentication.k8s.io/v1 ExecCredential."""
    if not isinstance(plugin, dict):
        raise UnresolvedError(f"{place}: write `exec:` as a mapping")
    for name in ("command", "apiVersion"):
        if not _text(plugin, name, f"{place}: exec"):
            raise UnresolvedError(f"{place}: exec has no {name}")
    shown = f"{place}: exec plugin {plugin['command']}"
    status = await _exec_status(plugin, folder, shown, cluster)
    token, certificate, key = (status.get(field) for field in ("token", "clientCertificateData", "clientKeyData"))
    if not token and not certificate:
        raise UnresolvedError(f"{shown} returned neither a token nor a client certificate")
    if bool(certificate) != bool(key):
        raise UnresolvedError(f"{shown} returned only one of clientCertificateData, clientKeyData")
    fields: Section = {"auth_method": f"exec plugin {plugin['command']}", "token_file": ""}
    if token:
        fields["authorization"] = f"Bearer {token}"
    if certificate:
        fields |= {"certificate": certificate, "key": key, "certificate_file": "", "key_file": ""}
    if expires := status.get("expirationTimestamp"):
        try:
            fields["expires"] = parse_rfc3339(expires).timestamp()  # type: ignore[no-untyped-call]
        except Exception:  # noqa: BLE001 - the package raises just that
            raise UnresolvedError(f"{shown}: expirationTimestamp is not an RFC 3339 time") from None
    return fields


async def _exec_status(plugin: Section, folder: Path, shown: str, cluster: Callable[[], Section]) -> Section:
    """Run an exec plugin and return the `status` of the ExecCredential that it prints. Raises UnresolvedError."""
    if plugin.get("interactiveMode") == "Always":
        raise UnresolvedError(f"{shown} requires a terminal (interactiveMode: Always), and nfagent has none")
    version = plugin["apiVersion"]
    spec: Section = {"interactive": False}
    if plugin.get("provideClusterInfo"):
        spec["cluster"] = cluster()
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    variables = dict(_variable(entry, shown) for entry in _list(plugin.get("env"), f"{shown}: env"))
    command = str(folder / plugin["command"]) if "/" in plugin["command"] else plugin["command"]
    arguments = _list(plugin.get("args"), f"{shown}: args")
    environment = os.environ | variables | {"KUBERNETES_EXEC_INFO": json.dumps(info)}
    try:
        process = await asyncio.create_subprocess_exec(command, *arguments, env=environment, stdout=PIPE, stderr=PIPE)
    except OSError as error:
        hint = plugin.get("installHint") or "install it, or correct its path in the kubeconfig"
        raise UnresolvedError(f"{shown}: {error.strerror}", hint=hint) from None
    output, stderr = await process.communicate()
    if process.returncode:
        message = " ".join(stderr.decode(errors="replace").split())[-_MAX_STDERR:]
        raise UnresolvedError(f"{shown}: exit code {process.returncode}{message and f': {message}'}")
    try:
        credential = json.loads(output)
    except ValueError:
        raise UnresolvedError(f"{shown}: its output is not JSON") from None
    missing = [key for key in ("apiVersion", "kind", "status") if key not in credential]
    if missing:
        raise UnresolvedError(f"{shown}: its output has no {' and no '.join(missing)}")
    if credential["apiVersion"] != version:
        raise UnresolvedError(f"{shown}: its output has apiVersion {credential['apiVersion']} instead of {version}")
    status = credential["status"]
    return status if isinstance(status, dict) else {}


def _variable(entry: object, shown: str) -> tuple[str, str]:
    name, value = (entry.get("name"), entry.get("value")) if isinstance(entry, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(value, str):
        raise UnresolvedError(f"{shown}: an entry of env has no name or no value", hint="write both as strings")
    return name, value


def _exec_cluster(cluster: Section, access: Section) -> Section:
    """Return the cluster as an exec plugin receives it. Source: client.authentication.k8s.io/v1, type Cluster."""
    try:
        ca = access["ca"].encode() or (read_regular(Path(access["ca_file"])) if access["ca_file"] else b"")
    except OSError as error:
        raise UnresolvedError(f"{access['ca_file']}: {error.strerror}") from None
    extensions = {entry["name"]: entry.get("extension") for entry in _list(cluster.get("extensions"), "extensions")}
    fields = {
        "server": access["server"],
        "tls-server-name": access["tls_server_name"],
        "insecure-skip-tls-verify": access["insecure"],
        "certificate-authority-data": base64.b64encode(ca).decode(),
        "proxy-url": access["proxy"],
        "config": extensions.get(_CLUSTER_CONFIG),
    }
    return {key: value for key, value in fields.items() if value}


def _pem(section: Section, key: str, folder: Path, place: str) -> tuple[str, str]:
    """Return text and path of a PEM field: one of them, or neither. The text has precedence, as in kubectl."""
    if data := _text(section, f"{key}-data", place):
        try:
            return base64.b64decode("".join(data.split()), validate=True).decode(), ""
        except (binascii.Error, ValueError):
            raise UnresolvedError(f"{place}: {key}-data is not PEM in base64") from None
    path = _text(section, key, place)
    return "", str(folder / path) if path else ""


def _entry(entries: NamedEntry, kind: str, name: str) -> tuple[Section, Path]:
    if name not in entries:
        raise UnresolvedError(f"has no {kind} {name!r}", hint=f"it has: {_names(entries)}")
    return entries[name]


def _names(entries: NamedEntry) -> str:
    return ", ".join(sorted(entries)) or "none"


def _text(section: Section, key: str, place: str) -> str:
    value = section.get(key)
    if not isinstance(value or "", str):
        raise UnresolvedError(f"{place}: {key} is not a string", hint="put it in quotes")
    return value or ""


def _list(value: object, place: str) -> list[Any]:
    if not isinstance(value or [], list):
        raise UnresolvedError(f"{place} is not a list")
    return value or []  # type: ignore[return-value] # checked above


if __name__ == "__main__":
    main()
