"""What malloc keeps of freed memory, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

_MIB = 1024 * 1024
_FREED = f"""
from pathlib import Path
from nfagent.system.gc_tuning import map_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

map_large_blocks()
block = bytearray(b"x") * (16 * {_MIB})
del block
lower = bytearray(b"x") * (12 * {_MIB})
upper = bytearray(b"x") * (12 * {_MIB})
before = resident()
del lower
print(before - resident())
"""


def test_a_large_block_returns_to_the_system_though_a_later_one_stays() -> None:
    done = subprocess.run([sys.executable, "-c", _FREED], capture_output=True, check=True, text=True)
    assert int(done.stdout) > 11 * _MIB


_WALKED = """
import gc
from nfagent.system.gc_tuning import relax_collection

walked = []

def note(phase, info):
    if phase == "start" and info["generation"] == 1:
        walked.append(len(gc.get_objects(0)) + len(gc.get_objects(1)))

gc.collect()
gc.freeze()
relax_collection()
gc.callbacks.append(note)
kept = [[] for _ in range(400_000)]
print(len(walked), max(walked))
"""


def test_while_objects_are_read_no_collection_walks_more_than_thirty_thousand_of_them() -> None:
    done = subprocess.run([sys.executable, "-c", _WALKED], capture_output=True, check=True, text=True)
    collections, most = map(int, done.stdout.split())
    assert collections > 5
    assert most < 32_000
