"""libnftables without a netlink socket."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("nftables", reason="Debian's python3-nftables is not installed")

# Without a free file descriptor no netlink socket can be opened, as on a kernel without nfnetlink.
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


def test_a_failed_netlink_socket_is_an_error_and_does_not_end_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cannot open a netlink socket for nf_tables: Too many open files\n"
