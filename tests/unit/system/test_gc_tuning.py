"""What malloc keeps of freed memory, in a process of its own."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from nfagent.system.gc_tuning import malloc_trim

_MIB = 1024 * 1024
_FREED = f"""
from pathlib import Path
from nfagent.system.gc_tuning import limit_free_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

limit_free_memory()
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


_THREADS = f"""
import threading
from pathlib import Path
from nfagent.system.gc_tuning import limit_free_memory, malloc_trim

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def work(done, end):
    blocks = [bytes(2000) for _ in range(4 * {_MIB} // 2000)]
    KEEP
    del blocks
    done.set()
    end.wait()

limit_free_memory()
kept, end, threads = [], threading.Event(), []
before = resident()
for _ in range(12):
    done = threading.Event()
    threads.append(threading.Thread(target=work, args=(done, end)))
    threads[-1].start()
    done.wait()
print(resident() - before)
end.set()
"""
"""Twelve threads use 4 MiB each, one after the other."""


@pytest.mark.parametrize(
    ("keep", "most"),
    [
        pytest.param("kept.append(blocks[0])", 4 * _MIB, id="returns to the system behind the last block in use"),
        pytest.param("kept.extend(blocks[::100])", 16 * _MIB, id="is used by other threads between blocks in use"),
    ],
)
def test_memory_that_a_thread_has_freed(keep: str, most: int) -> None:
    source = _THREADS.replace("KEEP", keep)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True, text=True)
    assert int(done.stdout) < most


def test_trimming_leaves_nothing_to_the_garbage_collector() -> None:
    malloc_trim()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            malloc_trim()
        assert gc.collect() == 0
    finally:
        gc.enable()


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
