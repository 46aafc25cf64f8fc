"""Prints the stanzas of debian/copyright for the Python packages inside: `bundled_copyright.py FOLDER`.

FOLDER has shared and pythonX.Y/site-packages. A package's metadata names its license, whose text is among its files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path


def stanzas(folder: Path) -> Iterator[str]:
    """Yield the stanza of each package but nfagent. Raises ValueError where the metadata names no license."""
    sites = [str(path) for path in (folder / "shared", *sorted(folder.glob("python*/site-packages")))]
    found = {package.name.lower(): package for package in distributions(path=sites)}
    for name, package in sorted(found.items()):
        if name != "nfagent":
            yield _stanza(package)


def _stanza(package: Distribution) -> str:
    files = [str(file) for file in package.files or () if not str(file).startswith("../")]
    tops = sorted({file.split("/", maxsplit=1)[0] for file in files})
    texts = [file for file in files if ".dist-info/" in file and "licen" in file.lower()]
    license_name = "-".join(_license(package).split())
    place = f"usr/lib/nfagent/lib/*/{texts[0]}" if texts else "its project, which ships no text"
    return "\n".join(
        [
            "Files: " + "\n ".join(f"usr/lib/nfagent/lib/*/{top}*" for top in tops),
            f"Copyright: the authors of {package.name} {package.version}",
            f"License: {license_name}-{package.name}",
            f" {_license(package)}; the text is of {place}." if not texts else f" {_license(package)}: see {place}.",
            "",
        ]
    )


def _license(package: Distribution) -> str:
    metadata = package.metadata
    prefix = "License :: OSI Approved :: "
    named = [line.removeprefix(prefix) for line in metadata.get_all("Classifier") or () if line.startswith(prefix)]
    # Old metadata has the whole text in License.
    short = [line for line in metadata.get_all("License") or () if line.strip() and "\n" not in line.strip()]
    found = metadata.get_all("License-Expression") or short or named
    if not found:
        raise ValueError(f"{package.name} {package.version}: its metadata names no license")
    return " and ".join(found)


if __name__ == "__main__":
    print("\n".join(stanzas(Path(sys.argv[1]))))
