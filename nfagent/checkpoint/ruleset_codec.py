"""The format of the saved ruleset, which a node loads when it boots, before it has a network.

Batches of netlink messages, as the kernel took them: loading one needs no compiler and no libnftables. Numbers in them
are in the host's byte order, which the header names. The file is, in this order:

    MAGIC
    header   4 bytes of length, JSON
    batches  each with 4 bytes of length, compressed by zlib; none reaches a packet before the last one, which has the
             base chains
    end      a length of 0, then a digest of everything before it
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Literal

import msgspec

from nfagent.errors import DecodeError, WireError
from nfagent.netlink.nft_batch import Batch, encode_batch
from nfagent.netlink.saved_batch import decode_saved_batch
from nfagent.nftables.boot_rulesets import after_boot
from nfagent.nftables.commit_parts import cut_unreachable
from nfagent.nftables.diff import diff_in_steps
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.nftables.transaction import Command, Transaction

FORMAT = 1
"""Incremented when files of an older version would be decoded with another meaning."""
XT_FORMAT = 2
"""Of files whose content is that of `xt_ruleset_codec`: rules of iptables."""
_FORMATS = (FORMAT, XT_FORMAT)
LAYOUT = 1
"""Incremented with a table layout that agents of an older version don't take over without a gap."""
MAGIC = b"nfagent saved ruleset\n"
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_LARGEST_BATCH = 64 * 1024 * 1024
_PART = 10_000
"""Size of one batch, in elements: some 0.5 MB, so that encoding one takes a few ten milliseconds."""
_COMPRESSION = 1
"""zlib's fastest level: elements of a set differ in a few bytes."""


class SavedHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said about the ruleset.

    version:       of the nfagent that wrote it
    node:          whose rules it has
    boot_id:       of the boot in which it was written
    written_at:    seconds since the epoch, by the node's clock
    pod_ranges:    the node's Pod ranges, as CIDRs
    holds_unknown: whether it drops packets of unknown addresses in them
    content:       digest of the batches before compression, to recognise an equal ruleset
    """

    version: str
    node: str
    boot_id: str
    written_at: float
    pod_ranges: tuple[str, ...]
    holds_unknown: bool
    content: str = ""
    format: int = FORMAT
    layout: int = LAYOUT
    byte_order: Literal["little", "big"] = sys.byteorder


class SavedRuleset(msgspec.Struct, frozen=True):
    """A decoded file: its header, and the compressed batches in order."""

    header: SavedHeader
    batches: tuple[bytes, ...]

    @property
    def is_iptables(self) -> bool:
        """Whether it has rules of iptables, otherwise of nftables."""
        return self.header.format == XT_FORMAT

    def decoded(self) -> Iterator[Batch]:
        """Yield the batches, one in memory at a time. Raises DecodeError."""
        for number, compressed in enumerate(self.batches, 1):
            try:
                yield decode_saved_batch(_decompressed(compressed))
            except (zlib.error, WireError) as error:
                raise DecodeError(f"batch {number} of {len(self.batches)}: {error}") from None


def encode_batches(ruleset: Ruleset, pause: Callable[[], None] = lambda: None) -> tuple[tuple[bytes, ...], str]:
    """Return the compressed batches that write a ruleset where there is no table, and the digest of their content.

    pause: called after at most 500 elements, so that another thread can run
    Raises WireError for a ruleset that can't be encoded.
    """
    commands: list[Command] = []
    for command in diff_in_steps(ABSENT, after_boot(ruleset)):
        if command is not None:
            commands.append(command)
        pause()
    digest = blake2b(digest_size=16)
    batches = []
    sequence = 1
    for part in cut_unreachable(tuple(commands), _PART):
        batch = encode_batch(_with_pauses(part, pause), sequence)
        sequence = batch.following
        digest.update(batch.data)
        batches.append(zlib.compress(batch.data, _COMPRESSION))
        pause()
    return tuple(batches), digest.hexdigest()


def _with_pauses(part: Transaction, pause: Callable[[], None]) -> Iterator[Command]:
    for command in part:
        yield command
        pause()


def encode_saved(header: SavedHeader, batches: Iterable[bytes]) -> bytes:
    """Return the content of a file."""
    parts = [MAGIC]
    for part in (msgspec.json.encode(header), *batches, b""):
        parts += (_LENGTH.pack(len(part)), part)
    content = b"".join(parts)
    return content + _digest(content)


def decode_saved(content: bytes) -> SavedRuleset:
    """Decode a file; batches are decoded when they are needed. Raises DecodeError for any other bytes."""
    if not content.startswith(MAGIC):
        raise DecodeError("it is no saved ruleset")
    whole, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if digest != _digest(whole):
        raise DecodeError("it is damaged: the digest at its end is that of other content")
    first, *batches = _parts(whole)
    try:
        header = msgspec.json.decode(first, type=SavedHeader)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError(_other_format(first) or f"its header can't be decoded: {error}") from None
    if header.format not in _FORMATS:
        raise DecodeError(_unknown_format(header.format))
    if header.byte_order != sys.byteorder:
        raise DecodeError(f"it was written on a {header.byte_order}-endian machine")
    if not batches:
        raise DecodeError("it has no rules")
    return SavedRuleset(header, tuple(batches))


def _parts(whole: bytes) -> Iterator[bytes]:
    """Yield header and batches. Raises DecodeError."""
    offset = len(MAGIC)
    while True:
        if len(whole) - offset < _LENGTH.size:
            raise DecodeError("it is cut short")
        (length,) = _LENGTH.unpack_from(whole, offset)
        offset += _LENGTH.size
        if not length:
            break
        if length > len(whole) - offset:
            raise DecodeError("it is cut short")
        yield whole[offset : offset + length]
        offset += length
    if offset != len(whole) or offset == len(MAGIC) + _LENGTH.size:
        raise DecodeError("it doesn't end where its last batch does")


def _other_format(header: bytes) -> str:
    """Return that a header of another format is one; '' where it isn't."""
    try:
        found = msgspec.json.decode(header)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ""
    number = found.get("format", FORMAT) if isinstance(found, dict) else FORMAT
    return "" if number in _FORMATS else _unknown_format(number)


def _unknown_format(number: object) -> str:
    return f"it has format {number}; this version of nfagent reads formats {FORMAT} and {XT_FORMAT}"


def _decompressed(compressed: bytes) -> bytes:
    """Decompress a batch. Raises zlib.error, DecodeError."""
    stream = zlib.decompressobj()
    content = stream.decompress(compressed, _LARGEST_BATCH)
    if not stream.eof:
        raise DecodeError(f"a batch is larger than {_LARGEST_BATCH >> 20} MiB, or cut short")
    return content


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()
