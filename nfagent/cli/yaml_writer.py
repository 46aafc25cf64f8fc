"""YAML that kubectl reads back unchanged: PyYAML doesn't quote `y`, `n`, `1e3` and `0o17`."""

from __future__ import annotations

import re

import yaml


class KubectlDumper(yaml.SafeDumper):
    """Quotes every string that sigs.k8s.io/yaml would read as a boolean or a number."""


KubectlDumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"\A[yYnN]\Z"), list("yYnN"))
KubectlDumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"\A[-+]?(\d+[eE][-+]?\d+|0[oO][0-7]+)\Z"), list("-+0123456789")
)
