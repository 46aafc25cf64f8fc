"""Files that come and go while a folder is scanned."""

from __future__ import annotations

import os
from pathlib import Path

from nfagent.manifests.folder_scan import read_files
from nfagent.manifests.index import ManifestIndex

POD = "apiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: web}\n"


class ComingPath(type(Path())):  # type: ignore[misc]
    """A path that another program writes a file to after it was found missing."""

    def lstat(self) -> os.stat_result:
        """Write the file before it is looked at."""
        self.write_text(POD)
        return super().lstat()  # type: ignore[no-any-return]


def test_a_file_that_comes_while_it_is_looked_for_is_read(tmp_path: Path) -> None:
    scan = read_files(tmp_path, ManifestIndex(), frozenset({ComingPath(tmp_path / "web.yaml")}))
    assert [(reading.name, reading.problem) for reading in scan.readings] == [("web.yaml", None)]
    assert not scan.uncertain
