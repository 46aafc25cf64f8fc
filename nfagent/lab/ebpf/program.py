"""The eBPF program: compiled when it is needed, loaded, and attached to Pods' links in a node's network namespace.

Compiled by clang with libbpf's headers; libbpf itself comes with iproute2. Nothing is pinned: the process and the links
hold maps and program, which are gone with both.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from nfagent.errors import HostError, KernelError, UsageError
from nfagent.lab.ebpf.libbpf import TcHook, TcOptions, failure, libbpf
from nfagent.lab.ebpf.maps import EbpfMap
from nfagent.lab.ebpf.requirements import COMPILED, INCLUDE, lack_of, requirements, tools
from nfagent.lab.topology import netns

SOURCE = Path(__file__).with_name("policy.c")
_INGRESS, _EGRESS = 1, 2  # enum bpf_tc_attach_point
_PROGRAMS = {_INGRESS: b"from_pod", _EGRESS: b"to_pod"}
_HANDLE, _PRIORITY = 0x6E66, 1
"""Of the filters: by these a process knows, and replaces, those that a killed one left."""
_REPLACE = 1  # BPF_TC_F_REPLACE


class Maps(msgspec.Struct, frozen=True):
    """The program's maps, by the names of ebpf/maps.h."""

    identities: EbpfMap
    blocks: EbpfMap
    unmasqueraded: EbpfMap
    policies: EbpfMap
    endpoints: EbpfMap
    connections: EbpfMap
    configuration: EbpfMap
    lost_events: EbpfMap
    events: EbpfMap


def missing() -> str:
    """Return the first thing that this machine lacks for the eBPF path, as a sentence; '' where it lacks nothing.

    The kernel is asked for its features, but the program isn't tried: `check` does that too.
    """
    lack = next((check for check in requirements() if check.result != "ok"), None)
    return "" if lack is None else lack_of(lack)


def build(target: Path) -> None:
    """Compile the program to an object file. Raises HostError without clang, KernelError with clang's message."""
    lack = next((check for check in tools() if check.result != "ok"), None)
    if lack is not None:
        raise HostError(lack_of(lack))
    # <asm/types.h> is in a folder per architecture, which clang doesn't search for the target bpf.
    include = INCLUDE / str(sysconfig.get_config_var("MULTIARCH"))
    # -g: libbpf reads the maps' types from BTF, which is debug information.
    flags = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-I", str(include)]
    command = ["clang", *flags, "-c", str(SOURCE), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise KernelError(f"clang can't compile {SOURCE}: {done.stderr.strip()[:2000]}")


class EbpfProgram:
    """The loaded program with its maps; a context manager that detaches and unloads it."""

    def __init__(self, node_netns: str = "") -> None:
        """Set the name of the node's network namespace; '' is this process's own. Nothing is loaded yet."""
        self._netns = node_netns
        self._object = ctypes.c_void_p()
        self._maps: Maps | None = None
        # Interface index of each link -> whether the qdisc is ours.
        self._links: dict[int, bool] = {}

    def __enter__(self) -> Self:
        """Compile and load the program. Raises HostError, KernelError."""
        if compiled := os.environ.get(COMPILED, ""):
            self._load(Path(compiled))
            return self
        with tempfile.TemporaryDirectory(prefix="nfagent-ebpf-") as folder:
            build(Path(folder) / "policy.o")
            self._load(Path(folder) / "policy.o")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach the program from all links and unload it."""
        self.close()

    @property
    def maps(self) -> Maps:
        """The maps. Raises UsageError before the program is loaded."""
        if self._maps is None:
            raise UsageError("the eBPF path isn't loaded: use it in a `with` block")
        return self._maps

    def attach(self, link: int) -> None:
        """Attach the program to both directions of a link, by its interface index. Raises KernelError, UsageError."""
        _ = self.maps
        self._inside(functools.partial(self._attach, link))

    def detach(self, link: int) -> None:
        """Detach it from a link, which may be gone."""
        ours = self._links.pop(link, None)
        if ours is not None:
            # Where the namespace is gone already, its links and their filters are too.
            with contextlib.suppress(KernelError):
                self._inside(functools.partial(_detach, {link: ours}))

    def close(self) -> None:
        """Detach from every link that still exists, and unload; may be called twice."""
        links, self._links = self._links, {}
        with contextlib.suppress(KernelError):
            self._inside(functools.partial(_detach, links))
        loaded, self._object = self._object, ctypes.c_void_p()
        self._maps = None
        if loaded.value is not None:
            libbpf().bpf_object__close(loaded)

    def _inside(self, function: Callable[[], None]) -> None:
        if self._netns:
            netns.inside(self._netns, function)
        else:
            function()

    def _load(self, compiled: Path) -> None:
        library = libbpf()
        self._object = ctypes.c_void_p(library.bpf_object__open_file(os.fsencode(compiled), None))
        if self._object.value is None:
            raise failure("libbpf can't read the compiled eBPF program")
        if library.bpf_object__load(self._object):
            refused = failure("the kernel refused the eBPF program")
            self.close()
            raise refused
        find = library.bpf_object__find_map_fd_by_name
        self._maps = Maps(*(EbpfMap(name, find(self._object, name.encode())) for name in Maps.__struct_fields__))

    def _attach(self, link: int) -> None:
        library = libbpf()
        for point, name in _PROGRAMS.items():
            hook = _hook(link, point)
            created = library.bpf_tc_hook_create(ctypes.byref(hook))
            if created not in {0, -errno.EEXIST}:
                raise failure(f"tc on link {link}: is CONFIG_NET_SCH_INGRESS on?", -created)
            # The qdisc of a process before this one is ours too.
            left = not library.bpf_tc_query(ctypes.byref(hook), ctypes.byref(_options()))
            self._links[link] = self._links.get(link, False) or not created or left
            options = _options()
            program = library.bpf_object__find_program_by_name(self._object, name)
            options.prog_fd = library.bpf_program__fd(ctypes.c_void_p(program))
            options.flags = _REPLACE
            attached = library.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options))
            if attached:
                raise failure(f"tc on link {link}: is CONFIG_NET_CLS_BPF on?", -attached)


def _detach(links: dict[int, bool]) -> None:
    """Remove the filters from links: with the qdisc where it is ours, else alone."""
    library = libbpf()
    for link, ours in links.items():
        if ours:
            hook = _hook(link, _INGRESS | _EGRESS)
            library.bpf_tc_hook_destroy(ctypes.byref(hook))
            continue
        for point in _PROGRAMS:
            hook = _hook(link, point)
            library.bpf_tc_detach(ctypes.byref(hook), ctypes.byref(_options()))


def _options() -> TcOptions:
    """Return the options that name our filter."""
    return TcOptions(sz=ctypes.sizeof(TcOptions), handle=_HANDLE, priority=_PRIORITY)


def _hook(link: int, point: int) -> TcHook:
    return TcHook(sz=ctypes.sizeof(TcHook), ifindex=link, attach_point=point)
