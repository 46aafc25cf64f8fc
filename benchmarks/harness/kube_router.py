"""Rules in kube-router's layout: a chain walks over all Pods of the node, two rules each, until the packet's Pod.

Each Pod has a chain of its own, which returns packets of established connections first, then jumps to a chain for each
of its policies. (kube-router 2.x, pkg/controllers/netpol: KUBE-ROUTER-FORWARD, KUBE-POD-FW-*, KUBE-NWPLCY-*.) A policy
sets a bit of the mark for what it allows; without it the Pod's chain drops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_ALLOWED = "0x10000/0x10000"


def restore_text(pods: Sequence[str], port: int) -> str:
    """Return the input of iptables-restore for table filter. pods: addresses, in the order of the walk.

    port: the TCP ports that the policy of every Pod allows: this one and the next
    """
    return "".join(f"{line}\n" for line in _lines(pods, port))


def _lines(pods: Sequence[str], port: int) -> Iterator[str]:
    chains = [(address, f"KUBE-POD-FW-{number:04}", f"KUBE-NWPLCY-{number:04}") for number, address in enumerate(pods)]
    yield "*filter"
    yield ":KUBE-ROUTER-FORWARD - [0:0]"
    for _, pod, policy in chains:
        yield from (f":{pod} - [0:0]", f":{policy} - [0:0]")
    for address, pod, _ in chains:
        yield f"-A KUBE-ROUTER-FORWARD -d {address} -m comment --comment {pod} -j {pod}"
        yield f"-A KUBE-ROUTER-FORWARD -s {address} -m comment --comment {pod} -j {pod}"
    for address, pod, policy in chains:
        yield f"-A {pod} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        yield f"-A {pod} -m conntrack --ctstate INVALID -j DROP"
        yield f"-A {pod} -d {address} -m addrtype --src-type LOCAL -j ACCEPT"
        yield f"-A {pod} -j {policy}"
        yield f"-A {pod} -m mark ! --mark {_ALLOWED} -j REJECT --reject-with icmp-port-unreachable"
        yield f"-A {pod} -j MARK --set-xmark 0/0x10000"
        yield f"-A {pod} -m mark ! --mark 0x20000/0x20000 -j MARK --set-xmark 0x20000/0x20000"
        yield f"-A {policy} -p tcp -m tcp --dport {port}:{port + 1} -j MARK --set-xmark {_ALLOWED}"
        yield f"-A {policy} -m mark --mark {_ALLOWED} -j RETURN"
    yield "-I FORWARD 1 -j KUBE-ROUTER-FORWARD"
    yield "COMMIT"
