"""`python -m tests.fuzz_decoders.worker MODULE NAME FOLDER [OPTION...]`: fuzzes one target by atheris.

Only the target's module is imported: the instrumentation of all of nfagent takes seconds. The options are libFuzzer's.
What is imported here before the instrumentation isn't measured, so that is nothing of nfagent.
"""

from __future__ import annotations

import gc
import importlib
import logging
import resource
import sys
import time
from pathlib import Path

import atheris

_MEMORY = 2 * 1024**3
"""Bytes of address space that an input may make this process take: libFuzzer looks at the RSS once a second alone."""


def main(module: str, name: str, folder: Path, options: list[str]) -> None:
    """Fuzz until the options say that it's enough, or an input fails: the process ends here, with libFuzzer's code."""
    with atheris.instrument_imports(include=["nfagent"]):
        imported = importlib.import_module(module)
    target = next(target for target in imported.TARGETS if target.name == name)
    words, seeds = folder / "words", folder / "seeds"
    for each in (seeds, folder / "corpus"):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (seeds / f"{number:03}").write_bytes(seed)
    words.write_text("".join(f'"{_quoted(word)}"\n' for word in target.words))
    logging.disable(logging.WARNING)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + _MEMORY, in_use + _MEMORY))

    # What is imported stays: no collection walks it again.
    gc.collect()
    gc.freeze()
    longest = 0

    def read(content: bytes) -> None:
        nonlocal longest
        began = time.process_time_ns()
        target.accept(content)
        took = time.process_time_ns() - began
        if took > longest:
            longest = took
            sys.stderr.write(f"longest: {took / 1e6:.1f} ms\n")
            sys.stderr.flush()

    dictionary = [f"-dict={words}"] if target.words else []
    arguments = [sys.argv[0], f"-max_len={target.longest}", *dictionary, *options, str(folder / "corpus"), str(seeds)]
    atheris.Setup(arguments, read)
    atheris.Fuzz()


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
