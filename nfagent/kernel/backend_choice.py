"""Which kernel interface the rules are written to: nf_tables, or iptables with ipset."""

from __future__ import annotations

import errno
import os
from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.sockets import AS_ROOT, DATAGRAM_BYTES, NEEDS_ROOT, netfilter_socket
from nfagent.kernel.xt_programs import XtPrograms, find_programs
from nfagent.netlink import codec
from nfagent.netlink.nft_events import encode_generation_request

BackendName: TypeAlias = Literal["nftables", "iptables"]
BackendSetting: TypeAlias = Literal["auto", "nftables", "iptables"]
_LACKING = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
"""How nfnetlink answers requests to a subsystem that the kernel lacks; it refuses others for want of memory, say."""


class BackendChoice(msgspec.Struct, frozen=True):
    """The backend, and why it is this one.

    programs: those of iptables; None for nftables
    """

    name: BackendName
    reason: str
    programs: XtPrograms | None = None

    def __str__(self) -> str:
        """Return it in words: 'iptables (legacy: kubelet uses it), as the kernel has no nf_tables'."""
        variant = "" if self.programs is None else f" ({self.programs.variant}: {self.programs.reason})"
        return f"{self.name}{variant}, as {self.reason}"


def has_nf_tables() -> bool:
    """Return whether the kernel has nf_tables. Raises KernelError, HostError where it doesn't say.

    A kernel without it refuses any request to it, and one without nfnetlink has no such socket.
    """
    try:
        opened = netfilter_socket(blocking=False)
    except HostError:
        return False
    with opened:
        try:
            opened.send(encode_generation_request(1))
            reply = next(codec.messages(opened.recv(DATAGRAM_BYTES)))
            code = codec.ack_errno(reply) if reply.type == codec.NLMSG_ERROR else 0
        except (OSError, WireError) as error:
            raise KernelError(f"cannot find out whether the kernel has nf_tables: {error}") from error
    if code == errno.EPERM:
        raise HostError(NEEDS_ROOT, hint=AS_ROOT)
    if code not in _LACKING | {0}:
        raise KernelError(f"cannot find out whether the kernel has nf_tables: {os.strerror(code)}")
    return code == 0


def choose_backend(setting: BackendSetting) -> BackendChoice:
    """Return the backend for a setting. Raises HostError, KernelError where iptables is wanted and can't be used."""
    nf_tables = has_nf_tables()
    if setting == "nftables":
        return BackendChoice("nftables", "the settings say so")
    if setting == "auto" and nf_tables:
        return BackendChoice("nftables", "the kernel has nf_tables")
    reason = "the settings say so" if setting == "iptables" else "the kernel has no nf_tables"
    return BackendChoice("iptables", reason, find_programs(nf_tables=nf_tables))
