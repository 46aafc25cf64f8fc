"""A map of the loaded eBPF program; keys and values are the bytes of its C structures."""

from __future__ import annotations

import ctypes
import errno
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from nfagent.lab.ebpf.libbpf import BatchOptions, failure, libbpf

_BPF_ANY = 0
_NOT_SUPPORTED = 524  # ENOTSUPP: an older kernel without batches for this type of map
_SINGLE = 4
"""Up to so many entries are written one by one: a batch costs an allocation more."""


class EbpfMap:
    """A map, by its file descriptor, which the program owns."""

    def __init__(self, name: str, descriptor: int) -> None:
        """Wrap a descriptor."""
        self.name = name
        self.descriptor = descriptor
        self._update = libbpf().bpf_map_update_elem
        self._delete = libbpf().bpf_map_delete_elem

    def update(self, key: bytes, value: bytes) -> None:
        """Add or replace an entry: one system call. Raises KernelError."""
        if self._update(self.descriptor, key, value, _BPF_ANY):
            raise failure(f"eBPF map {self.name}: update")

    def delete(self, key: bytes) -> bool:
        """Delete an entry; return whether it existed. Raises KernelError."""
        if self._delete(self.descriptor, key):
            if ctypes.get_errno() == errno.ENOENT:
                return False
            raise failure(f"eBPF map {self.name}: delete")
        return True

    def update_all(self, entries: Mapping[bytes, bytes]) -> None:
        """Add or replace entries: many of them by one system call, not atomically. Raises KernelError."""
        if len(entries) > _SINGLE:
            count, options = ctypes.c_uint32(len(entries)), BatchOptions(sz=ctypes.sizeof(BatchOptions))
            keys, values = b"".join(entries), b"".join(entries.values())
            code = libbpf().bpf_map_update_batch(
                self.descriptor, keys, values, ctypes.byref(count), ctypes.byref(options)
            )
            if not code:
                return
            if ctypes.get_errno() != _NOT_SUPPORTED:
                raise failure(f"eBPF map {self.name}: update of {len(entries)} entries, {count.value} done")
        for key, value in entries.items():
            self.update(key, value)

    def delete_all(self, keys: Collection[bytes]) -> None:
        """Delete entries, those that exist. Raises KernelError."""
        if len(keys) > _SINGLE:
            count, options = ctypes.c_uint32(len(keys)), BatchOptions(sz=ctypes.sizeof(BatchOptions))
            code = libbpf().bpf_map_delete_batch(
                self.descriptor, b"".join(keys), ctypes.byref(count), ctypes.byref(options)
            )
            if not code:
                return
            if ctypes.get_errno() not in {errno.ENOENT, _NOT_SUPPORTED}:
                raise failure(f"eBPF map {self.name}: deletion of {len(keys)} entries, {count.value} done")
        for key in keys:
            self.delete(key)

    def value(self, key: bytes, size: int) -> bytes | None:
        """Return the value of an entry, of so many bytes; None where there is none. Raises KernelError."""
        found = ctypes.create_string_buffer(size)
        if libbpf().bpf_map_lookup_elem(self.descriptor, key, found):
            if ctypes.get_errno() == errno.ENOENT:
                return None
            raise failure(f"eBPF map {self.name}: look-up")
        return found.raw

    def memory_bytes(self) -> int:
        """Return the kernel memory that the map takes, as the kernel counts it; 0 where it doesn't say."""
        try:
            told = Path(f"/proc/self/fdinfo/{self.descriptor}").read_text("ascii")
        except OSError:
            return 0
        found = re.search(r"^memlock:\s*(\d+)", told, re.MULTILINE)
        return int(found[1]) if found else 0
