"""Words the kernel's refusal of a batch: the command, the part at fault, the reason, and what a kernel lacks."""

from __future__ import annotations

import errno
import os

import msgspec

from nfagent.errors import HostError, KernelError, SetFullError
from nfagent.kernel.sockets import AS_ROOT, NEEDS_ROOT
from nfagent.model.netaddr import Range
from nfagent.netlink.extack import Acknowledgement
from nfagent.netlink.nft_elements import ElementRequest
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE, NFPROTO_INET, Request
from nfagent.netlink.nft_objects import ObjectRequest
from nfagent.netlink.nft_rules import RuleRequest
from nfagent.nftables.objects import PortRange
from nfagent.nftables.transaction import AddChain, AddTable, Delete

_COMMAND_LENGTH = 300
"""Characters of a command in a message: a rule may have an anonymous set of thousands of ports."""


class _Feature(msgspec.Struct, frozen=True):
    """What a kernel may lack.

    option: of the kernel's configuration
    module: which modprobe loads, where it was built but isn't found by itself; '' for a part of nf_tables
    """

    option: str
    module: str = ""

    def hint(self) -> str:
        load = f"modprobe {self.module}, or " if self.module else ""
        return f"{load}run a kernel with {self.option}"


_EXPRESSIONS = {
    "ct": _Feature("CONFIG_NFT_CT", "nft_ct"),
    "fib": _Feature("CONFIG_NFT_FIB_INET", "nft_fib_inet"),
    # nft_log refuses as well where nothing receives the log of an NFLOG group
    "log": _Feature("CONFIG_NFT_LOG and CONFIG_NETFILTER_NETLINK_LOG", "-a nft_log nfnetlink_log"),
    "masq": _Feature("CONFIG_NFT_MASQ", "nft_masq"),
}
"""The kernel's names of those expressions that aren't part of nf_tables itself."""
_CHAIN_TYPES = {"type nat": _Feature("CONFIG_NFT_NAT", "nft_chain_nat")}
_FAMILIES = {
    NFPROTO_INET: _Feature("CONFIG_NF_TABLES_INET"),
    NFPROTO_BRIDGE: _Feature("CONFIG_NF_TABLES_BRIDGE"),
}
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.EAFNOSUPPORT}
_REFERRING = {"lookup": "set or map", "dynset": "set", "objref": "named counter", "immediate": "chain"}
"""Expressions that refer to an object by name, which may be missing."""


class RefusedError(KernelError):
    """The kernel refused a command, and with it the whole batch: the table is as before.

    errno:   the reason, as in errno(3)
    command: the refused command in nft syntax
    part:    what is at fault, in nft's words: an element, an expression, 'chain deny/x', 'table inet nfagent';
             '' where the kernel doesn't say
    request: the refused message
    """

    def __init__(self, request: Request, answer: Acknowledgement, others: int = 0) -> None:
        """Build the message from request and acknowledgement; `others` counts further refused messages."""
        self.request = request
        self.errno = answer.errno
        self.command = request.describe()
        self.part = request.part_at(answer.offset)
        shown = _shortened(self.command)
        reason = _reason(request, answer, self.part)
        name = self.part.partition(" ")[2]
        ends = (f"{{ {self.part} }}", f" {name}" if name else self.part)
        is_said = not self.part or shown.endswith(ends) or reason.endswith(self.part)
        place = shown if is_said else f"{shown}: {self.part}"
        message = f"{place}: {reason} ({error_name(answer.errno)})"
        message += f"; the kernel says: {answer.text}" if answer.text else ""
        message += f"; {others} more of the batch's messages were refused" if others else ""
        super().__init__(message, hint=_hint(request, answer.errno, self.part))


class FullError(RefusedError, SetFullError):
    """The set has as many elements as its size allows."""


def refusal(request: Request, answer: Acknowledgement, others: int = 0) -> RefusedError:
    """Return the error for a refused message of a batch; `others` counts further refused messages."""
    full = answer.errno == errno.ENFILE and isinstance(request, ElementRequest)
    return (FullError if full else RefusedError)(request, answer, others)


def refusal_of_batch(answer: Acknowledgement, messages: int) -> HostError | KernelError:
    """Return the error for a batch of so many messages that the kernel refused without naming one of them."""
    if answer.errno == errno.EPERM:
        return HostError(NEEDS_ROOT, hint=AS_ROOT)
    if answer.errno == errno.EOPNOTSUPP:
        return HostError("this kernel has no nf_tables", hint="modprobe nf_tables")
    detail = f"; the kernel says: {answer.text}" if answer.text else ""
    reason = _REASONS.get(answer.errno) or _plain(answer.errno)
    return KernelError(
        f"the kernel refused a batch of {messages} messages as a whole: {reason} ({error_name(answer.errno)}){detail}"
    )


def error_name(number: int) -> str:
    """Return the name of an errno: 'ENOENT'; the number where it has none."""
    # Linux has one number for EOPNOTSUPP and ENOTSUP; nf_tables means the former.
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, str(number))


_REASONS = {
    errno.EAFNOSUPPORT: "this kernel doesn't support it",
    errno.EBUSY: "it is in use",
    errno.EEXIST: "there is one of this name already, with other properties",
    errno.EINVAL: "the kernel doesn't take it in this form",
    errno.EMFILE: "too many rules and elements refer to it",
    errno.EMLINK: "too many links: its jumps and gotos lead in a circle, or more than 16 deep",
    errno.ENFILE: "the set is full",
    errno.ENOBUFS: "the kernel has no memory for it",
    errno.ENODATA: "it reads more than the rule has loaded",
    errno.ENOMEM: "the kernel has no memory for it",
    errno.EOPNOTSUPP: "this kernel doesn't support it",
    errno.EPERM: "another process owns the table, which alone may change it",
}


def _hint(request: Request, number: int, part: str) -> str:
    feature = _missing_feature(request, number, part)
    return "" if feature is None else feature.hint()


def _missing_feature(request: Request, number: int, part: str) -> _Feature | None:
    """Return what a kernel lacks that refuses a command with this errno; None where that isn't the reason."""
    match request:
        case ElementRequest():
            return None
        case ObjectRequest(AddTable(), family) if number in _UNSUPPORTED:
            return _FAMILIES.get(family)
        case ObjectRequest():
            return _CHAIN_TYPES.get(part) if number == errno.ENOENT else None
    return _EXPRESSIONS.get(part) if number in {errno.ENOENT, *_UNSUPPORTED} and part not in _REFERRING else None


_OTHER_HOOK = "a chain of this name has another hook or none, or this kernel has no base chain of this type and hook"
_HOOKED = "its chain has a hook, so nothing may lead there"
_UNUSABLE = "it leads to a chain with a hook, or to rules that can't be used from the hooks that lead to the map"


def _reason(request: Request, answer: Acknowledgement, part: str) -> str:
    match request, answer.errno:
        case ElementRequest(), _ if words := _element_reason(request, answer):
            return words
        case _, errno.ENOENT:
            return _missing(request, answer, part)
        case ObjectRequest(Delete()), errno.EBUSY:
            return "rules or elements still refer to it"
        case ObjectRequest(AddChain()), errno.EOPNOTSUPP | errno.EEXIST:
            return _OTHER_HOOK
        case RuleRequest(), errno.EOPNOTSUPP:
            return _HOOKED if part == "immediate" else "this kernel lacks it, or doesn't take it at this hook"
    return _REASONS.get(answer.errno) or _plain(answer.errno)


def _missing(request: Request, answer: Acknowledgement, part: str) -> str:
    kind, _, name = part.partition(" ")
    if part in _REFERRING and isinstance(request, RuleRequest):
        # named again: a long command is shown without its end
        return f"the {_REFERRING[part]} {request.reference_at(answer.offset)} that it refers to is missing"
    if isinstance(request, RuleRequest) and not part and answer.offset is not None:
        return "the rule before which it is to be inserted is missing"
    if part and (not name or kind == "type" or _missing_feature(request, errno.ENOENT, part)):
        return "this kernel lacks it"
    return f"there is no {part}" if part else _plain(errno.ENOENT)


def _element_reason(request: ElementRequest, answer: Acknowledgement) -> str:
    """Return the reason for a refused element; '' where none is known."""
    element = request.element_at(answer.offset)
    # which of the two depends on the kernel version
    if answer.errno in {errno.EEXIST, errno.EBUSY}:
        if request.is_map:
            return "the address has another target already"
        is_interval = isinstance(element, Range | PortRange)
        return "the interval is in the set already, or overlaps one in it" if is_interval else ""
    if answer.errno == errno.ENOENT and element is not None:
        return f"it isn't in the {request.kind}" if request.verb == "delete" else "there is no chain of that name"
    if answer.errno == errno.EINVAL and element is not None:
        return f"it isn't of the {request.kind}'s type"
    if answer.errno == errno.EOPNOTSUPP and request.is_map:
        # the kernel names no element where it is about the rules behind one
        return _UNUSABLE if answer.offset is None else _HOOKED
    return f"the {request.kind} is full" if answer.errno == errno.ENFILE else ""


def _plain(number: int) -> str:
    return os.strerror(number).lower()


def _shortened(command: str) -> str:
    return command if len(command) <= _COMMAND_LENGTH else f"{command[: _COMMAND_LENGTH - 1]}…"
