"""System calls on netlink sockets are counted from strace's output, across threads."""

from __future__ import annotations

import pytest

from benchmarks.harness.netlink_traffic import NetlinkTraffic, netlink_calls

_SOCKET = "7<NETLINK:[NETFILTER:4242]>"
_SENT = f"100   sendmsg({_SOCKET}, {{msg_name={{sa_family=AF_NETLINK}}, msg_flags=0}}, 0) = 144"


@pytest.mark.parametrize(
    ("lines", "calls"),
    [
        pytest.param([_SENT], [("sendmsg", 144)], id="a call is counted with its bytes"),
        pytest.param([_SENT.removeprefix("100   ")], [("sendmsg", 144)], id="a process without threads has no ids"),
        pytest.param(['100   sendto(3<UNIX-STREAM:[1->2]>, ""..., 1, 0) = 1'], [], id="other sockets are left out"),
        pytest.param(
            [f"100   recvfrom({_SOCKET}, 0x7f00, 8192, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)"],
            [],
            id="a call that fails is left out",
        ),
        pytest.param(
            [
                f"100   recvmsg({_SOCKET}, <unfinished ...>",
                '101   sendto(3<UNIX-STREAM:[1->2]>, ""..., 1, 0) = 1',
                "100   <... recvmsg resumed>{msg_flags=0}, 0) = 16384",
            ],
            [("recvmsg", 16384)],
            id="a call that another thread interrupts is counted when it returns",
        ),
        pytest.param(
            ['100   <... recvmsg resumed>""..., 0) = 16384'],
            [],
            id="a call that began before strace was attached is left out",
        ),
    ],
)
def test_calls_of_a_trace(lines: list[str], calls: list[tuple[str, int]]) -> None:
    assert list(netlink_calls(lines)) == calls


def test_sent_and_read_bytes_are_added_up() -> None:
    found = NetlinkTraffic()
    for call, size in (("sendto", 10), ("sendmsg", 20), ("recvmsg", 300), ("recvfrom", 400)):
        found.add(call, size)
    assert found == NetlinkTraffic(sent_calls=2, sent_bytes=30, read_calls=2, read_bytes=700)
