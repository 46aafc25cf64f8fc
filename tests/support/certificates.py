"""A CA and its certificates for tests with TLS on loopback, made by the `openssl` command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

SERVER_NAMES = "IP:127.0.0.1,DNS:kubernetes.default.svc"


class Authority:
    """A CA. Each certificate is a PEM file that also has the key."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("needs the command openssl: apt-get install openssl")
        self._folder = folder
        self.file = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._openssl(
            "req", "-x509", *NEW_KEY, "-keyout", self._key, "-out", self.file, "-days", "2", "-subj", "/CN=ca"
        )

    def certificate(self, name: str, alternatives: str = SERVER_NAMES, days: int = 2) -> Path:
        """Return the file of a new certificate with subject alternative names; days below 0: an expired one."""
        request, key, file = (self._folder / f"{name}.{kind}" for kind in ("csr", "key", "pem"))
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternatives}\n")
        self._openssl("req", *NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signed_by = ("-CA", self.file, "-CAkey", self._key, "-CAcreateserial")
        lasting = ("-days", str(days), "-extfile", extensions)
        self._openssl("x509", "-req", "-in", request, "-out", file, *signed_by, *lasting)
        file.write_text(file.read_text() + key.read_text())
        return file

    def serving(self, name: str = "server", *, clients: bool = False) -> ssl.SSLContext:
        """Return a server's TLS context; clients: it requires client certificates of this CA."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        file = self._folder / f"{name}.pem"
        context.load_cert_chain(file if file.exists() else self.certificate(name))
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.file)
        return context

    @staticmethod
    def _openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
