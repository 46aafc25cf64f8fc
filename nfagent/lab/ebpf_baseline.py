"""The same policy as an eBPF program at tc: the reference for measurements, an eBPF dataplane on the same links.

    with EbpfPath(topology.node_namespace("n1")) as path:
        web = path.attach(topology.pod_namespace("shop", "web"))
        path.identify("10.244.2.11", 1001)
        path.allow(web, "ingress", 1001, port=80, protocol="tcp")     # from the next connection on
        path.allow_all(web, "egress")

An attached Pod denies every new connection in both directions until entries allow it. Nothing is pinned: this process
and the links hold maps and program, which are gone with both.

The program, `ebpf/policy.c`, is compiled when it is loaded, by clang with libbpf's headers (apt-get install clang
libbpf-dev). libbpf itself comes with iproute2. `missing()` returns what the machine lacks, for callers that can do
without the eBPF path.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import ipaddress
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from nfagent.errors import HostError, KernelError, UsageError
from nfagent.lab import netns
from nfagent.model.objects import Direction, Protocol

SOURCE = Path(__file__).with_name("ebpf") / "policy.c"
HINT = "apt-get install clang libbpf-dev"

_INCLUDE = Path("/usr/include")
_LIBBPF = "libbpf.so.1"
_BPF_ANY = 0
_ORDER = sys.byteorder
_INGRESS, _EGRESS = 1, 2  # enum bpf_tc_attach_point
_PROGRAMS = {_INGRESS: b"from_pod", _EGRESS: b"to_pod"}
_DIRECTIONS: dict[Direction, int] = {"egress": 0, "ingress": 1}
_PROTOCOLS: dict[str, int] = {"": 0, "icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_VERDICT_SIZE = 16  # struct policy_value: packets, bytes
_ADDRESS_KEY_FIXED = 32  # bits of the trie's key that stand before the address


class _Hook(ctypes.Structure):
    """`struct bpf_tc_hook` of bpf/libbpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    )


class _Options(ctypes.Structure):
    """`struct bpf_tc_opts` of bpf/libbpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    )


def missing() -> str:
    """Return what this machine lacks to build and load the program, as a sentence; '' where it lacks nothing."""
    if shutil.which("clang") is None:
        return f"the eBPF path needs clang: {HINT}"
    if not (_INCLUDE / "bpf" / "bpf_helpers.h").exists():
        return f"the eBPF path needs libbpf's headers: {HINT}"
    try:
        _libbpf()
    except HostError as error:
        return str(error)
    return ""


def build(target: Path) -> None:
    """Compile the program to an object file. Raises HostError without clang, KernelError with clang's message."""
    lack = missing()
    if lack:
        raise HostError(lack)
    # <asm/types.h> is in a folder per architecture, which clang doesn't search for the target bpf.
    include = _INCLUDE / str(sysconfig.get_config_var("MULTIARCH"))
    # -g: libbpf reads the maps' types from BTF, which is debug information.
    flags = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-I", str(include)]
    command = ["clang", *flags, "-c", str(SOURCE), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise KernelError(f"clang can't compile {SOURCE}: {done.stderr.strip()[:2000]}")


def address_key(block: str) -> bytes:
    """Return the key of an address or CIDR in the map of identities: struct address_key. Raises UsageError."""
    try:
        network = ipaddress.ip_network(block)
    except ValueError as error:
        raise UsageError(f"{error}: write an address or a CIDR, like 10.0.0.0/8") from None
    numbers = (_ADDRESS_KEY_FIXED + network.prefixlen).to_bytes(4, _ORDER) + network.version.to_bytes(4, _ORDER)
    return numbers + network.network_address.packed.ljust(16, b"\0")


def policy_key(
    endpoint: int, direction: Direction, identity: int = 0, port: int = 0, protocol: Protocol | str = ""
) -> bytes:
    """Return the key of an entry in the map of policies: struct policy_key; zeros and '' are wildcards.

    Raises UsageError for a key that the program doesn't look up: a port without a protocol.
    """
    if port and not protocol:
        raise UsageError(f"port {port} needs its protocol: add tcp, udp or sctp")
    numbers = endpoint.to_bytes(4, _ORDER) + identity.to_bytes(4, _ORDER)
    return numbers + port.to_bytes(2, "big") + bytes([_PROTOCOLS[protocol], _DIRECTIONS[direction]])


class EbpfMap:
    """A map of the loaded program; keys and values are the bytes of its C structures."""

    def __init__(self, name: str, descriptor: int) -> None:
        """Wrap a map's file descriptor, which the program owns."""
        self.name = name
        self._descriptor = descriptor
        self._update = _libbpf().bpf_map_update_elem
        self._delete = _libbpf().bpf_map_delete_elem

    def update(self, key: bytes, value: bytes) -> None:
        """Add or replace an entry: one system call. Raises KernelError."""
        if self._update(self._descriptor, key, value, _BPF_ANY):
            raise _failure(f"eBPF map {self.name}: update")

    def delete(self, key: bytes) -> bool:
        """Delete an entry; return whether it existed. Raises KernelError."""
        if self._delete(self._descriptor, key):
            if ctypes.get_errno() == errno.ENOENT:
                return False
            raise _failure(f"eBPF map {self.name}: delete")
        return True


class Maps(msgspec.Struct, frozen=True):
    """The maps that user space writes.

    identities: `address_key` -> identity, four bytes in the machine's order
    policies:   `policy_key` -> `NO_PACKETS`, the program's counters
    """

    identities: EbpfMap
    policies: EbpfMap


NO_PACKETS = bytes(_VERDICT_SIZE)
"""The value of a new entry in the map of policies."""


class EbpfPath:
    """The program on the links of some Pods of one node; a context manager that loads and unloads it."""

    def __init__(self, node_netns: str) -> None:
        """Set the node's network namespace; nothing is loaded yet."""
        self._netns = node_netns
        self._object = ctypes.c_void_p()
        self._maps: Maps | None = None
        self._links: list[int] = []

    def __enter__(self) -> Self:
        """Compile and load the program. Raises HostError, KernelError."""
        with tempfile.TemporaryDirectory(prefix="nfagent-ebpf-") as folder:
            compiled = Path(folder) / "policy.o"
            build(compiled)
            self._load(compiled)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach the program from all links and unload it."""
        self.close()

    @property
    def maps(self) -> Maps:
        """The maps, for keys that are encoded beforehand. Raises UsageError before the program is loaded."""
        if self._maps is None:
            raise UsageError("the eBPF path isn't loaded: use it in a `with` block")
        return self._maps

    def attach(self, pod_netns: str) -> int:
        """Attach the program to a Pod's link; return its endpoint, the interface index of the link on the node's side.

        Raises KernelError, UsageError before it is loaded.
        """
        _ = self.maps
        endpoint = link_of(pod_netns)
        self._links.append(endpoint)
        netns.inside(self._netns, functools.partial(self._attach, endpoint))
        return endpoint

    def identify(self, block: str, identity: int) -> None:
        """Add the identity of an address or CIDR. Raises UsageError, KernelError."""
        self.maps.identities.update(address_key(block), identity.to_bytes(4, _ORDER))

    def forget(self, block: str) -> bool:
        """Remove an address's identity; return whether it had one."""
        return self.maps.identities.delete(address_key(block))

    def allow(
        self, endpoint: int, direction: Direction, identity: int = 0, port: int = 0, protocol: Protocol | str = ""
    ) -> None:
        """Allow new connections; zeros and '' are wildcards. Raises UsageError, KernelError."""
        self.maps.policies.update(policy_key(endpoint, direction, identity, port, protocol), NO_PACKETS)

    def allow_all(self, endpoint: int, direction: Direction) -> None:
        """Allow all in one direction, as for a Pod that no policy isolates."""
        self.allow(endpoint, direction)

    def revoke(
        self, endpoint: int, direction: Direction, identity: int = 0, port: int = 0, protocol: Protocol | str = ""
    ) -> bool:
        """Remove an entry; return whether it existed. Established connections go on."""
        return self.maps.policies.delete(policy_key(endpoint, direction, identity, port, protocol))

    def close(self) -> None:
        """Detach from every link that still exists, and unload; may be called twice."""
        links, self._links = self._links, []
        # Where the topology is down already, links and filters are gone with their namespace.
        with contextlib.suppress(KernelError):
            netns.inside(self._netns, functools.partial(_detach, links))
        loaded, self._object = self._object, ctypes.c_void_p()
        self._maps = None
        if loaded.value is not None:
            _libbpf().bpf_object__close(loaded)

    def _load(self, compiled: Path) -> None:
        library = _libbpf()
        self._object = ctypes.c_void_p(library.bpf_object__open_file(os.fsencode(compiled), None))
        if self._object.value is None:
            raise _failure("libbpf can't read the compiled eBPF program")
        if library.bpf_object__load(self._object):
            failure = _failure("the kernel refused the eBPF program")
            self.close()
            raise failure
        names = ("identities", "policies")
        self._maps = Maps(
            *(EbpfMap(name, library.bpf_object__find_map_fd_by_name(self._object, name.encode())) for name in names)
        )

    def _attach(self, endpoint: int) -> None:
        library = _libbpf()
        for point, name in _PROGRAMS.items():
            hook = _hook(endpoint, point)
            created = library.bpf_tc_hook_create(ctypes.byref(hook))
            if created not in {0, -errno.EEXIST}:
                raise KernelError(f"tc on link {endpoint}: {os.strerror(-created)}: is CONFIG_NET_SCH_INGRESS on?")
            program = library.bpf_object__find_program_by_name(self._object, name)
            options = _Options(sz=ctypes.sizeof(_Options), prog_fd=library.bpf_program__fd(ctypes.c_void_p(program)))
            attached = library.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options))
            if attached:
                raise KernelError(f"tc on link {endpoint}: {os.strerror(-attached)}: is CONFIG_NET_CLS_BPF on?")


def link_of(pod_netns: str) -> int:
    """Return the interface index, in the node's namespace, of the other end of a Pod's eth0. Raises KernelError."""
    command = ["ip", "-n", pod_netns, "-json", "link", "show", "dev", "eth0"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=30)
    if done.returncode:
        raise KernelError(f"no eth0 in {pod_netns}: {done.stderr.decode('utf-8', 'replace').strip()}")
    [link] = msgspec.json.decode(done.stdout)
    return int(link["link_index"])


def _detach(links: list[int]) -> None:
    # The lab's links have no other qdisc. Destroying the hook at both points removes the qdisc with its filters.
    for endpoint in links:
        hook = _hook(endpoint, _INGRESS | _EGRESS)
        _libbpf().bpf_tc_hook_destroy(ctypes.byref(hook))


def _hook(endpoint: int, point: int) -> _Hook:
    return _Hook(sz=ctypes.sizeof(_Hook), ifindex=endpoint, attach_point=point)


def _failure(what: str) -> KernelError:
    code = ctypes.get_errno()
    return KernelError(f"{what}: {os.strerror(code)}{': run it as root' if code == errno.EPERM else ''}")


@functools.lru_cache(maxsize=1)
def _libbpf() -> Any:  # noqa: ANN401 - the attributes of a shared library have no types
    try:
        library = ctypes.CDLL(_LIBBPF, use_errno=True)
    except OSError:
        raise HostError("the eBPF path needs libbpf 1.x: apt-get install libbpf1") from None
    # libbpf prints errors to standard error by default, also EEXIST for an existing qdisc.
    library.libbpf_set_print(None)
    library.bpf_object__open_file.restype = ctypes.c_void_p
    library.bpf_object__find_program_by_name.restype = ctypes.c_void_p
    library.bpf_object__find_program_by_name.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.bpf_object__find_map_fd_by_name.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.bpf_map_update_elem.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64]
    library.bpf_map_delete_elem.argtypes = [ctypes.c_int, ctypes.c_char_p]
    return library
