"""When credentials end, as far as they say so themselves. Nothing is verified here: that is the API server's part."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime

import msgspec

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_DAY = 86400.0
_SEQUENCE, _EXPLICIT, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_PART = 0.1
_LAST = 253402300799.0
"""The end of the year 9999: RFC 5280's word for never."""


class Validity(msgspec.Struct, frozen=True):
    """From when until when, in seconds since the epoch; `begin` is None where it isn't said."""

    begin: float | None
    end: float

    def ends_soon(self, now: float, *, rotated: bool) -> bool:
        """Tell whether somebody must look after it: it ends within a day.

        rotated: somebody replaces it in time, so a short one is no worry until a tenth of its life is left
        """
        left = self.end - now
        if rotated and self.begin is not None:
            return left < min(_DAY, (self.end - self.begin) * _PART)
        return left < _DAY


class _Claims(msgspec.Struct):
    exp: float
    iat: float | None = None


def token_validity(token: str) -> Validity | None:
    """Read a JSON Web Token (RFC 7519); None for another sort of token, and for one without an end."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = msgspec.json.decode(payload, type=_Claims)
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError):
        return None
    return Validity(claims.iat, claims.exp) if 0 <= claims.exp <= _LAST else None


def certificate_validity(pem: str) -> Validity | None:
    """Read the first certificate of a PEM text: of a chain, the owner's. None where there is none to be read."""
    found = _CERTIFICATE.search(pem)
    if found is None:
        return None
    try:
        return _validity(base64.b64decode("".join(found[1].split()), validate=True))
    except (binascii.Error, ValueError, IndexError):
        return None


def _validity(der: bytes) -> Validity:
    """Walk to the Validity of a Certificate. Source: RFC 5280, section 4.1. Raises ValueError, IndexError."""
    certificate, _ = _value(der, _SEQUENCE)
    rest, _ = _value(certificate, _SEQUENCE)
    if rest[0] == _EXPLICIT:
        _, rest = _value(rest)  # version
    for _ in ("serialNumber", "signature", "issuer"):
        _, rest = _value(rest)
    times, _ = _value(rest, _SEQUENCE)
    begin, times = _time(times)
    end, _ = _time(times)
    return Validity(begin, end)


def _time(der: bytes) -> tuple[float, bytes]:
    tag = der[0]
    content, rest = _value(der)
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        # Two figures of a year: 50 to 99 are of the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp(), rest


def _value(der: bytes, wanted: int | None = None) -> tuple[bytes, bytes]:
    """Give the content of the first value, and what follows it. Source: X.690, section 8.1."""
    if wanted is not None and der[0] != wanted:
        raise ValueError("another tag")
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if start + length > len(der):
        raise ValueError("cut off")
    return der[start : start + length], der[start + length :]
