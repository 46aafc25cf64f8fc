"""Reads table inet nfagent by libnftables, as JSON, and checks nft text by its dry run; commits nothing.

Rules are listed by the program `nft`: at some, libnftables ends its process (`nft_program.py`). Where no process can be
started, they are listed in this one: on a node whose limit of processes is reached, the table is repaired all the same.
There is one context; calls of other threads wait for each other (`nft_library.one_call`). The network namespace is that
of the calling thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import msgspec

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.nft_library import ContextOpener, one_call, require_netlink
from nfagent.kernel.nft_program import run_nft
from nfagent.kernel.nft_reply import listed_whole, printed
from nfagent.kernel.table_queries import table_flags
from nfagent.netlink.nft_events import TABLE_OWNER, TABLE_PERSIST
from nfagent.nftables.objects import (
    ABSENT,
    FLAGGED,
    TABLE,
    TABLE_FAMILY,
    TABLE_FLAGS,
    TABLE_PERSISTS,
    UNFLAGGED,
    Ruleset,
)
from nfagent.nftables.parse import parse_listing
from nfagent.system.descriptors import DescriptorReserve
from nfagent.system.gc_tuning import malloc_trim

_T = TypeVar("_T")
_VERSION = re.compile(r'"version": ?"([^"]*)"')
_OWNED = f"table {TABLE_FAMILY} {TABLE} belongs to another process (flags owner), which alone may change it"
_OWNER_HINT = f"end that process: `nft list table {TABLE_FAMILY} {TABLE}` names it"

INSTALL_HINT = "apt-get install python3-nftables nftables"


class NftListing:
    """A context of libnftables that lists and checks.

    version: of libnftables, as its last listing states it; '' before
    """

    def __init__(self) -> None:
        """Load libnftables. Raises HostError where it is missing or can't access nf_tables."""
        try:
            import nftables  # noqa: PLC0415 - the Debian package may be missing, which is an answer of its own
        except ImportError:
            raise HostError("python3-nftables is missing", hint=INSTALL_HINT) from None
        self.version = ""
        self._reserve = DescriptorReserve()
        self._context: Any = None
        try:
            self._opener = ContextOpener(nftables.Nftables, self._reserve)
            self._context = self._opened()
        except KernelError as error:
            self._reserve.close()
            raise HostError(error.reason, hint=error.hint) from None
        except OSError as error:
            self._reserve.close()
            raise HostError(f"cannot load libnftables ({error})", hint=INSTALL_HINT) from None

    def close(self) -> None:
        """Free the context and the reserved descriptors."""
        self._free_context()
        self._reserve.close()

    def ruleset(self, known: Ruleset = ABSENT) -> Ruleset:
        """Return the ruleset in the table; objects equal to one of `known` are that one.

        Raises UnlistableError, KernelError, HostError.
        """
        text = self.table(TABLE_FAMILY)
        if text is None:
            return ABSENT
        if (found := _VERSION.search(text, 0, 200)) is not None:
            self.version = found[1]
        return _with_flags(_listed(partial(parse_listing, known=known), text))

    def table(self, family: str) -> str | None:
        """Return the JSON listing of table nfagent of a family, None without it.

        nft 1.0.6 reads behind its names of flags to list a table with an owner as JSON, and damages its memory.
        Raises UnlistableError, KernelError, HostError.
        """
        if family == TABLE_FAMILY and _has_owner():
            raise KernelError(_OWNED, hint=_OWNER_HINT)
        command = f"list table {family} {TABLE}"
        done = run_nft("--json", command)
        reply = self._by_library(command) if done is None else (done.returncode, done.stdout, done.stderr)
        return listed_whole(f"nft --json {command}", *reply)

    def check(self, text: str) -> None:
        """Check nft text by a dry run. Raises KernelError, HostError."""
        self._opened_context().set_dry_run(True)
        try:
            printed(*self._run(text))
        finally:
            self._context.set_dry_run(False)

    def _opened(self) -> Any:  # noqa: ANN401 - the library is untyped
        require_netlink()
        context = self._opener.open()
        context.set_json_output(True)
        return context

    def _opened_context(self) -> Any:  # noqa: ANN401 - the library is untyped
        if self._context is None:
            try:
                self._context = self._opened()
            except OSError as reason:
                raise KernelError(f"cannot open libnftables again: {reason}") from None
        return self._context

    def _by_library(self, command: str) -> tuple[int, bytes, bytes]:
        try:
            return self._run(command)
        finally:
            self._replace_context()

    def _replace_context(self) -> None:
        """Replace the context: libnftables caches a listing, a kilobyte per element, until the next one."""
        self._free_context()  # first: malloc can then reuse its memory for the next one
        with suppress(KernelError, HostError, OSError):  # the next call tries again, and raises
            self._context = self._opened()
        malloc_trim()

    def _free_context(self) -> None:
        with one_call():  # the library frees it as soon as nothing refers to it
            self._context = None

    def _run(self, command: str) -> tuple[int, bytes, bytes]:
        self._opened_context()
        with one_call():
            # As bytes: the library prints the comments of other programs as they are, and is asked for text otherwise.
            status, output, refusal = self._context.cmd(command.encode())
        return status, output, refusal


def require_free_table() -> None:
    """Raise HostError where the table belongs to another process, which alone may change it."""
    reject_owner(table_flags())


def _has_owner() -> bool:
    """Return whether another process owns the table; False where that can't be read: then a listing fails by itself."""
    with suppress(KernelError, HostError):
        return bool(table_flags() & TABLE_OWNER)
    return False


def reject_owner(flags: int) -> None:
    """Raise HostError for the flags (NFT_TABLE_F_*) of a table that belongs to another process."""
    if flags & TABLE_OWNER:
        raise HostError(_OWNED, hint=_OWNER_HINT)


def _with_flags(listed: Ruleset) -> Ruleset:
    """Add the flag `persist` to a listing; only deleting the table clears it, and nft 1.0.6 doesn't know its name."""
    if TABLE_FLAGS not in listed.foreign or not table_flags() & TABLE_PERSIST:
        return listed
    return msgspec.structs.replace(listed, foreign=listed.foreign | {TABLE_PERSISTS})


def _listed(parse: Callable[[str], _T], text: str) -> _T:
    """Parse a listing. Raises KernelError, for flags too: nft 1.0.6 truncates the listing of a table with flags."""
    try:
        return _decoded(parse, text)
    except KernelError:
        flags = table_flags()
        if not flags:
            raise
        if flags & TABLE_OWNER:
            raise KernelError(_OWNED, hint=_OWNER_HINT) from None
        raise KernelError(f"{FLAGGED}, and this nft can't list it", hint=UNFLAGGED) from None


def _decoded(parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except WireError as error:
        raise KernelError(str(error)) from None
    except msgspec.DecodeError as error:
        raise KernelError(f"the output of libnftables is not JSON: {error}") from None
