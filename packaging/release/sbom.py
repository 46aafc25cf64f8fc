"""Prints a software bill of materials, CycloneDX 1.6 as JSON: `sbom.py VERSION COMMIT EPOCH LOCK [DEBIAN]`.

LOCK is requirements.txt: every Python package with its version, the hashes of its files, and which others need it.
DEBIAN has the packages of the image, a line each: name, version, architecture; without it Debian's packages have no
version, since each machine brings its own. Licenses are those that installed packages name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalContact
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

_PACKAGE = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s\\;]+)", re.ASCII)
_HASH = re.compile(r"--hash=sha256:(?P<digest>[0-9a-f]{64})")
_NEEDED_BY = re.compile(r"^    #(?: via|  ) +(?P<name>\w[\w.-]*)")
_LICENSE_KEYS = ("License-Expression", "License")
_ROOT = "nfagent"
_LICENSE = "Apache-2.0"
_AUTHOR = "make release of nfagent"
# What `make install` and the Debian package need of Debian.
_OF_DEBIAN = ("python3", "python3-nftables", "nftables", "iproute2", "kmod")


class Locked(NamedTuple):
    """One package of a lock file."""

    name: str
    version: str
    digests: tuple[str, ...]
    needed_by: tuple[str, ...]


def locked(text: str) -> Iterator[Locked]:
    """Yield the packages of a lock file that pip-compile wrote."""
    for block in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]:
        found = _PACKAGE.match(block)
        if found is None:
            raise ValueError(f"requirements.txt: {block.splitlines()[0]!r} is no NAME==VERSION")
        needed_by = tuple(match["name"] for line in block.splitlines() if (match := _NEEDED_BY.match(line)))
        yield Locked(found["name"], found["version"], tuple(_HASH.findall(block)), needed_by)


def bill(version: str, commit: str, built: datetime, lock: str, debian: str) -> Bom:
    """Return the bill of materials. The same arguments give the same bill."""
    root = Component(
        name=_ROOT,
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=_ROOT,
        purl=PackageURL("pypi", None, _ROOT, version),
        licenses=[LicenseFactory().make_from_string(_LICENSE)],
    )
    root.properties.add(Property(name="nfagent:commit", value=commit))
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"nfagent/{commit}"))
    bom.metadata.timestamp, bom.metadata.component = built, root
    bom.metadata.authors.add(OrganizationalContact(name=_AUTHOR))
    packages = list(locked(lock))
    found = {package.name: _python(package) for package in packages}
    system = [_debian(*line.split()) for line in debian.splitlines()] or [_debian(name) for name in _OF_DEBIAN]
    for component in (*found.values(), *system):
        bom.components.add(component)
    needs: dict[str, list[Component]] = {}
    for package in packages:
        for name in package.needed_by:
            needs.setdefault(name, []).append(found[package.name])
    bom.register_dependency(root, [*needs.get(_ROOT, ()), *system])
    for name, component in found.items():
        bom.register_dependency(component, needs.get(name, ()))
    return bom


def _python(package: Locked) -> Component:
    # Of each file of this version (an sdist, wheels), any of which pip may install.
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(f"https://pypi.org/project/{package.name}/{package.version}/"),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in package.digests],
    )
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"pypi/{package.name}",
        purl=PackageURL("pypi", None, package.name, package.version),
        licenses=list(_licenses(package)),
        external_references=[files],
    )


def _licenses(package: Locked) -> Iterator[License]:
    try:
        installed = metadata.distribution(package.name)
    except metadata.PackageNotFoundError:
        return
    named = next((installed.metadata[key] for key in _LICENSE_KEYS if key in installed.metadata), "")
    # Some write the whole text of their license there.
    if installed.version == package.version and named and "\n" not in named:
        yield LicenseFactory().make_from_string(named)


def _debian(name: str, version: str | None = None, architecture: str = "") -> Component:
    qualifiers = {"distro": "debian-12", **({"arch": architecture} if architecture else {})}
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"deb/{name}",
        purl=PackageURL("deb", "debian", name, version, qualifiers),
    )


def main(version: str, commit: str, epoch: str, lock: str, debian: str = "") -> None:
    """Print the bill of materials."""
    built = datetime.fromtimestamp(int(epoch), UTC)
    packages = Path(debian).read_text("utf-8") if debian else ""
    bom = bill(version, commit, built, Path(lock).read_text("utf-8"), packages)
    print(JsonV1Dot6(bom).output_as_string(indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
