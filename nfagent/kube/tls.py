"""TLS towards the API server: whom to trust, who we are, and both anew when the files rotate."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from nfagent.errors import ClusterError
from nfagent.kube.credentials import ClientConfig

FileFingerprint: TypeAlias = tuple[int, int, int] | None
"""Inode, size and time of the last change of a file; None where it isn't there. A rename changes the first."""


def stamps(paths: tuple[str, ...]) -> tuple[FileFingerprint, ...]:
    """Look at files as cheaply as it goes, a few microseconds each: what differs was written or replaced."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: str) -> FileFingerprint:
    try:
        seen = os.stat(path)  # noqa: PTH116 - three times as fast as Path's, and done for every request
    except OSError:
        return None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


class TLSContextCache:
    """The TLS context for the access at hand.

    Connections that live keep theirs; aiohttp opens a new one for a context that it hasn't seen.
    """

    def __init__(self) -> None:
        self._made: tuple[ClientConfig, tuple[FileFingerprint, ...], ssl.SSLContext] | None = None

    def forget(self) -> None:
        """Make a new context next time, and so new connections, even where no file changed."""
        self._made = None

    def context(self, access: ClientConfig) -> ssl.SSLContext:
        """Give the context, a new one when a file of the access changed.

        Files in the middle of a rotation (a key that doesn't fit yet) leave the old one in use.
        Raises ClusterError where there is no old one.
        """
        now = stamps(tuple(filter(None, (access.ca_file, access.certificate_file, access.key_file))))
        if self._made is not None and self._made[:2] == (access, now):
            return self._made[2]
        try:
            made = _context(access)
        except ClusterError:
            if self._made is None or self._made[0] != access:
                raise
            return self._made[2]
        self._made = access, now, made
        return made


def _context(access: ClientConfig) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    try:
        if access.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif authorities := access.ca or _text(access.ca_file):
            # Only these count: the system's own may sign for anybody.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.set_alpn_protocols(["http/1.1"])
            context.load_verify_locations(cadata=authorities)
            # As Go has it: a listed certificate is trusted whoever signed it, be it no root.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    except (ssl.SSLError, ValueError) as error:
        raise ClusterError(
            f"{access.origin}: the CA{_in(access.ca_file)} is no PEM certificate ({_reason(error)})",
            hint="write the one that signed the API server's certificate",
        ) from error
    certificate = access.certificate or _text(access.certificate_file)
    key = access.key or _text(access.key_file)
    if certificate or key:
        _present(context, certificate, key, access)
    return context


def _present(context: ssl.SSLContext, certificate: str, key: str, access: ClientConfig) -> None:
    try:
        with _as_file(certificate) as certificate_path, _as_file(key) as key_path:
            # The password answers OpenSSL's question for one, which it would else ask on the terminal.
            context.load_cert_chain(certificate_path, key_path, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ClusterError(
            f"{access.origin}: the client certificate{_in(access.certificate_file)} and its key"
            f"{_in(access.key_file)} can't be used ({_reason(error)})",
            hint="both must be PEM, belong together, and have no pass phrase",
        ) from error


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """Put a text into memory under a path: OpenSSL reads keys from files only, and no disk is to have this one."""
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
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ClusterError(f"{path}: {error.strerror}; it is needed to ask the API server") from error
    except ValueError as error:
        raise ClusterError(f"{path}: is no PEM file; it is needed to ask the API server") from error


def _in(path: str) -> str:
    return f" in {path}" if path else ""


def _reason(error: Exception) -> str:
    """OpenSSL's reason without its module, line and code."""
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if isinstance(reason, str) else str(error).splitlines()[0]
