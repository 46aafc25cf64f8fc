"""What happens where libnftables has no kernel to speak to."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("nftables", reason="Debian's python3-nftables is not installed")

# With no file descriptor to spare, no netlink socket can be had, as on a kernel without nfnetlink.
PROGRAM = """
import os, resource, sys
from nfagent.kernel.nft_client import NftClient
from nfagent.errors import HostError
NftClient().close()
spare = os.dup(0)
os.close(spare)
resource.setrlimit(resource.RLIMIT_NOFILE, (spare, spare))
try:
    NftClient()
except HostError as error:
    print(error)
"""


def test_a_kernel_that_can_not_be_spoken_to_is_an_error_and_not_the_end_of_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cannot open a netlink socket for nf_tables: Too many open files\n"
