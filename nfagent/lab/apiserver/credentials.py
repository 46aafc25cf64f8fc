"""Credentials of a lab's API server: bearer tokens, the signing key of service account tokens, kubeconfigs."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from nfagent.errors import UsageError

ADMIN = "admin"
UNPRIVILEGED = "nobody"  # codespell:ignore nobody
USERS: Mapping[str, Sequence[str]] = {ADMIN: ("system:masters",), UNPRIVILEGED: ()}
"""The users of every control plane, with their groups: one with all rights, one without any."""


class Credentials:
    """The users of one API server, and their credentials' files."""

    def __init__(self, folder: Path, users: Mapping[str, Sequence[str]]) -> None:
        """Generate tokens for USERS and further users with their groups; `write` writes the files."""
        self._folder = folder
        self._groups = {**USERS, **users}
        self._tokens = {name: secrets.token_hex(16) for name in self._groups}
        self.tokens_file = folder / "tokens.csv"
        self.signing_key_file = folder / "service-accounts.pem"

    def write(self) -> None:
        """Write the files that the server reads when it starts."""
        # kube-apiserver --token-auth-file: token, user, user's id, "group,group".
        rows = (f'{self._tokens[name]},{name},{name},"{",".join(of)}"\n' for name, of in self._groups.items())
        _write_secret(self.tokens_file, "".join(rows))
        _write_secret(self.signing_key_file, _signing_key())

    def token_for(self, user: str) -> str:
        """Return a user's bearer token. Raises UsageError."""
        if user not in self._tokens:
            raise UsageError(
                f"no user {user!r} here, only {', '.join(self._tokens)}: pass further users to ControlPlane"
            )
        return self._tokens[user]

    def kubeconfig(self, user: str, token: str, server: str, ca_file: Path) -> Path:
        """Write a kubeconfig with a bearer token, under a user's name; return its path."""
        cluster = {"server": server, "certificate-authority": str(ca_file.resolve())}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        }
        path = self._folder / f"{user.replace(':', '-')}.kubeconfig"
        _write_secret(path, yaml.safe_dump(document, sort_keys=False))
        return path


def _write_secret(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text, encoding="utf-8")


def _signing_key() -> str:
    """Return a new P-256 key, as PEM of an ECPrivateKey without the optional public key (RFC 5915)."""
    # Above zero and below 2^255, so below the curve's order.
    scalar = bytes([secrets.randbelow(127) + 1]) + secrets.token_bytes(31)
    key = bytes.fromhex("30310201010420") + scalar + bytes.fromhex("a00a06082a8648ce3d030107")
    return f"-----BEGIN EC PRIVATE KEY-----\n{base64.encodebytes(key).decode()}-----END EC PRIVATE KEY-----\n"
