"""What went wrong on the way to the API server, in one line that says what to do."""

from __future__ import annotations

import os
import re
import ssl

import aiohttp

from nfagent.errors import ClusterError, ReadTimeoutError, UnreachableError
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.proxy import without_password

FAILURES = (aiohttp.ClientError, OSError, TimeoutError)
"""Everything that aiohttp raises where there is no answer."""

CONNECT_SECONDS = 10

# The first that fits counts: what is special stands before what it is a kind of.
_WORDS: tuple[tuple[type[Exception], type[ClusterError], str, str], ...] = (
    (
        aiohttp.ClientHttpProxyError,
        ClusterError,
        "the proxy {proxy} refused: {reason}",
        "ask who runs it, or name the API server in NO_PROXY",
    ),
    (
        aiohttp.ClientProxyConnectionError,
        UnreachableError,
        "the proxy {proxy} can't be reached: {reason}",
        "correct it, or name the API server in NO_PROXY",
    ),
    (
        aiohttp.ClientConnectorDNSError,
        UnreachableError,
        "its name can't be resolved: {reason}",
        "is it spelled right, and does DNS work on this machine?",
    ),
    (
        aiohttp.ClientConnectorSSLError,
        ClusterError,
        "TLS failed: {reason}",
        "is it https, and does it want a client certificate?",
    ),
    (
        aiohttp.ClientConnectorError,
        UnreachableError,
        "can't be reached: {reason}",
        "does it run, and is that its address?",
    ),
    (
        aiohttp.ConnectionTimeoutError,
        UnreachableError,
        "no connection{through} within {connect} s",
        "is that its address, and is a firewall on the way?",
    ),
    (
        aiohttp.SocketTimeoutError,
        ReadTimeoutError,
        "silent{through} for {seconds:g} s",
        "does a firewall drop idle connections, or is it overloaded?",
    ),
    (
        aiohttp.ServerDisconnectedError,
        ClusterError,
        "closed the connection{through} without an answer",
        "its log says why: a restart, or no client certificate?",
    ),
    (aiohttp.ClientPayloadError, ClusterError, "the answer broke off{through}", "does it restart? Its log says why"),
    (
        aiohttp.ClientResponseError,
        ClusterError,
        "what answers{through} doesn't speak HTTP: {reason}",
        "is it https, or another port?",
    ),
    (aiohttp.InvalidURL, ClusterError, "can't be asked by that URL", "write https://HOST:PORT"),
    (TimeoutError, ClusterError, "no whole answer{through} within {seconds:g} s", "is it overloaded? Its log says why"),
    (OSError, ClusterError, "the connection{through} was lost: {reason}", "does it restart? Its log says why"),
    (Exception, ClusterError, "failed{through}: {reason}", "see whether kubectl gets an answer"),
)


def in_words(error: Exception, access: ClientConfig, proxy: str, seconds: float) -> ClusterError:
    """Make a failure of aiohttp's the error that people read.

    proxy:   the one that was asked, or empty
    seconds: how long an answer, or the next piece of it, was waited for
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason, hint = _untrusted(error.certificate_error, access)
        return ClusterError(f"{server_prefix(access)}{' '.join(reason.split())}", hint=hint)
    kind, words, hint = next((kind, words, hint) for fits, kind, words, hint in _WORDS if isinstance(error, fits))
    shown = without_password(proxy)
    through = f" through the proxy {shown}" if proxy else ""
    reason = words.format(proxy=shown, through=through, reason=_reason(error), seconds=seconds, connect=CONNECT_SECONDS)
    return kind(f"{server_prefix(access)}{' '.join(reason.split())}", hint=hint)


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
            # The parser's: its further lines show the bytes, and the status is its own, nobody's answer.
            return error.message.partition("\n")[0]
        case OSError():
            return _system(error)
    return str(error) or type(error).__name__


def _untrusted(error: Exception, access: ClientConfig) -> tuple[str, str]:
    """Return why a server's certificate isn't trusted, and what to do."""
    reason = getattr(error, "verify_message", "") or str(error)
    if "mismatch" in reason:
        return f"its certificate is for another name: {reason}", "write the name that it has as tls-server-name"
    trusted = access.ca_file or ("the CA in the kubeconfig" if access.ca else "the system's CAs")
    return f"its certificate isn't trusted by {trusted}: {reason}", "write the CA that signed it, or have it renewed"


def _system(error: OSError) -> str:
    """Say the system's reason, or OpenSSL's without code and line."""
    text = error.strerror or str(error)
    # What OpenSSL says has a number of its own, and so have failures of name resolution.
    if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError) and not text.startswith("["):
        return os.strerror(error.errno)
    return re.sub(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$", "", text) or type(error).__name__
