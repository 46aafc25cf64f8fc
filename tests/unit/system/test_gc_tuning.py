"""What malloc keeps of freed memory, in a process of its own."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from nfagent.system.gc_tuning import MALLOC_ENVIRONMENT, malloc_trim
from tests.support.deployed_objects import DEPLOY

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


_SMALL_BLOCKS = """
import ctypes, threading

class Mallinfo2(ctypes.Structure):
    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2

def work(done, end):
    for _ in range(2):
        blocks = [bytes(size) for size in range(520, 960, 16) for _ in range(7)]
        del blocks
    done.set()
    end.wait()

def run(end):
    threads = []
    for _ in range(12):
        done = threading.Event()
        threads.append(threading.Thread(target=work, args=(done, end)))
        threads[-1].start()
        done.wait()
    in_use = mallinfo2().field7
    end.set()
    for thread in threads:
        thread.join()
    return in_use

before = mallinfo2().field7
print(run(threading.Event()) - before)
"""


def test_a_thread_keeps_no_freed_blocks_for_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SMALL_BLOCKS], env=MALLOC_ENVIRONMENT, capture_output=True, check=True, text=True
    )
    assert int(done.stdout) < 500_000, "12 threads keep 1.9 MB of them by glibc's default"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(("systemd/nfagent.service", "Environment={}={}"), id="the unit starts the agent so"),
        pytest.param(("Containerfile", "ENV {}={}"), id="the image starts the agent so"),
    ],
)
def test_who_starts_the_agent_sets_the_variables(line: tuple[str, str]) -> None:
    path, form = line
    lines = (DEPLOY.parent / path).read_text("utf-8").splitlines()
    assert [each for each in (form.format(*item) for item in MALLOC_ENVIRONMENT.items()) if each not in lines] == []


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
