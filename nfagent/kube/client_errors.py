"""Errors of requests to the API server: one line with the cause and what to do about it."""

from __future__ import annotations

import os
import re
import ssl

import aiohttp

from nfagent.errors import ClusterError, ReadTimeoutError, UnreachableError
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.proxy import without_password

FAILURES = (aiohttp.ClientError, OSError, TimeoutError)
"""Every exception that aiohttp raises where there is no response."""

CONNECT_SECONDS = 10

# The first match counts, so subclasses precede their base classes.
_MESSAGES: tuple[tuple[type[Exception], type[ClusterError], str, str], ...] = (
    (
        aiohttp.ClientHttpProxyError,
        ClusterError,
        "the proxy {proxy} refused the connection: {reason}",
        "allow it there, or list the API server in NO_PROXY",
    ),
    (
        aiohttp.ClientProxyConnectionError,
        UnreachableError,
        "the proxy {proxy} can't be reached: {reason}",
        "start it, or list the API server in NO_PROXY",
    ),
    (
        aiohttp.ClientConnectorDNSError,
        UnreachableError,
        "its name can't be resolved: {reason}",
        "check its spelling, and DNS on this machine",
    ),
    (
        aiohttp.ClientConnectorSSLError,
        ClusterError,
        "TLS handshake failed: {reason}",
        "is it https, and does it require a client certificate?",
    ),
    (
        aiohttp.ClientConnectorError,
        UnreachableError,
        "can't be reached: {reason}",
        "check that it runs, and its address",
    ),
    (
        aiohttp.ConnectionTimeoutError,
        UnreachableError,
        "no connection{through} within {connect} s",
        "check its address, and firewalls between here and there",
    ),
    (
        aiohttp.SocketTimeoutError,
        ReadTimeoutError,
        "no bytes{through} for {seconds:g} s",
        "does a firewall drop idle connections, or is it overloaded?",
    ),
    (
        aiohttp.ServerDisconnectedError,
        ClusterError,
        "closed the connection{through} without a response",
        "see its log: a restart, or no client certificate?",
    ),
    (aiohttp.ClientPayloadError, ClusterError, "the response was cut off{through}", "does it restart? See its log"),
    (
        aiohttp.ClientResponseError,
        ClusterError,
        "the response{through} is not HTTP: {reason}",
        "is it https, or another port?",
    ),
    (aiohttp.InvalidURL, ClusterError, "the URL is not valid", "write https://HOST:PORT"),
    (TimeoutError, ClusterError, "no whole response{through} within {seconds:g} s", "is it overloaded? See its log"),
    (OSError, ClusterError, "the connection{through} was lost: {reason}", "does it restart? See its log"),
    (Exception, ClusterError, "the request failed{through}: {reason}", "try the same with kubectl"),
)


def as_cluster_error(error: Exception, access: ClientConfig, proxy: str, seconds: float) -> ClusterError:
    """Convert an exception of aiohttp to the error that is logged.

    proxy:   the one that was used; empty for none
    seconds: the timeout of the response, or of its next part
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason, hint = _untrusted(error.certificate_error, access)
        return ClusterError(f"{server_prefix(access)}{' '.join(reason.split())}", hint=hint)
    kind, message, hint = next((kind, message, hint) for of, kind, message, hint in _MESSAGES if isinstance(error, of))
    shown = without_password(proxy)
    through = f" through the proxy {shown}" if proxy else ""
    text = message.format(proxy=shown, through=through, reason=_reason(error), seconds=seconds, connect=CONNECT_SECONDS)
    return kind(f"{server_prefix(access)}{' '.join(text.split())}", hint=hint)


def server_prefix(access: ClientConfig) -> str:
    """Return the beginning of the reason of every such error: the API server, and where its address is from."""
    return f"API server {access.server} ({access.origin}): "


def _reason(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorError():
            return _system(error.os_error)
        case aiohttp.ClientHttpProxyError():
            return f"{error.status} {error.message}"
        case aiohttp.ClientResponseError():
            # Raised by aiohttp's parser: further lines have the bytes, and the status isn't the server's.
            return error.message.partition("\n")[0]
        case OSError():
            return _system(error)
    return str(error) or type(error).__name__


def _untrusted(error: Exception, access: ClientConfig) -> tuple[str, str]:
    """Return why the server's certificate is rejected, and what to do about it."""
    reason = getattr(error, "verify_message", "") or str(error)
    if "mismatch" in reason:
        return f"its certificate is for another name: {reason}", "set tls-server-name to the certificate's name"
    trusted = access.ca_file or ("the CA in the kubeconfig" if access.ca else "the system's CAs")
    hint = "set the CA that signed it, or renew the certificate"
    return f"its certificate isn't trusted by {trusted}: {reason}", hint


def _system(error: OSError) -> str:
    """Return the system's message, or OpenSSL's without code and line."""
    text = error.strerror or str(error)
    # OpenSSL and name resolution have error numbers of their own, which os.strerror doesn't know.
    if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError) and not text.startswith("["):
        return os.strerror(error.errno)
    return re.sub(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$", "", text) or type(error).__name__
