"""The TLS context for the API server: trusted CAs and client certificate, read again when the files rotate."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from nfagent.errors import ClusterError
from nfagent.kube.credentials import ClientConfig
from nfagent.system.problem_log import log_problem
from nfagent.system.regular_file import read_regular

log = logging.getLogger(__name__)

FileFingerprint: TypeAlias = tuple[int, int, int] | None
"""Inode, size and modification time of a file; None where it doesn't exist. A rename over it changes the inode."""


def fingerprints(paths: tuple[str, ...]) -> tuple[FileFingerprint, ...]:
    """Return the fingerprints of files, which differ after a write or replacement; a few microseconds each."""
    return tuple(_fingerprint(path) for path in paths)


def _fingerprint(path: str) -> FileFingerprint:
    try:
        found = os.stat(path)  # noqa: PTH116 - three times as fast as Path's, and done for every request
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class TLSContextCache:
    """The TLS context of the current client config.

    Open connections keep their context; aiohttp opens a new connection for a new context.

    problem: why files of the client config can't be used, so that those of before are; '' where they can
    """

    def __init__(self) -> None:
        self.problem = ""
        self._cached: tuple[ClientConfig, tuple[FileFingerprint, ...], ssl.SSLContext] | None = None

    def clear(self) -> None:
        """Drop the context: the next request gets a new one and a new connection, even if no file changed."""
        self._cached = None

    def context(self, access: ClientConfig) -> ssl.SSLContext:
        """Return the context, a new one when a file of the client config changed.

        While files are being rotated (the key doesn't fit the certificate yet), the old context stays in use.
        Raises ClusterError where there is no old one.
        """
        now = fingerprints(tuple(filter(None, (access.ca_file, access.certificate_file, access.key_file))))
        if self._cached is not None and self._cached[:2] == (access, now):
            self._note("")
            return self._cached[2]
        try:
            context = _context(access)
        except ClusterError as error:
            if self._cached is None or self._cached[0] != access:
                raise
            self._note(f"{error}; what was read before is used")
            return self._cached[2]
        self._cached = access, now, context
        self._note("")
        return context

    def _note(self, problem: str) -> None:
        self.problem = log_problem(log, self.problem, problem)


def _context(access: ClientConfig) -> ssl.SSLContext:
    """Return a new context. Raises ClusterError.

    A file that can't be used is found before the system's CAs are read: they take 20 ms, at each try of each watch.
    """
    authorities = "" if access.insecure else access.ca or _text(access.ca_file)
    certificate = access.certificate or _text(access.certificate_file)
    key = access.key or _text(access.key_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    # As in Go: a listed certificate is trusted, even if it is not a root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if certificate or key:
        _load_client_certificate(context, certificate, key, access)
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif access.ca or access.ca_file:
        # Only these CAs: the system's may sign a certificate for any server.
        _load_authorities(context, authorities, access)
    else:
        context.load_default_certs()
    return context


def _load_authorities(context: ssl.SSLContext, authorities: str, access: ClientConfig) -> None:
    try:
        context.load_verify_locations(cadata=authorities)
    except (ssl.SSLError, ValueError) as error:
        raise ClusterError(
            f"{access.origin}: the CA{_in(access.ca_file)} is not a PEM certificate ({_reason(error)})",
            hint="write the CA that signed the API server's certificate",
        ) from error


def _load_client_certificate(context: ssl.SSLContext, certificate: str, key: str, access: ClientConfig) -> None:
    try:
        with _as_file(certificate) as certificate_path, _as_file(key) as key_path:
            # Without a password argument, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate_path, key_path, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ClusterError(
            f"{access.origin}: the client certificate{_in(access.certificate_file)} and its key"
            f"{_in(access.key_file)} can't be loaded ({_reason(error)})",
            hint="both must be PEM, belong together, and have no pass phrase",
        ) from error


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """Write a text into an anonymous file in memory: OpenSSL reads keys from files only, and none may reach a disk."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _text(path: str) -> str:
    if not path:
        return ""
    try:
        return read_regular(Path(path)).decode()
    except OSError as error:
        raise ClusterError(f"{path}: {error.strerror}", hint="the connection to the API server needs it") from error
    except ValueError as error:
        raise ClusterError(f"{path}: not a PEM file", hint="the connection to the API server needs it") from error


def _in(path: str) -> str:
    return f" in {path}" if path else ""


def _reason(error: Exception) -> str:
    """Return OpenSSL's reason without its module, line and code."""
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if isinstance(reason, str) else str(error).splitlines()[0]
