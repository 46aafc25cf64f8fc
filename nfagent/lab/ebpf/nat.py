"""The static nft rule that masquerades the packets which the eBPF program marked."""

from __future__ import annotations

import subprocess

from nfagent.errors import KernelError
from nfagent.lab.ebpf.codec import MARK

TABLE = "inet nfagent-ebpf"

_RULES = f"""
table {TABLE} {{
}}
delete table {TABLE}
table {TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & {MARK:#x} == {MARK:#x} masquerade%s
  }}
}}
"""


def load(*, random_fully: bool) -> None:
    """Load the rule into this process's network namespace, in place of an earlier one. Raises KernelError."""
    _nft(_RULES % (" fully-random" if random_fully else ""))


def unload() -> None:
    """Remove it. Raises KernelError."""
    _nft(f"table {TABLE} {{\n}}\ndelete table {TABLE}\n")


def _nft(commands: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=commands, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise KernelError(f"nft can't load the masquerade rule of the eBPF path: {done.stderr.strip()}")
