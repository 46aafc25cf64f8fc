"""The TLS context: it follows its files, and invalid files are reported."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from asyncinotify import Inotify, Mask

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
    assert trust.problem == ""
    assert trust.context(access) is first
    assert "can't be loaded" in trust.problem
    assert trust.problem.endswith("; what was read before is used")
    shown.write_text(other.read_text())
    assert trust.context(access) is not first, "now both are there"
    assert trust.problem == ""
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


@pytest.fixture
def system_authorities(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], bool]]:
    """Put a file in the place of the system's CAs; return whether it was opened since the last call."""
    file = tmp_path / "system.pem"
    file.write_text(authority.file.read_text())
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with Inotify(sync_timeout=0) as watch:
        watch.add_watch(file, Mask.OPEN)
        yield lambda: next(iter(watch), None) is not None


def test_the_systems_authorities_are_trusted_where_none_is_named(system_authorities: Callable[[], bool]) -> None:
    context = TLSContextCache().context(ClientConfig(server="https://a", origin="here"))
    assert system_authorities()
    assert context.cert_store_stats()["x509_ca"] >= 1
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        pytest.param(("ca_file",), None, id="no CA file"),
        pytest.param(("ca_file",), "no PEM", id="a CA file that is no PEM"),
        pytest.param(("ca_file",), "", id="an empty CA file"),
        pytest.param(("certificate_file", "key_file"), None, id="no client certificate"),
        pytest.param(("certificate_file", "key_file"), "no PEM", id="a client certificate that is no PEM"),
    ],
)
def test_a_file_that_can_not_be_used_costs_no_reading_of_the_systems_authorities(
    tmp_path: Path, system_authorities: Callable[[], bool], fields: tuple[str, ...], content: str | None
) -> None:
    """Each watch tries again and again: this took a tenth of a CPU."""
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    access = ClientConfig(server="https://a", origin="here", **dict.fromkeys(fields, str(file)))  # type: ignore[arg-type] # texts all
    with pytest.raises(ClusterError, match=re.escape(str(file))):
        TLSContextCache().context(access)
    assert not system_authorities()


def test_an_emptied_ca_file_does_not_make_the_systems_authorities_trusted(tmp_path: Path, authority: Authority) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    access = ClientConfig(server="https://a", origin="here", ca_file=str(ca))
    trust = TLSContextCache()
    with pytest.raises(ClusterError, match="is not a PEM certificate"):
        trust.context(access)
    ca.write_text(authority.file.read_text())
    whole = trust.context(access)
    ca.write_text("")
    assert trust.context(access) is whole
