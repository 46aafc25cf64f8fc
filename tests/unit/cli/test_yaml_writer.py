"""What `-o yaml` writes is read back as it was, by readers that take y and n for booleans too."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from nfagent.cli.yaml_writer import KubectlDumper
from nfagent.decode.yaml_values import yaml_documents

WORDS = ["y", "Y", "n", "N", "yes", "no", "on", "off", "true", "null", "~", "0x1f", "0o17", "1e3", "-1E-3", "1:30", "a"]


@pytest.mark.parametrize("word", WORDS)
def test_a_text_stays_a_text(word: str) -> None:
    value: dict[str, Any] = {"metadata": {"labels": {"k": word, word: "v"}}}
    written = yaml.dump(value, Dumper=KubectlDumper)
    assert yaml.safe_load(written) == value
    assert [document for _, document in yaml_documents(written)] == [value]
