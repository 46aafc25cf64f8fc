"""Address of the API server and the credentials for it: from a kubeconfig, or a Pod's service account.

A kubeconfig is resolved in a child process (`kube/kubeconfig_child.py` says why).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from nfagent.errors import ClusterError

_PROGRAM = Path(__file__).with_name("kubeconfig_child.py")
_CHILD_SECONDS = 60
"""An exec plugin may send requests to servers of its own."""


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Address and credentials of one API server. Files are kept as paths, so that they are read again when they rotate.

    server:          URL without a slash at its end
    origin:          where this was found, for messages: `kubeconfig /etc/nfagent/kubeconfig, context prod`
    auth_method:     the authentication method, for messages; empty for none
    ca, ca_file:     PEM of the trusted CAs, or its file; with neither, the system's CAs are trusted
    certificate, certificate_file, key, key_file: client certificate and key, as PEM or as a file
    authorization:   value of the Authorization header; a readable token_file (bearer token) has precedence
    headers:         further headers, for impersonation
    proxy:           the kubeconfig's proxy-url; empty: the environment's proxy is used
    tls_server_name: the name that the server's certificate must have, where it isn't the URL's host
    insecure:        the server's certificate isn't verified
    expires:         when the credentials of an exec plugin expire, in seconds since the epoch
    sources:         the files that all this was read from: after a change it is resolved again
    """

    server: str
    origin: str
    auth_method: str = ""
    ca: str = ""
    ca_file: str = ""
    certificate: str = ""
    certificate_file: str = ""
    key: str = ""
    key_file: str = ""
    authorization: str = ""
    token_file: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    proxy: str = ""
    tls_server_name: str = ""
    insecure: bool = False
    expires: float | None = None
    sources: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return a text without secrets: a traceback or a log may contain it."""
        return f"ClientConfig({self.server!r}, {self.origin!r})"


class CredentialPaths(msgspec.Struct, frozen=True):
    """Paths of credentials on a node and in a Pod.

    service_account: folder with `token` and `ca.crt`, mounted into Pods
    node_files:      kubeconfigs, of which the first that exists is used; a kubelet joins with a bootstrap file
    """

    service_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    node_files: tuple[Path, ...] = (
        Path("/etc/nfagent/kubeconfig"),
        Path("/etc/kubernetes/kubelet.conf"),
        Path("/var/lib/kubelet/kubeconfig"),
        Path("/etc/kubernetes/bootstrap-kubelet.conf"),
        Path("/var/lib/kubelet/bootstrap-kubeconfig"),
    )


class _ChildOutput(msgspec.Struct):
    """The line that the child process prints."""

    context: str = ""
    access: dict[str, Any] = {}
    error: str = ""
    hint: str = ""


async def find_client_config(
    kubeconfig: str = "",
    context: str = "",
    token_file: str = "",
    *,
    environment: Mapping[str, str] = os.environ,
    places: CredentialPaths = CredentialPaths(),  # noqa: B008 - frozen
) -> ClientConfig:
    """Return the first client config of: the setting, $KUBECONFIG, a Pod's service account, the node's kubeconfigs.

    kubeconfig: paths joined by ':', as in $KUBECONFIG
    context:    a context of the kubeconfig; with it, the service account is skipped, because it has no contexts
    token_file: its token replaces the credentials found; server and CA stay
    Raises ClusterError, whose message lists the places.
    """
    access = await _found(kubeconfig, context, environment, places, server_only=bool(token_file))
    if not token_file:
        return access
    path = _absolute(token_file)
    return msgspec.structs.replace(access, token_file=str(path), authorization="", auth_method=f"token file {path}")


async def _found(
    kubeconfig: str, context: str, environment: Mapping[str, str], places: CredentialPaths, *, server_only: bool
) -> ClientConfig:
    if kubeconfig:
        files = _existing(_paths(kubeconfig))
        if not files:
            raise ClusterError(f"kubeconfig {kubeconfig}: no such file", hint="name an existing one with --kubeconfig")
        return await _resolved(files, context, environment, "kubeconfig", server_only=server_only)
    looked = ["the setting kubeconfig (empty)"]
    if variable := environment.get("KUBECONFIG", ""):
        if files := _existing(_paths(variable)):
            return await _resolved(files, context, environment, "$KUBECONFIG", server_only=server_only)
        looked.append(f"$KUBECONFIG ({variable}: no such file)")
    if not context and (inside := _in_cluster(environment, places.service_account)) is not None:
        return inside
    account = "not with the setting context" if context else places.service_account
    looked.append(f"a Pod's service account ({account})")
    if files := _existing(places.node_files)[:1]:
        return await _resolved(files, context, environment, "kubeconfig", server_only=server_only)
    looked.append(f"the node's files ({', '.join(map(str, places.node_files))})")
    raise ClusterError(
        f"no credentials for an API server; looked for {'; '.join(looked)}",
        hint="name a kubeconfig with --kubeconfig, or run from a folder with --manifests",
    )


def _paths(joined: str) -> tuple[Path, ...]:
    return tuple(_absolute(part) for part in joined.split(":") if part)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _existing(paths: tuple[Path, ...]) -> list[Path]:
    # lexists, not exists: an unreadable file is an error to report, not one to skip.
    return [path for path in paths if os.path.lexists(path)]


def _in_cluster(environment: Mapping[str, str], folder: Path) -> ClientConfig | None:
    """Return the client config of a Pod; None outside of one. Source: client-go, rest.InClusterConfig."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    token, ca = folder / "token", folder / "ca.crt"
    # lexists, as above: a CA that can't be read is an error to report, and doesn't mean the system's CAs.
    if not host or not port or not os.path.lexists(token):
        return None
    return ClientConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        origin="in-cluster service account",
        auth_method=f"token file {token}",
        ca_file=str(ca) if os.path.lexists(ca) else "",
        token_file=str(token),
    )


async def _resolved(
    files: list[Path], context: str, environment: Mapping[str, str], named: str, *, server_only: bool
) -> ClientConfig:
    shown = f"{named} {':'.join(map(str, files))}"
    arguments = ["--context", context] if context else []
    if server_only:
        arguments.append("--server-only")
    result = await _run_child([*arguments, "--", *map(str, files)], environment, shown)
    if result.error:
        # The child's message may begin with the file already.
        reason = result.error if result.error.startswith("/") else f"{shown}: {result.error}"
        raise ClusterError(reason, hint=result.hint)
    origin = f"{shown}, context {result.context}"
    try:
        access = msgspec.convert({**result.access, "origin": origin, "sources": [*map(str, files)]}, ClientConfig)
    except msgspec.ValidationError as error:
        raise ClusterError(f"{shown}: not valid: {error}") from None
    return msgspec.structs.replace(access, server=_url(access))


async def _run_child(arguments: list[str], environment: Mapping[str, str], shown: str) -> _ChildOutput:
    """Run the child process and return its output; on the way out, kill it and its exec plugin.

    It gets the agent's environment, which plugins need, but neither its open files nor its terminal. `-I` excludes
    PYTHONPATH and the working folder from its imports. Raises ClusterError.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(_PROGRAM),
            *arguments,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,
            env=dict(environment),
            start_new_session=True,
        )
    except (OSError, RuntimeError) as error:
        # Short of descriptors, memory, processes, or threads (one waits for the child): the caller tries again.
        reason = getattr(error, "strerror", "") or error
        raise ClusterError(f"{shown}: the child process that reads it can't be started: {reason}") from None
    try:
        async with asyncio.timeout(_CHILD_SECONDS):
            output, _ = await process.communicate()
        return msgspec.json.decode(output, type=_ChildOutput)
    except TimeoutError:
        raise ClusterError(
            f"{shown}: not resolved within {_CHILD_SECONDS} s",
            hint="measure how long its exec plugin takes; without one, the node has too little CPU for nfagent",
        ) from None
    except msgspec.DecodeError:
        raise ClusterError(
            f"{shown}: the child process that reads it failed (exit code {process.returncode})",
            hint="is the Python package `kubernetes` installed?",
        ) from None
    finally:
        if process.returncode is None:
            # The whole process group: a hanging plugin would survive its parent.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _url(access: ClientConfig) -> str:
    """Return the server's URL as client-go does: without a scheme, https where TLS fields are set, else http."""
    server = access.server
    if "://" not in server:
        tls = access.insecure or access.ca or access.ca_file or access.certificate or access.certificate_file
        server = f"{'https' if tls else 'http'}://{server}"
    try:
        parts = urlsplit(server)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ClusterError(f"{access.origin}: server {access.server!r} is not a URL", hint="write https://HOST:PORT")
    return server.rstrip("/")
