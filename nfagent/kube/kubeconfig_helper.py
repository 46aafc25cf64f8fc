"""The child process that resolves kubeconfigs.

Usage: `python -I kubeconfig_helper.py [--context NAME] [--server-only] FILE...`.

The `kubernetes` package knows the many ways of a user section, but costs 41 MiB and most of a second to import: so the
agent asks this program, which prints one line of JSON: `{"context": "...", "access": {...}}` with fields of
kube.credentials.ClientConfig, or `{"error": "...", "hint": "..."}`.
It stands alone, imports nothing of nfagent, and is run by its path.

What the package has no word for is read here, as client-go has it: the first of several files wins, also for the
current-context; paths are relative to the file that names them; exec plugins that say why they failed, are told
of the cluster (`provideClusterInfo`) and give certificates that expire; impersonation.
Secrets are written to no file, and to nothing but standard output: an error names the place, never the value.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import json
import sys
from ast import literal_eval
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from kubernetes.aio.client import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.dateutil import parse_rfc3339
from kubernetes.aio.config.exec_provider import ExecProvider
from kubernetes.aio.config.kube_config import ConfigNode, KubeConfigLoader

Section: TypeAlias = dict[str, Any]
NamedEntry: TypeAlias = dict[str, tuple[Section, Path]]
"""Name -> what a section says under it, and the folder of the file that says so."""

_CLUSTER_CONFIG = "client.authentication.k8s.io/exec"
_LONGEST_REASON = 300


class UnresolvedError(Exception):
    """A kubeconfig that can't be resolved; neither the message nor the hint has a secret in it."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class PluginError(ConfigException):
    """Credentials that an exec plugin or an auth-provider doesn't have, and what to do about it."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


def main() -> None:
    """Resolve, and print one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--context", default="")
    parser.add_argument("--server-only", action="store_true", help="leave the credentials out")
    parser.add_argument("files", nargs="+", type=Path)
    asked = parser.parse_args()
    said: Section
    try:
        context, access = asyncio.run(resolve(asked.files, asked.context, server_only=asked.server_only))
        said = {"context": context, "access": access}
    except UnresolvedError as error:
        said = {"error": " ".join(str(error).split()), "hint": " ".join(error.hint.split())}
    except Exception as error:  # noqa: BLE001 - a malformed file can break the package anywhere, with secrets in the message
        said = {
            "error": f"is no kubeconfig that can be read ({type(error).__name__})",
            "hint": "see whether kubectl takes it",
        }
    sys.stdout.write(json.dumps(said))


async def resolve(files: list[Path], context: str, *, server_only: bool = False) -> tuple[str, Section]:
    """Give the context that was chosen, and the fields of Access but for `origin` and `sources`.

    files: kubeconfigs that exist, the first wins
    context: the name of one; empty for the current-context
    server_only: run no exec plugin and leave the credentials out
    Raises UnresolvedError.
    """
    contexts, clusters, users, current = _merged(files)
    name = context or current
    if not name:
        raise UnresolvedError("has no current-context", f"set the setting context to one of: {_names(contexts)}")
    chosen, _ = _looked_up(contexts, "context", name)
    cluster, cluster_folder = _looked_up(clusters, "cluster", _word(chosen, "cluster", f"context {name}"))
    access = _server(cluster, cluster_folder, f"cluster {chosen['cluster']}")
    if not server_only and (user_name := _word(chosen, "user", f"context {name}")):
        user, folder = _looked_up(users, "user", user_name)
        access |= _identity(user, folder, f"user {user_name}")
        access |= await _authentication(user, folder, user_name, partial(_plugins_cluster, cluster, access))
    return name, access


def _merged(files: list[Path]) -> tuple[NamedEntry, NamedEntry, NamedEntry, str]:
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
                    raise UnresolvedError(f"{file}: an entry of {kind} has no name", "write `name: ...`")
                said = entry.get(kind[:-1]) or {}
                if not isinstance(said, dict):
                    raise UnresolvedError(
                        f"{file}: {kind} {entry['name']} is no mapping", f"write `{kind[:-1]}:` as a mapping"
                    )
                into.setdefault(entry["name"], (said, folder))
        current = current or _word(document, "current-context", str(file))
    return contexts, clusters, users, current


def _document(file: Path) -> Section:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnresolvedError(f"{file}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UnresolvedError(f"{file}: is not YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UnresolvedError(f"{file}: is not YAML") from None
    if not isinstance(document or {}, dict):
        raise UnresolvedError(f"{file}: is no kubeconfig", "write a mapping with clusters, users and contexts")
    return document or {}


def _server(cluster: Section, folder: Path, place: str) -> Section:
    server = _word(cluster, "server", place)
    if not server:
        raise UnresolvedError(f"{place} has no server", "write `server: https://HOST:PORT`")
    ca, ca_file = _pem(cluster, "certificate-authority", folder, place)
    return {
        "server": server,
        "ca": ca,
        "ca_file": ca_file,
        "insecure": cluster.get("insecure-skip-tls-verify") is True,
        "tls_server_name": _word(cluster, "tls-server-name", place),
        "proxy": _word(cluster, "proxy-url", place),
    }


def _identity(user: Section, folder: Path, place: str) -> Section:
    """Read what the package leaves out, or reads once: certificates, the token file, impersonation."""
    certificate, certificate_file = _pem(user, "client-certificate", folder, place)
    key, key_file = _pem(user, "client-key", folder, place)
    if bool(certificate or certificate_file) != bool(key or key_file):
        raise UnresolvedError(f"{place} has only one of client-certificate and client-key", "write both")
    token_file = _word(user, "tokenFile", place)
    headers = [("Impersonate-User", _word(user, "as", place)), ("Impersonate-Uid", _word(user, "as-uid", place))]
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
        "means": f"token file {folder / token_file}" if token_file else certified,
    }


async def _authentication(user: Section, folder: Path, name: str, cluster: Callable[[], Section]) -> Section:
    """Have the package find the token, the password or the plugin's credentials."""
    for key in ("token", "username", "password"):
        _word(user, key, f"user {name}")
    provider = user.get("auth-provider")
    known = provider.get("name") if isinstance(provider, dict) else None
    if provider is not None and known not in {"gcp", "oidc"}:
        raise UnresolvedError(f"user {name}: auth-provider {known!r} isn't known", "use an exec plugin")
    # Files and certificates stay out: the package would copy the latter to temporary files.
    rest = {key: value for key, value in user.items() if not key.startswith("client-") and key != "tokenFile"}
    wrapped = {
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": "https://it"}}],
        "users": [{"name": "it", "user": rest}],
    }
    loader: Any = _Loader(ConfigNode(f"user {name}", wrapped), active_context="it")  # type: ignore[no-untyped-call]
    loader.given = {}
    loader.plugin = _Plugin(rest.get("exec") or {}, f"user {name}: exec", folder, cluster)
    configuration = Configuration()
    try:
        await loader.load_and_set(configuration)
    except ConfigException as error:
        raise UnresolvedError(f"user {name}: {_readable(error)}", getattr(error, "hint", "")) from None
    given: Section = loader.given
    authorization = configuration.api_key.get("BearerToken")
    if given or not authorization:
        return given
    means = f"auth-provider {known}" if known else "token" if authorization.startswith("Bearer") else "password"
    return {"authorization": authorization} | ({} if "tokenFile" in user else {"means": f"{means} in the kubeconfig"})


class _Plugin:
    """An exec plugin: a program that prints an ExecCredential. Source: client.authentication.k8s.io/v1."""

    def __init__(self, said: Section, place: str, folder: Path, cluster: Callable[[], Section]) -> None:
        self._said = said
        self._place = place
        self._folder = folder
        self._cluster = cluster

    async def answer(self) -> Section:
        """Run it, and give the fields of Access that it fills. Raises ConfigException."""
        status = await self._status()
        token, certificate, key = (status.get(name) for name in ("token", "clientCertificateData", "clientKeyData"))
        if not token and not certificate:
            raise ConfigException(f"exec plugin {self._command} gave neither a token nor a client certificate")
        if bool(certificate) != bool(key):
            raise ConfigException(f"exec plugin {self._command} gave only one of clientCertificateData, clientKeyData")
        given: Section = {"means": f"exec plugin {self._command}", "token_file": ""}
        if token:
            given["authorization"] = f"Bearer {token}"
        if certificate:
            given |= {"certificate": certificate, "key": key, "certificate_file": "", "key_file": ""}
        if expires := status.get("expirationTimestamp"):
            try:
                given["expires"] = parse_rfc3339(expires).timestamp()  # type: ignore[no-untyped-call]
            except Exception:  # noqa: BLE001 - the package raises just that
                raise ConfigException(f"exec plugin {self._command}: its expirationTimestamp is no time") from None
        return given

    @property
    def _command(self) -> str:
        return str(self._said.get("command"))

    async def _status(self) -> Section:
        if self._said.get("interactiveMode") == "Always":
            raise ConfigException(f"exec plugin {self._command} wants a terminal (interactiveMode); nfagent has none")
        provider: Any = ExecProvider(ConfigNode(self._place, self._said))  # type: ignore[no-untyped-call]
        if "/" in self._command:
            provider.args[0] = str(self._folder / self._command)
        if self._said.get("provideClusterInfo"):
            provider.env = _Informed(provider.env, self._cluster())
        try:
            status = await provider.run()
        except OSError as error:
            hint = self._said.get("installHint") or "install it, or correct its path in the kubeconfig"
            raise PluginError(f"exec plugin {self._command}: {error.strerror}", str(hint)) from None
        except ConfigException as error:
            raise ConfigException(f"exec plugin {self._command}: {_readable(error)}") from None
        return status if isinstance(status, dict) else {}


class _Loader(KubeConfigLoader):
    """The package's reading of a user, with an ear for what an exec plugin says."""

    plugin: _Plugin
    given: Section

    async def load_from_exec_plugin(self) -> bool:
        """Run the plugin. The package's own method logs what went wrong, and goes on without credentials."""
        self.given = await self.plugin.answer()
        return True

    async def _refresh_oidc(self, _provider: ConfigNode) -> None:
        # The package's own would send the refresh token without checking whom it talks to.
        raise PluginError(
            "the id-token of auth-provider oidc has expired", "have kubectl renew it, or use an exec plugin"
        )


def _plugins_cluster(cluster: Section, access: Section) -> Section:
    """Say of the cluster what a plugin may want to know. Source: client.authentication.k8s.io/v1, type Cluster."""
    try:
        ca = access["ca"].encode() or (Path(access["ca_file"]).read_bytes() if access["ca_file"] else b"")
    except OSError as error:
        raise UnresolvedError(f"{access['ca_file']}: {error.strerror}") from None
    extensions = {entry["name"]: entry.get("extension") for entry in _list(cluster.get("extensions"), "extensions")}
    told = {
        "server": access["server"],
        "tls-server-name": access["tls_server_name"],
        "insecure-skip-tls-verify": access["insecure"],
        "certificate-authority-data": base64.b64encode(ca).decode(),
        "proxy-url": access["proxy"],
        "config": extensions.get(_CLUSTER_CONFIG),
    }
    return {key: value for key, value in told.items() if value}


class _Informed(dict[str, str]):
    """A plugin's environment, in which KUBERNETES_EXEC_INFO, that the package puts there late, tells of the cluster."""

    def __init__(self, environment: dict[str, str], cluster: Section) -> None:
        super().__init__(environment)
        self._cluster = cluster

    def __setitem__(self, name: str, value: str) -> None:
        if name == "KUBERNETES_EXEC_INFO":
            info = json.loads(value)
            info["spec"]["cluster"] = self._cluster
            value = json.dumps(info)
        super().__setitem__(name, value)


def _pem(section: Section, key: str, folder: Path, place: str) -> tuple[str, str]:
    """Give text and path of a PEM field: one of them, or neither. The text wins, as with kubectl."""
    if data := _word(section, f"{key}-data", place):
        try:
            return base64.b64decode("".join(data.split()), validate=True).decode(), ""
        except (binascii.Error, ValueError):
            raise UnresolvedError(f"{place}: {key}-data isn't PEM in base64") from None
    path = _word(section, key, place)
    return "", str(folder / path) if path else ""


def _looked_up(among: NamedEntry, kind: str, name: str) -> tuple[Section, Path]:
    if name not in among:
        raise UnresolvedError(f"has no {kind} {name!r}", f"it has: {_names(among)}")
    return among[name]


def _names(among: NamedEntry) -> str:
    return ", ".join(sorted(among)) or "none"


def _word(section: Section, key: str, place: str) -> str:
    value = section.get(key)
    if not isinstance(value or "", str):
        raise UnresolvedError(f"{place}: {key} is no text", "put it in quotes")
    return value or ""


def _list(value: object, place: str) -> list[Any]:
    if not isinstance(value or [], list):
        raise UnresolvedError(f"{place} is no list")
    return value or []  # type: ignore[return-value] # a list, as was just seen


def _readable(error: ConfigException) -> str:
    """Take the package's prefix away, and show a plugin's last words, which it has as bytes, as text."""
    said, mark, stderr = str(error).removeprefix("exec: ").partition(". b")
    if not mark:
        return said
    try:
        text = literal_eval(f"b{stderr}").decode(errors="replace")
    except (ValueError, SyntaxError):
        text = stderr
    return f"{said}: {' '.join(text.split())[-_LONGEST_REASON:]}"


if __name__ == "__main__":
    main()
