"""Reads the lines of a file from its end: the last ones of a large log are found without reading the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

_BLOCK = 256 * 1024


def split_end(file: BinaryIO) -> tuple[int, bytes]:
    """Return the offset behind the last whole line, and the unfinished line there; b'' for none."""
    end = os.fstat(file.fileno()).st_size
    begin, partial = end, b""
    while begin:
        start = max(0, begin - _BLOCK)
        block = os.pread(file.fileno(), begin - start, start)
        newline = block.rfind(b"\n")
        partial = block[newline + 1 :] + partial
        if newline >= 0:
            return start + newline + 1, partial
        begin = start
    return 0, partial


def newest_first(file: BinaryIO, end: int) -> Iterator[list[bytes]]:
    """Yield the lines up to an offset behind a whole line, in batches, the last line first."""
    tail = b""  # the line that begins before the block, or at its begin
    while end:
        start = max(0, end - _BLOCK)
        block = os.pread(file.fileno(), end - start, start) + tail
        end = start
        begin = block.find(b"\n") + 1 if start else 0
        tail = block[:begin] if begin else block
        if begin or not start:
            yield [line + b"\n" for line in reversed(block[begin:].split(b"\n")[:-1]) if line.strip()]
