"""The bindings of libbpf 1.x that the eBPF path needs: ctypes declarations, and errors with their cause."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import Any

from nfagent.errors import HostError, KernelError

LIBBPF = "libbpf.so.1"
INSTALL_LIBBPF = "apt-get install libbpf1"


class TcHook(ctypes.Structure):
    """`struct bpf_tc_hook` of bpf/libbpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    )


class TcOptions(ctypes.Structure):
    """`struct bpf_tc_opts` of bpf/libbpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    )


class BatchOptions(ctypes.Structure):
    """`struct bpf_map_batch_opts` of bpf/bpf.h."""

    _fields_ = (("sz", ctypes.c_size_t), ("elem_flags", ctypes.c_uint64), ("flags", ctypes.c_uint64))


SAMPLE_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
"""`ring_buffer_sample_fn` of bpf/libbpf.h: context, record, size."""


@functools.lru_cache(maxsize=1)
def libbpf() -> Any:  # noqa: ANN401 - the attributes of a shared library have no types
    """Return the library. Raises HostError where it isn't installed."""
    try:
        library = ctypes.CDLL(LIBBPF, use_errno=True)
    except OSError:
        raise HostError(f"the eBPF path needs libbpf 1.x: {INSTALL_LIBBPF}") from None
    # libbpf prints errors to standard error by default, also EEXIST for an existing qdisc.
    library.libbpf_set_print(None)
    pointer, text, flags = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64
    counted = ctypes.POINTER(ctypes.c_uint32)
    library.bpf_object__open_file.restype = pointer
    library.bpf_object__find_program_by_name.restype = pointer
    library.bpf_object__find_program_by_name.argtypes = [pointer, text]
    library.bpf_object__find_map_fd_by_name.argtypes = [pointer, text]
    library.bpf_map_update_elem.argtypes = [ctypes.c_int, text, text, flags]
    library.bpf_map_delete_elem.argtypes = [ctypes.c_int, text]
    library.bpf_map_lookup_elem.argtypes = [ctypes.c_int, text, pointer]
    library.bpf_map_update_batch.argtypes = [ctypes.c_int, text, text, counted, ctypes.POINTER(BatchOptions)]
    library.bpf_map_delete_batch.argtypes = [ctypes.c_int, text, counted, ctypes.POINTER(BatchOptions)]
    library.ring_buffer__new.restype = pointer
    library.ring_buffer__new.argtypes = [ctypes.c_int, SAMPLE_FUNCTION, pointer, pointer]
    library.ring_buffer__epoll_fd.argtypes = [pointer]
    library.ring_buffer__consume.argtypes = [pointer]
    library.ring_buffer__free.argtypes = [pointer]
    return library


def failure(what: str, code: int = 0) -> KernelError:
    """Return the error for a call that failed with an errno, or else the thread's last one."""
    code = code or ctypes.get_errno()
    return KernelError(f"{what}: {os.strerror(code)}{': run it as root' if code == errno.EPERM else ''}")
