"""Validity periods of tokens and certificates."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.kube.certificate_expiry import Validity, certificate_validity, token_validity

OF_2026 = """\
-----BEGIN CERTIFICATE-----
MIIBPDCB46ADAgECAgEDMAoGCCqGSM49BAMCMBExDzANBgNVBAMMBm5vZGUtYTAe
Fw0yNjAxMDEwMDAwMDBaFw0yNzAxMDEwMDAwMDBaMBExDzANBgNVBAMMBm5vZGUt
YTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABERo3XiHAWNTDoqotP+kwS4dDD58
6cghycHvkIHwUQv4bl1BSgbM3OdVa6TPpDWQnsz6bkwgjL/fpjrnJxaDSoGjLDAq
MAkGA1UdEwQCMAAwHQYDVR0OBBYEFApuYugZyPYWdNTgwHFau7vBcZEUMAoGCCqG
SM49BAMCA0gAMEUCIH7wFP4JXxMArh0lPJEMTQiWc4Sg/8EDpaKMWcVxAM5YAiEA
5loqoqABoUgYTy9pPj7/NYD5NGV2Yu8KZfAlgmRr5UM=
-----END CERTIFICATE-----
"""
"""Of the year 2026, X.509 version 3."""

ENDLESS = """\
-----BEGIN CERTIFICATE-----
MIIBCzCBsgIBAjAKBggqhkjOPQQDAjARMQ8wDQYDVQQDDAZub2RlLWEwIBcNOTkx
MjMxMjM1OTU5WhgPOTk5OTEyMzEyMzU5NTlaMBExDzANBgNVBAMMBm5vZGUtYTBZ
MBMGByqGSM49AgEGCCqGSM49AwEHA0IABERo3XiHAWNTDoqotP+kwS4dDD586cgh
ycHvkIHwUQv4bl1BSgbM3OdVa6TPpDWQnsz6bkwgjL/fpjrnJxaDSoEwCgYIKoZI
zj0EAwIDSAAwRQIhAM1Gj4nHpU72JaKH24VZdaL1tMMqHuUw4ILR4+ap6DjJAiAZ
vzYsMGprjR9pZCAJIos3U7cu5teW1GzKnk87XkpNgQ==
-----END CERTIFICATE-----
"""
"""From the last second of 1999 to that of 9999, X.509 version 1: UTCTime and GeneralizedTime."""

DER = base64.b64decode("".join(OF_2026.splitlines()[1:-1]))
NOW = 1_000_000.0
HOUR, DAY = 3600.0, 86400.0


def token(**claims: object) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


def pem(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"


def seconds(*moment: int) -> float:
    year, month, day, *rest = moment
    hour, minute, second = rest or (0, 0, 0)
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        pytest.param(OF_2026, seconds(2026, 1, 1), seconds(2027, 1, 1), id="a year"),
        pytest.param(
            ENDLESS,
            seconds(1999, 12, 31, 23, 59, 59),
            seconds(9999, 12, 31, 23, 59, 59),
            id="without an expiration date",
        ),
        pytest.param(f"a key before it\n{OF_2026}{ENDLESS}", seconds(2026, 1, 1), seconds(2027, 1, 1), id="a chain"),
    ],
)
def test_the_validity_of_a_certificate(text: str, begin: float, end: float) -> None:
    assert certificate_validity(text) == Validity(begin, end)


@pytest.mark.parametrize("text", ["", "no PEM", pem(b""), pem(b"\x30\x03abc"), OF_2026.replace("MII", "???")])
def test_what_is_no_certificate_has_no_validity(text: str) -> None:
    assert certificate_validity(text) is None


@given(st.integers(0, len(DER) - 1), st.integers(0, 255), st.integers(0, len(DER)))
def test_a_damaged_certificate_has_a_validity_or_none(place: int, byte: int, length: int) -> None:
    damaged = (DER[:place] + bytes([byte]) + DER[place + 1 :])[:length]
    found = certificate_validity(pem(damaged))
    assert found is None or isinstance(found.end, float)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(token(exp=NOW, iat=5), Validity(5, NOW), id="with beginning and end"),
        pytest.param(token(exp=NOW), Validity(None, NOW), id="with an end"),
        pytest.param(token(iat=5), None, id="without an end"),
        pytest.param(token(exp="soon"), None, id="with an end that is no number"),
        pytest.param(token(exp=1e300), None, id="with an end beyond the year 9999"),
        pytest.param("0123456789abcdef", None, id="that is no JSON Web Token"),
        pytest.param("a.b.c", None, id="of three parts that are not JSON"),
    ],
)
def test_the_validity_of_a_token(text: str, found: Validity | None) -> None:
    assert token_validity(text) == found


@given(st.text() | st.lists(st.text(), min_size=3, max_size=3).map(".".join))
def test_text_that_is_no_token_has_no_validity(text: str) -> None:
    assert token_validity(text) is None


@pytest.mark.parametrize(
    ("begin", "left", "rotated", "soon"),
    [
        pytest.param(None, 2 * DAY, False, False, id="two days left"),
        pytest.param(None, 23 * HOUR, False, True, id="less than a day left"),
        pytest.param(None, -HOUR, False, True, id="expired"),
        pytest.param(-HOUR / 2, HOUR / 2, True, False, id="an hour's lifetime, rotated, at its half"),
        pytest.param(-HOUR, 0.05 * HOUR, True, True, id="an hour's lifetime, rotated too late"),
        pytest.param(-HOUR / 2, HOUR / 2, False, True, id="an hour's lifetime, not rotated"),
        pytest.param(-300 * DAY, 2 * DAY, True, False, id="a year's lifetime, rotated, two days before its end"),
    ],
)
def test_a_credential_ends_soon(begin: float | None, left: float, rotated: bool, soon: bool) -> None:  # noqa: FBT001 - a column of the table
    validity = Validity(None if begin is None else NOW + begin, NOW + left)
    assert validity.ends_soon(NOW, rotated=rotated) is soon
