"""Why a kernel makes no tunnel, and what to do."""

from __future__ import annotations

import errno

import pytest

from nfagent.kernel.gateway_tunnel import refusal


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EOPNOTSUPP, "the kernel has no VXLAN: run `modprobe vxlan`"),
        (errno.EADDRINUSE, "another program has UDP port 4790"),
        (
            errno.EEXIST,
            "another interface has the name nfagent-gw: remove it with `ip link delete nfagent-gw`",
        ),
        (errno.EPERM, "interface nfagent-gw is refused: Operation not permitted"),
    ],
    ids=["without the module", "with the port in use", "with the name in use", "without the right"],
)
def test_a_refusal_says_what_to_do(code: int, said: str) -> None:
    assert refusal(code) == said
