"""Whether the kernel has nf_tables, by what it answers."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nfagent.errors import HostError, KernelError
from nfagent.kernel import backend_choice
from nfagent.kernel.backend_choice import has_nf_tables
from nfagent.netlink import codec


@contextmanager
def answered_with(code: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the next request to the kernel refused with an errno; 0 is an acknowledgement."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.send(codec.message(codec.NLMSG_ERROR, 0, 1, struct.pack("=iIHHII", -code, 20, 0, 0, 1, 0)))

    def opened(*, blocking: bool) -> socket.socket:
        assert not blocking
        return theirs

    with ours, monkeypatch.context() as patched:
        patched.setattr(backend_choice, "netfilter_socket", opened)
        yield


@pytest.mark.parametrize(
    ("code", "there"),
    [
        pytest.param(0, True, id="a kernel that has it"),
        pytest.param(errno.EINVAL, False, id="one that lacks it"),
        pytest.param(errno.EOPNOTSUPP, False, id="one that lacks it, in other words"),
    ],
)
def test_nf_tables_is_there_by_the_answer_of(
    code: int,
    there: bool,  # noqa: FBT001 - a table's column
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with answered_with(code, monkeypatch):
        assert has_nf_tables() is there


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.ENOBUFS, errno.EBUSY, errno.EINTR], ids=errno.errorcode.get)
def test_a_refusal_for_another_reason_does_not_tell_and_rules_are_not_written_to_iptables_for_it(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        answered_with(code, monkeypatch),
        pytest.raises(KernelError, match="cannot find out whether the kernel"),
    ):
        has_nf_tables()


def test_without_the_right_to_ask_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with answered_with(errno.EPERM, monkeypatch), pytest.raises(HostError, match="needs root"):
        has_nf_tables()
