"""Validity periods of client credentials, as stated by the certificate or token itself.

No signature is verified here: the API server does that. Only `nfagent check --cluster` imports this module. Importing
`cryptography` takes 40 ms and 12 MiB, which the agent's process doesn't spend.
"""

from __future__ import annotations

import base64
import binascii

import msgspec
from cryptography.x509 import InvalidVersion, load_pem_x509_certificate

_DAY = 86400.0
_ROTATION_SHARE = 0.1
_MAX_TIME = 253402300799.0
"""The end of the year 9999: in RFC 5280, a certificate without an expiration date ends there."""


class Validity(msgspec.Struct, frozen=True):
    """A validity period, in seconds since the epoch; `begin` is None where it isn't stated."""

    begin: float | None
    end: float

    def ends_soon(self, now: float, *, rotated: bool) -> bool:
        """Return whether the credential should be renewed: it ends within a day.

        rotated: another program replaces it in time, so a short-lived one is reported only when a tenth of its
                 lifetime is left
        """
        left = self.end - now
        if rotated and self.begin is not None:
            return left < min(_DAY, (self.end - self.begin) * _ROTATION_SHARE)
        return left < _DAY


class _Claims(msgspec.Struct):
    exp: float
    iat: float | None = None


def token_validity(token: str) -> Validity | None:
    """Read the validity of a JSON Web Token (RFC 7519); None for other tokens, and for one without `exp`."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = msgspec.json.decode(payload, type=_Claims)
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError):
        return None
    return Validity(claims.iat, claims.exp) if 0 <= claims.exp <= _MAX_TIME else None


def certificate_validity(pem: str) -> Validity | None:
    """Read the validity of the first certificate in a PEM text, in a chain the owner's; None where it can't be read."""
    try:
        certificate = load_pem_x509_certificate(pem.encode())
        return Validity(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())
    except (ValueError, InvalidVersion):
        return None
