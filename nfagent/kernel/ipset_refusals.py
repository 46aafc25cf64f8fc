"""Words the kernel's refusal of an ipset request: what was asked, the member at fault, the reason, and what to do."""

from __future__ import annotations

import errno
import os

import msgspec

from nfagent.errors import HostError, KernelError, SetFullError
from nfagent.kernel.refusals import error_name
from nfagent.kernel.sockets import AS_ROOT
from nfagent.xtables.objects import SetMember
from nfagent.xtables.text import member_text

NEEDS_ROOT = "ipset needs root (CAP_NET_ADMIN)"
NO_IPSET = "this kernel has no ipset"
LOAD_IPSET = "modprobe ip_set, or run a kernel with CONFIG_IP_SET"
_PRIVATE, _TYPE_SPECIFIC = 4096, 4352
FULL = _TYPE_SPECIFIC
"""IPSET_ERR_HASH_FULL; of a bitmap IPSET_ERR_BITMAP_RANGE."""
_IN_USE = (_PRIVATE + 4, _PRIVATE + 12)
_REASONS = {
    _PRIVATE + 1: ("PROTOCOL", "the kernel doesn't take it in this form"),
    _PRIVATE + 2: ("FIND_TYPE", "this kernel lacks the set type, or this revision of it"),
    _PRIVATE + 3: ("MAX_SETS", "the kernel holds as many sets as it can"),
    _PRIVATE + 4: ("BUSY", "rules or other sets still refer to it"),
    _PRIVATE + 5: ("EXIST_SETNAME2", "there is a set of the new name already"),
    _PRIVATE + 6: ("TYPE_MISMATCH", "the two sets have different types"),
    _PRIVATE + 7: ("EXIST", "the member is in the set already, or isn't in it"),
    _PRIVATE + 8: ("INVALID_CIDR", "the set takes no such prefix length"),
    _PRIVATE + 10: ("INVALID_FAMILY", "the type has no such family"),
    _PRIVATE + 11: ("TIMEOUT", "the set has no timeouts"),
    _PRIVATE + 12: ("REFERENCED", "rules or other sets still refer to it"),
    _PRIVATE + 13: ("IPADDR_IPV4", "the set holds IPv4 addresses"),
    _PRIVATE + 14: ("IPADDR_IPV6", "the set holds IPv6 addresses"),
    FULL: ("HASH_FULL", "the set is full"),
    _TYPE_SPECIFIC + 1: ("HASH_ELEM", "the kernel takes no such member"),
    _TYPE_SPECIFIC + 2: ("INVALID_PROTO", "the kernel takes no such protocol"),
    errno.EEXIST: ("", "there is one of this name already"),
    errno.ENOENT: ("", "there is no set of this name"),
    errno.ENOMEM: ("", "the kernel has no memory for it"),
}
_MODULES = {"hash:ip,port": "hash_ipport", "hash:ip,port,ip": "hash_ipportip", "hash:net,iface": "hash_netiface"}


class SetRequest(msgspec.Struct, frozen=True):
    """What one request asks for, in the words of ipset(8).

    command: 'create nfa-x hash:ip', 'add nfa-x'
    members: of a request that changes members
    """

    command: str
    members: tuple[SetMember, ...] = ()

    def describe(self, line: int | None = None) -> str:
        """Return the command, with the member of a line number, or their number."""
        if not self.members:
            return f"ipset {self.command}"
        if len(self.members) == 1:
            line = 0
        if line is None or line >= len(self.members):
            return f"ipset {self.command} ({len(self.members)} members)"
        return f"ipset {self.command} {member_text(self.members[line])}"


class SetRefusedError(KernelError):
    """The kernel refused a request; those before it, and members before a refused one, are in force.

    code: an errno, or one of ipset's own (IPSET_ERR_*)
    """

    def __init__(self, request: SetRequest, code: int, line: int | None = None) -> None:
        """Build the message from the request and its acknowledgement."""
        self.code = code
        self.request = request
        name, reason = _REASONS.get(code, ("", ""))
        shown = f"IPSET_ERR_{name}" if name else error_name(code)
        super().__init__(
            f"{request.describe(line)}: {reason or os.strerror(code).lower()} ({shown})", hint=_hint(request, code)
        )


class SetRefusedFullError(SetRefusedError, SetFullError):
    """The set has as many members as its size allows."""


def set_refusal(request: SetRequest, code: int, line: int | None = None) -> HostError | KernelError:
    """Return the error for a refused request."""
    if code == errno.EPERM:
        return HostError(NEEDS_ROOT, hint=AS_ROOT)
    if code in {errno.EOPNOTSUPP, errno.EINVAL} and not request.members:
        return HostError(NO_IPSET, hint=LOAD_IPSET)
    full = code == FULL and bool(request.members)
    return (SetRefusedFullError if full else SetRefusedError)(request, code, line)


def _hint(request: SetRequest, code: int) -> str:
    if code in _IN_USE:
        name = request.command.split(" ")[-1]
        return f"delete what `(iptables-legacy-save; iptables-nft-save; ipset save) | grep {name}` shows"
    if code != _PRIVATE + 2:
        return ""
    kind = request.command.split(" ")[-1]
    module = _MODULES.get(kind, kind.replace(":", "_").replace(",", ""))
    return f"modprobe ip_set_{module}, or run a kernel with CONFIG_IP_SET_{module.upper()}"
