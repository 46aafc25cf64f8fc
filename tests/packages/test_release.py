"""`make release` of a commit of this tree by a throwaway key: files, sums, signature, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from cyclonedx.model.bom import Bom

from nfagent import __version__
from tests.support.deployed_objects import program

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("minisign") is None, reason="minisign isn't installed"),
]

ROOT = Path(__file__).parents[2]
_AUTHOR = ("-c", "user.name=Test", "-c", "user.email=test@example.invalid")


class Key(NamedTuple):
    """A pair of keys, whose secret one has no password."""

    secret: Path
    public: Path


def new_key(folder: Path) -> Key:
    folder.mkdir()
    key = Key(folder / "secret", folder / "public")
    command = ["minisign", "-G", "-W", "-s", str(key.secret), "-p", str(key.public)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return key


def git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *_AUTHOR, *arguments], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def release(checkout: Path, key: str) -> subprocess.CompletedProcess[str]:
    command = [str(checkout / "packaging/release/create"), sys.executable, key]
    # Where `make helm` was run, the chart is made too.
    environment = os.environ | {"PATH": f"{ROOT / 'build/kubernetes'}:{os.environ['PATH']}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)


def verified(folder: Path, key: Path) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "packaging/release/verify"), str(folder), str(key)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def commit_of_this_tree(folder: Path) -> Path:
    """Commit the files of this tree, as a released version, in a repository of their own."""
    subprocess.run([str(ROOT / "packaging/source"), str(folder)], check=True, capture_output=True, timeout=60)
    changelog = folder / "CHANGELOG.md"
    text = changelog.read_text("utf-8").replace(f"## {__version__} (unreleased)", f"## {__version__} (2026-01-31)", 1)
    changelog.write_text(text, encoding="utf-8")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A release", "--date", "2026-01-31T12:00:00Z")
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return commit_of_this_tree(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return new_key(tmp_path_factory.mktemp("keys") / "ours")


@pytest.fixture(scope="module")
def files(checkout: Path, key: Key) -> Path:
    """Return the folder with the files of the release."""
    done = release(checkout, str(key.secret))
    assert done.returncode == 0, done.stderr
    assert "left out, since it wasn't made of this commit: the Debian package (make deb)" in done.stderr
    return checkout / "build/release" / __version__


@pytest.fixture
def copy(files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(files, tmp_path / "copy"))


def sums(folder: Path) -> dict[str, str]:
    lines = (folder / "SHA256SUMS").read_text("ascii").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def test_every_file_is_in_the_sums_and_the_sums_are_signed(files: Path, key: Key) -> None:
    there = {path.name for path in files.iterdir()}
    assert there - {"SHA256SUMS", "SHA256SUMS.minisig"} == set(sums(files))
    assert there >= {f"nfagent-{__version__}{end}" for end in (".tar.gz", "-py3-none-any.whl", ".cdx.json")}
    assert (f"nfagent-chart-{__version__}.tgz" in there) == (program("helm") is not None)
    done = verified(files, key.public)
    assert (done.returncode, done.stdout) == (0, f"nfagent {__version__}, commit {git(files, 'rev-parse', 'HEAD')}\n")


def _change(folder: Path) -> None:
    with (folder / f"nfagent-{__version__}.tar.gz").open("ab") as opened:
        opened.write(b"more")


def _add(folder: Path) -> None:
    (folder / "nfagent-extra.whl").write_bytes(b"")


def _link(folder: Path) -> None:
    (folder / "nfagent-extra.whl").symlink_to(folder / f"nfagent-{__version__}-py3-none-any.whl")


def _nest(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "SHA256SUMS").write_bytes(b"")


def _sum_anew(folder: Path) -> None:
    _change(folder)
    content = (folder / f"nfagent-{__version__}.tar.gz").read_bytes()
    text = (folder / "SHA256SUMS").read_text("ascii")
    changed = text.replace(sums(folder)[f"nfagent-{__version__}.tar.gz"], hashlib.sha256(content).hexdigest())
    (folder / "SHA256SUMS").write_text(changed, encoding="ascii")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(_change, f"nfagent-{__version__}.tar.gz: FAILED", id="a file that was changed"),
        pytest.param(_add, "not listed in SHA256SUMS: nfagent-extra.whl", id="a file that was put beside them"),
        pytest.param(_link, "not listed in SHA256SUMS: nfagent-extra.whl", id="a link that was put beside them"),
        pytest.param(_nest, "not listed in SHA256SUMS: more/SHA256SUMS", id="sums in a folder beside them"),
        pytest.param(_sum_anew, "the signature of SHA256SUMS is not by this key", id="sums that were changed with it"),
    ],
)
def test_verify_refuses(copy: Path, key: Key, damage: Callable[[Path], None], said: str) -> None:
    assert verified(copy, key.public).returncode == 0
    damage(copy)
    done = verified(copy, key.public)
    assert (done.returncode, said in done.stdout + done.stderr) == (1, True), done.stderr


def test_verify_refuses_the_signature_of_another_key(files: Path, tmp_path: Path) -> None:
    assert verified(files, new_key(tmp_path / "theirs").public).returncode == 1


def test_the_bill_of_materials_has_every_locked_package_with_the_hashes_of_its_files(files: Path) -> None:
    document = json.loads((files / f"nfagent-{__version__}.cdx.json").read_text("utf-8"))
    bom: Bom = vars(Bom)["from_json"].__get__(None, Bom)(document)
    found = {f"{one.name}=={one.version}" for one in bom.components if one.purl.type == "pypi"}
    lock = (ROOT / "requirements.txt").read_text("utf-8")
    assert found == set(re.findall(r"^[\w.-]+==[\w.]+", lock, re.MULTILINE))
    listed = {
        digest["content"]
        for component in document["components"]
        for reference in component.get("externalReferences", ())
        for digest in reference["hashes"]
    }
    assert listed == set(re.findall(r"--hash=sha256:([0-9a-f]{64})", lock))
    needed = {one["ref"]: one.get("dependsOn", []) for one in document["dependencies"]}
    assert {"pypi/aiohttp", "pypi/msgspec", "deb/python3-nftables"} <= set(needed["nfagent"])
    assert "pypi/yarl" in needed["pypi/aiohttp"]


def test_the_bill_of_materials_says_what_it_is_about_and_who_made_it(files: Path) -> None:
    about = json.loads((files / f"nfagent-{__version__}.cdx.json").read_text("utf-8"))["metadata"]
    component = about["component"]
    assert component["purl"] == f"pkg:pypi/nfagent@{__version__}"
    assert component["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert component["properties"] == [{"name": "nfagent:commit", "value": git(files, "rev-parse", "HEAD")}]
    assert about["authors"] == [{"name": "make release of nfagent"}]
    # The time of the commit, in any zone.
    assert datetime.fromisoformat(about["timestamp"]) == datetime.fromisoformat(git(files, "log", "-1", "--format=%cI"))


def test_the_provenance_has_the_commit_and_the_digest_of_every_other_file(files: Path) -> None:
    statement = json.loads((files / f"nfagent-{__version__}.provenance.json").read_text("utf-8"))
    digests = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert digests == {name: digest for name, digest in sums(files).items() if not name.endswith(".provenance.json")}
    (source, *_) = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert source["digest"]["gitCommit"] == git(files, "rev-parse", "HEAD")


def test_nothing_of_the_key_or_of_this_machine_is_in_the_files(files: Path, key: Key, checkout: Path) -> None:
    secret = key.secret.read_text("ascii").splitlines()[1].encode()
    for path in files.glob("*.tar.gz"):
        with tarfile.open(path) as opened:
            content = b"".join(found.read() for member in opened if (found := opened.extractfile(member)) is not None)
        assert secret not in content
    for path in files.glob("*.json"):
        assert str(checkout) not in path.read_text("utf-8")


def test_another_checkout_of_the_commit_gives_the_same_files(
    checkout: Path, files: Path, key: Key, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "--quiet", str(checkout), "elsewhere")
    done = release(tmp_path / "elsewhere", str(key.secret))
    assert done.returncode == 0, done.stderr
    # The chart is there where Helm is: the same in both.
    assert sums(tmp_path / "elsewhere/build/release" / __version__) == sums(files)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def clone(checkout: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "--quiet", str(checkout), "clone")
    return tmp_path / "clone"


def test_no_key_is_refused(clone: Path) -> None:
    assert "KEY=FILE names the secret key" in _refused(clone, "")


def test_a_key_that_is_missing_is_refused(clone: Path, tmp_path: Path) -> None:
    assert "there is no such file" in _refused(clone, str(tmp_path / "none"))


def test_a_key_inside_of_the_checkout_is_refused(clone: Path, key: Key) -> None:
    shutil.copy(key.secret, clone / "build-key")
    assert "inside of the checkout" in _refused(clone, str(clone / "build-key"))


def test_what_is_not_committed_is_refused_by_name(clone: Path, key: Key) -> None:
    _write(clone / "nfagent" / "new.py", "")
    assert "nfagent/new.py" in _refused(clone, str(key.secret))


def test_a_package_of_files_that_are_not_committed_has_another_version(clone: Path) -> None:
    def version() -> str:
        command = [str(clone / "packaging/version")]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    committed = version()
    _write(clone / "nfagent" / "new.py", "")
    assert version() == f"{committed}+changed"


@pytest.mark.parametrize("name", ["deb/nfagent_{}_{}.deb", "offline/nfagent-offline-{}-{}.tar"])
def test_a_package_that_is_cut_short_is_refused(clone: Path, key: Key, name: str) -> None:
    commands = ([str(clone / "packaging/version")], ["dpkg", "--print-architecture"])
    words = [subprocess.run(each, check=True, capture_output=True, text=True, timeout=30).stdout for each in commands]
    package = clone / "build" / name.format(*map(str.strip, words))
    package.parent.mkdir(parents=True)
    _write(package, "!<arch>\ndebian-binary   ")
    done = release(clone, str(key.secret))
    assert (done.returncode, f"{package.name} is cut short" in done.stderr) == (2, True)
    assert not (clone / "build/release" / __version__ / "SHA256SUMS").exists()


def _deb(clone: Path, name: str = "", version: str = "", architecture: str = "") -> Path:
    """Build a package without files under the name that `make deb` gives it, with other fields where they are given."""
    commands = ([str(clone / "packaging/version")], ["dpkg", "--print-architecture"])
    words = [subprocess.run(each, check=True, capture_output=True, text=True, timeout=30).stdout for each in commands]
    own, here = map(str.strip, words)
    package = clone / "build/deb" / f"nfagent_{own}_{here}.deb"
    (clone / "build/deb/tree/DEBIAN").mkdir(parents=True)
    fields = {"Package": name or "nfagent", "Version": version or own, "Architecture": architecture or here}
    text = "".join(f"{key}: {value}\n" for key, value in fields.items())
    _write(
        clone / "build/deb/tree/DEBIAN/control", f"{text}Maintainer: Test <test@example.invalid>\nDescription: none\n"
    )
    command = ["dpkg-deb", "--root-owner-group", "--build", str(clone / "build/deb/tree"), str(package)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return package


@pytest.mark.parametrize(
    "fields",
    [{"name": "nfagent-old"}, {"version": "0.0.9"}, {"architecture": "all"}],
    ids=["another package", "another version", "another architecture"],
)
def test_a_package_that_is_another_one_than_its_name_says_is_refused(
    clone: Path, key: Key, fields: dict[str, str]
) -> None:
    package = _deb(clone, **fields)
    done = release(clone, str(key.secret))
    assert done.returncode == 2
    assert f"{package.name} is " in done.stderr
    assert next(iter(fields.values())) in done.stderr
    assert "make it again: the Debian package (make deb)" in done.stderr
    assert not (clone / "build/release" / __version__ / "SHA256SUMS").exists()


def test_a_package_of_the_commit_is_taken_along(clone: Path, key: Key) -> None:
    package = _deb(clone)
    done = release(clone, str(key.secret))
    assert done.returncode == 0, done.stderr
    assert (clone / "build/release" / __version__ / package.name).read_bytes() == package.read_bytes()


def test_a_version_that_the_changelog_calls_unreleased_is_refused(clone: Path, key: Key) -> None:
    changelog = clone / "CHANGELOG.md"
    _write(changelog, changelog.read_text("utf-8").replace("(2026-01-31)", "(unreleased)", 1))
    git(clone, "commit", "--quiet", "--all", "--message", "Not yet")
    assert "the version is unreleased" in _refused(clone, str(key.secret))


def test_a_tag_of_another_version_is_refused(clone: Path, key: Key) -> None:
    git(clone, "tag", "v9.9.9")
    assert "tag is v9.9.9" in _refused(clone, str(key.secret))


def _refused(checkout: Path, key: str) -> str:
    done = release(checkout, key)
    assert done.returncode == 2
    assert not (checkout / "build/release").exists()
    return done.stderr
