"""A policy beyond a size limit fails closed; one at the limit is enforced."""

from __future__ import annotations

import pytest

from nfagent.decode.networkpolicy import decode_network_policy
from nfagent.decode.policy_limits import MOST_PAIRS, MOST_RULES, MOST_SELECTORS, MOST_VALUES, MOST_WIDE
from nfagent.model.selectors import Requirement
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, pod, policy

WEB = pod("shop/web", "a", 10, app="web")
DB = pod("shop/db", "a", 11, app="db")
SPY = pod("ops/spy", "b", 20, app="spy")


def rules(count: int) -> list[Document]:
    return [{"ports": [{"port": 80}]}] * count


def names(count: int) -> list[Document]:
    return [{"ports": [{"port": f"p{number}"} for number in range(count)]}]


def selectors(count: int) -> list[Document]:
    return [{"from": [{"podSelector": labelled(app=f"a{number}")} for number in range(count)]}]


def blocks(count: int) -> list[Document]:
    return [{"from": [{"ipBlock": {"cidr": f"10.{n // 250}.{n % 250}.0/24"}} for n in range(count)]}]


def excepts(count: int) -> list[Document]:
    holes = [f"10.{n // 250}.{n % 250}.0/24" for n in range(count - 1)]
    return [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": holes}}]}]


def values(count: int) -> list[Document]:
    listed = [f"v{number}" for number in range(count - 2)]
    return [{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": listed}]}}]}]


def wide(count: int) -> list[Document]:
    """Return peers that an index finds too, and so many that none does."""
    negative = [
        {"namespaceSelector": {}, "podSelector": {"matchExpressions": [{"key": f"k{n}", "operator": "DoesNotExist"}]}}
        for n in range(count)
    ]
    found = [{"namespaceSelector": {}, "podSelector": labelled(app=f"a{n}")} for n in range(30)]
    return [{"from": [*negative, *found]}]


def empty_peers(count: int) -> list[Document]:
    return [{"from": [{"podSelector": {}}] * count}]


def pairs(count: int) -> list[Document]:
    """Return one rule of a policy that is an nftables rule for each pair of peer and port."""
    both = [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]
    ports = [{"protocol": protocol, "port": port} for protocol in ("TCP", "UDP", "SCTP") for port in (80, 90, 100)]
    return [{"from": both, "ports": ports}] * (count // 18) + [{"ports": [{"port": 80}]}] * (count % 18)


def many_ports(count: int) -> list[Document]:
    """Return as many ports as that, which are one set of ports."""
    return [{"from": [{"podSelector": {}}], "ports": [{"port": number + 1} for number in range(count)]}]


LISTED = {
    "peers that no index finds": (
        wide,
        MOST_WIDE,
        "has 21 peers of all Namespaces by NotIn or DoesNotExist alone, and one policy may have 20; write several",
    ),
    "rules": (rules, MOST_RULES, "has 1,001 rules and ports by name, and one policy may have 1,000; write several"),
    "ports by name": (names, MOST_RULES - 1, "has 1,001 rules and ports by name"),
    "peers by selector": (selectors, MOST_SELECTORS, "has 2,001 peers by selector, and one policy may have 2,000"),
    "peers that say nothing": (empty_peers, MOST_SELECTORS, "has 2,001 peers by selector"),
    "ipBlocks": (blocks, MOST_VALUES - 2, "has 20,001 values in all, and one policy may have 20,000"),
    "exceptions of an ipBlock": (excepts, MOST_VALUES - 2, "has 20,001 values in all"),
    "peers times ports": (pairs, MOST_PAIRS, "has 4,001 pairs of peers and ports, and one policy may have 4,000"),
    "ports by number": (many_ports, MOST_VALUES - 3, "has 20,001 values in all"),
    "values of a selector": (values, MOST_VALUES - 2, "has 20,001 values in all"),
}


@pytest.mark.parametrize(("listed", "most", "said"), LISTED.values(), ids=LISTED)
def test_one_policy_may_have_only_so_many(listed: object, most: int, said: str) -> None:
    def decoded(count: int) -> Document:
        return policy("shop/large", labelled(app="web"), types=["Ingress"], ingress=listed(count))  # type: ignore[operator]

    at_most, more = (decode_network_policy(decoded(count)) for count in (most, most + 1))
    assert (at_most.problem, len(at_most.ingress) > 0) == (None, True)
    assert more.problem is not None
    assert (more.problem.object, more.problem.field) == ("NetworkPolicy shop/large", "spec")
    assert said in more.problem.reason
    assert (more.ingress, more.isolates) == ((), ("ingress",))
    assert more.pods.requirements == (Requirement("app", "In", ("web",)),)


def test_it_denies_its_own_pods_and_no_others() -> None:
    large = policy("shop/large", labelled(app="web"), types=["Ingress"], ingress=rules(MOST_RULES + 1))
    other = policy("shop/other", labelled(app="db"), types=["Ingress"], ingress=rules(1))
    scene = TwoNodeCluster(WEB, DB, SPY, large, other)
    assert not scene.passes("ops/spy", "shop/web", "80/tcp")
    assert scene.passes("ops/spy", "shop/db", "80/tcp")
    assert scene.passes("shop/web", "ops/spy", "80/tcp")


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"ingress": "x"}, id="rules that are no list"),
        pytest.param({"ingress": ["x", None, 5]}, id="rules that are no mappings"),
        pytest.param({"ingress": [{"from": {"a": 1}, "ports": 7}]}, id="peers and ports that are no lists"),
        pytest.param({"ingress": [{"from": [None, "x"], "ports": [None, "x"]}]}, id="peers and ports of another form"),
        *(
            pytest.param(
                {
                    "ingress": [
                        {"from": [{"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": given}]}}]}
                    ]
                },
                id=f"an operator that is {kind}",
            )
            for given, kind in (([], "a list"), ({"x": "y"}, "a mapping"), (1, "a number"))
        ),
        pytest.param({"ingress": [{"ports": [{"protocol": ["TCP"], "port": {}}]}]}, id="a protocol that is a list"),
    ],
)
def test_counting_takes_any_form_and_decoding_says_what_is_wrong(spec: Document) -> None:
    found = decode_network_policy(policy("shop/odd", types=["Ingress"]) | {"spec": {"podSelector": {}} | spec})
    assert found.problem is not None
    assert "may have" not in found.problem.reason
