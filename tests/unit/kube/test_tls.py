"""The TLS context: it follows its files, and invalid files are reported."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from nfagent.errors import ClusterError
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.tls import TLSContextCache
from tests.support.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Path:
    return authority.certificate("node")


@pytest.fixture(scope="module")
def other(authority: Authority) -> Path:
    return authority.certificate("other")


def test_a_context_stays_while_the_files_stay_and_goes_with_them(
    tmp_path: Path, authority: Authority, certificate: Path, other: Path
) -> None:
    ca, current = tmp_path / "ca.pem", tmp_path / "current.pem"
    ca.write_text(authority.file.read_text())
    current.symlink_to(certificate)
    access = ClientConfig(
        server="https://a", origin="o", ca_file=str(ca), certificate_file=str(current), key_file=str(current)
    )
    trust = TLSContextCache()
    first = trust.context(access)
    assert trust.context(msgspec.structs.replace(access)) is first
    (tmp_path / "next").symlink_to(other)
    (tmp_path / "next").rename(current)
    second = trust.context(access)
    assert second is not first, "as the kubelet rotates: another target for the link"
    ca.write_text(authority.file.read_text() * 2)
    third = trust.context(access)
    assert third is not second
    trust.clear()
    assert trust.context(access) is not third


def test_during_a_rotation_the_old_context_stays_in_use(tmp_path: Path, certificate: Path, other: Path) -> None:
    shown, key = tmp_path / "shown.pem", tmp_path / "key.pem"
    shown.write_text(certificate.read_text())
    key.write_text(certificate.with_suffix(".key").read_text())
    access = ClientConfig(server="https://a", origin="o", certificate_file=str(shown), key_file=str(key))
    trust = TLSContextCache()
    first = trust.context(access)
    key.write_text(other.with_suffix(".key").read_text())
    assert trust.context(access) is first
    shown.write_text(other.read_text())
    assert trust.context(access) is not first, "now both are there"
    with pytest.raises(ClusterError):
        trust.context(msgspec.structs.replace(access, key_file="/none"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"ca": "nonsense"}, "here: the CA is not a PEM certificate (", id="an invalid CA"),
        pytest.param(
            {"ca_file": "/none"},
            "/none: No such file or directory; the connection to the API server needs",
            id="a missing CA file",
        ),
        pytest.param(
            {"certificate": "x", "key": "x"},
            "here: the client certificate and its key can't be loaded (",
            id="an invalid certificate",
        ),
        pytest.param({"certificate_file": "/none", "key": "x"}, "/none: No such file", id="a missing certificate file"),
    ],
)
def test_an_invalid_file_is_reported(fields: dict[str, str], words: str) -> None:
    with pytest.raises(ClusterError) as caught:
        TLSContextCache().context(ClientConfig(server="https://a", origin="here", **fields))  # type: ignore[arg-type] # texts all
    assert str(caught.value).startswith(words)


def test_a_key_of_another_certificate_is_reported(certificate: Path, other: Path) -> None:
    key = other.with_suffix(".key").read_text()
    access = ClientConfig(server="https://a", origin="here", certificate_file=str(certificate), key=key)
    with pytest.raises(ClusterError) as caught:
        TLSContextCache().context(access)
    assert f"the client certificate in {certificate} and its key can't be loaded (key values mismatch)" in str(
        caught.value
    )


def test_a_key_with_a_pass_phrase_is_reported_without_a_prompt(certificate: Path) -> None:
    key = certificate.with_suffix(".key")
    locked = subprocess.run(
        ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:x"], check=True, capture_output=True, text=True
    ).stdout
    access = ClientConfig(server="https://a", origin="here", certificate_file=str(certificate), key=locked)
    with pytest.raises(ClusterError, match="and have no pass phrase"):
        TLSContextCache().context(access)


def test_no_file_is_left_open(certificate: Path) -> None:
    access = ClientConfig(server="https://a", origin="o", certificate_file=str(certificate), key_file=str(certificate))
    TLSContextCache().context(access)
    before = len(list(Path("/proc/self/fd").iterdir()))
    TLSContextCache().context(access)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
