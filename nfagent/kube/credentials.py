"""Where the API server is, and with what credentials it is asked.

A kubeconfig is resolved in a child process (`kube/kubeconfig_helper.py` says why); a Pod's service account is files.
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

_PROGRAM = Path(__file__).with_name("kubeconfig_helper.py")
_CHILD_SECONDS = 60
"""A plugin may ask its own servers on the way."""


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The way to one API server. A file's path is kept as a path, so that what rotates is read anew.

    server:          URL without a slash at its end
    origin:          where this was found, in words: `kubeconfig /etc/nfagent/kubeconfig, context prod`
    means:           what the credentials are, in words; empty for none
    ca, ca_file:     PEM of the certificates to trust, or its file; neither: the system's
    certificate, certificate_file, key, key_file: what to show the server, PEM or file
    authorization:   value of the header; token_file, a bearer token's file, goes before it while it can be read
    headers:         further ones, for impersonation
    proxy:           the kubeconfig's; empty: the environment has the word
    tls_server_name: the name that the server's certificate must have, where it isn't the URL's
    insecure:        the certificate isn't looked at
    expires:         when the credentials of a plugin end, in seconds since the epoch
    sources:         files that all this was read from: when they change, so may the access
    """

    server: str
    origin: str
    means: str = ""
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
        """Show no secrets: a traceback or a log may hold this."""
        return f"Access({self.server!r}, {self.origin!r})"


class CredentialPaths(msgspec.Struct, frozen=True):
    """Where credentials lie on a node and in a Pod.

    service_account: folder with `token` and `ca.crt`, mounted into Pods
    node_files:      kubeconfigs, the first that exists counts; a bootstrap file is what a kubelet joins with
    """

    service_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    node_files: tuple[Path, ...] = (
        Path("/etc/nfagent/kubeconfig"),
        Path("/etc/kubernetes/kubelet.conf"),
        Path("/var/lib/kubelet/kubeconfig"),
        Path("/etc/kubernetes/bootstrap-kubelet.conf"),
        Path("/var/lib/kubelet/bootstrap-kubeconfig"),
    )


class _Said(msgspec.Struct):
    """The line of the child process."""

    context: str = ""
    access: dict[str, Any] = {}
    error: str = ""
    hint: str = ""


async def find_access(
    kubeconfig: str = "",
    context: str = "",
    token_file: str = "",
    *,
    environment: Mapping[str, str] = os.environ,
    places: CredentialPaths = CredentialPaths(),  # noqa: B008 - frozen
) -> ClientConfig:
    """Find the way to the API server: the setting, $KUBECONFIG, a Pod's service account, the node's own files.

    kubeconfig: paths joined by ':', as in $KUBECONFIG
    context:    which one of the kubeconfig; a service account has none, and isn't looked at then
    token_file: its token stands in place of the credentials found; the server and its CA stay
    Raises ClusterError, which says what was looked for.
    """
    access = await _found(kubeconfig, context, environment, places, server_only=bool(token_file))
    if not token_file:
        return access
    path = _absolute(token_file)
    return msgspec.structs.replace(access, token_file=str(path), authorization="", means=f"token file {path}")


async def _found(
    kubeconfig: str, context: str, environment: Mapping[str, str], places: CredentialPaths, *, server_only: bool
) -> ClientConfig:
    if kubeconfig:
        files = _existing(_paths(kubeconfig))
        if not files:
            raise ClusterError(
                f"kubeconfig {kubeconfig}: there is no such file", hint="give the right one with --kubeconfig"
            )
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
        f"no credentials for an API server: looked for {'; '.join(looked)}",
        hint="name a kubeconfig with --kubeconfig, or run from a folder with --manifests",
    )


def _paths(joined: str) -> tuple[Path, ...]:
    return tuple(_absolute(part) for part in joined.split(":") if part)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _existing(paths: tuple[Path, ...]) -> list[Path]:
    # lexists, not exists: what can't be read is an error to be told, and not passed over.
    return [path for path in paths if os.path.lexists(path)]


def _in_cluster(environment: Mapping[str, str], folder: Path) -> ClientConfig | None:
    """Read a Pod's way. Source: client-go, rest.InClusterConfig."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    token, ca = folder / "token", folder / "ca.crt"
    if not host or not port or not token.exists():
        return None
    return ClientConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        origin="in-cluster service account",
        means=f"token file {token}",
        ca_file=str(ca) if ca.exists() else "",
        token_file=str(token),
    )


async def _resolved(
    files: list[Path], context: str, environment: Mapping[str, str], named: str, *, server_only: bool
) -> ClientConfig:
    shown = f"{named} {':'.join(map(str, files))}"
    arguments = ["--context", context] if context else []
    if server_only:
        arguments.append("--server-only")
    said = await _asked([*arguments, "--", *map(str, files)], environment, shown)
    if said.error:
        # Where the child names the file already, it isn't named twice.
        raise ClusterError(said.error if said.error.startswith("/") else f"{shown}: {said.error}", hint=said.hint)
    origin = f"{shown}, context {said.context}"
    try:
        access = msgspec.convert({**said.access, "origin": origin, "sources": [*map(str, files)]}, ClientConfig)
    except msgspec.ValidationError as error:
        raise ClusterError(f"{shown}: can't be used: {error}") from None
    return msgspec.structs.replace(access, server=_url(access))


async def _asked(arguments: list[str], environment: Mapping[str, str], shown: str) -> _Said:
    """Run the child, and never leave it or its plugin behind.

    Its environment is ours, since plugins need theirs. It sees neither our files nor our terminal, and `-I` keeps
    PYTHONPATH and the working folder out of what it imports.
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
    except OSError as error:
        # Out of descriptors, processes or memory for a moment: whoever asks tries again.
        raise ClusterError(f"{shown}: the program that reads it can't be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(_CHILD_SECONDS):
            output, _ = await process.communicate()
        return msgspec.json.decode(output, type=_Said)
    except TimeoutError:
        raise ClusterError(
            f"{shown}: not resolved within {_CHILD_SECONDS} s", hint="run its exec plugin and see how long it takes"
        ) from None
    except msgspec.DecodeError:
        raise ClusterError(
            f"{shown}: the program that reads it failed (exit code {process.returncode})",
            hint="is the Python package `kubernetes` installed?",
        ) from None
    finally:
        if process.returncode is None:
            # The whole session: a plugin that hangs would live on.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _url(access: ClientConfig) -> str:
    """Complete a server as client-go does: without a scheme it is https where TLS is spoken of, else http."""
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
        raise ClusterError(f"{access.origin}: server {access.server!r} is no URL", hint="write https://HOST:PORT")
    return server.rstrip("/")
