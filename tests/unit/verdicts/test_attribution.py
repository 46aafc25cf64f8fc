"""Attribution of logged packets to records: Pods, verdict, policies."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import msgspec
import pytest

from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import TierPolicy, TierRule
from nfagent.model.networkpolicy import PodPeer, PolicyPort
from nfagent.model.objects import ObjectRef
from nfagent.model.selectors import Selector
from nfagent.netlink.nflog import LoggedPacket
from nfagent.nftables import names
from nfagent.nftables.objects import Ruleset
from nfagent.policy.evaluator import Flow, evaluate
from nfagent.verdicts.attribution import OTHER_HOOK, OTHER_POD, AttributionCounters, Attributor, flow_of
from nfagent.verdicts.history import ObjectHistory
from nfagent.verdicts.packet_origin import IPTABLES
from nfagent.verdicts.records import PolicyName, Record, RecordConnection, RecordEndpoint, encode
from nfagent.xtables.names import LOG_PREFIX_BYTES, log_prefix
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, pod, policy

NOW = 1_592_083_771_000_000_000
TCP, UDP, ICMP, GRE, ICMPV6, SCTP = 6, 17, 1, 47, 58, 132
WEB, DB, OUTSIDE = "10.64.0.10", "10.64.0.20", "203.0.113.7"
WEB6, DB6 = "2001:db8:0:a::10", "2001:db8:0:a::20"

FROM_WEB = policy(
    "shop/from-web", labelled(app="db"), ingress=[{"from": [{"podSelector": labelled(app="web")}]}], types=["Ingress"]
)
ON_5432 = policy("shop/on-5432", labelled(app="db"), ingress=[{"ports": [{"port": 5432}]}], types=["Ingress"])
CLOSED = policy("shop/closed", labelled(app="db"), types=["Ingress", "Egress"])
LOGGING = {
    "kind": "NetworkLogging",
    "metadata": {"name": "default"},
    "spec": {"cluster": {"allow": {"log": True, "delegate": False}, "deny": {"log": True, "delegate": False}}},
}


def scene(*documents: Document) -> TwoNodeCluster:
    return TwoNodeCluster(pod("shop/web", "a", 10, app="web"), pod("shop/db", "a", 20, app="db"), *documents)


def ports(source: int, destination: int) -> bytes:
    return struct.pack("!HH", source, destination)


def packet(source: str, destination: str, protocol: int, upper: bytes = b"") -> bytes:
    ends = ip_address(source).packed + ip_address(destination).packed
    if ":" in source:
        return struct.pack("!IHBB", 6 << 28, len(upper), protocol, 64) + ends + upper
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(upper), 0, 0, 64, protocol, 0) + ends + upper


def logged(prefix: str, payload: bytes, timestamp_ns: int | None = None) -> LoggedPacket:
    return LoggedPacket(
        prefix=prefix,
        payload=payload,
        hook=2,
        hw_protocol=0x0800,
        sequence=0,
        timestamp_ns=timestamp_ns,
        in_interface=1,
        out_interface=2,
    )


def attributed(attributor: Attributor, prefix: str, payload: bytes) -> Record:
    record = attributor.attribute(logged(prefix, payload), NOW)
    assert record is not None, attributor.counters
    return record


def named(*policies: str) -> tuple[PolicyName, ...]:
    return tuple(PolicyName(name, "shop", "NetworkPolicy") for name in policies)


def by_name(namespace: str, *policies: str) -> tuple[ObjectRef, ...]:
    return tuple(ObjectRef("NetworkPolicy", namespace, name) for name in policies)


def shop(name: str) -> RecordEndpoint:
    return RecordEndpoint(
        pod_name=name, workload_kind="Pod", workload_name=name, pod_namespace="shop", namespace="shop"
    )


def test_an_allow_names_every_policy_that_allows_whichever_rule_decided() -> None:
    attributor = Attributor(scene(FROM_WEB, ON_5432, CLOSED).views["a"])

    record = attributed(attributor, "allow ingress shop/from-web", packet(WEB, DB, TCP, ports(40000, 5432)))

    assert record == Record(
        connection=RecordConnection(
            src_ip=WEB, dest_ip=DB, src_port=40000, dest_port=5432, protocol="tcp", direction="ingress"
        ),
        disposition="allow",
        policies=named("from-web", "on-5432"),
        src=shop("web"),
        dest=shop("db"),
        count=1,
        node_name="a",
        timestamp="2020-06-13T21:29:31.000000000Z",
    )


def test_another_port_of_the_same_pods_is_evaluated_separately() -> None:
    attributor = Attributor(scene(FROM_WEB, ON_5432).views["a"])
    attributed(attributor, "allow ingress shop/from-web", packet(WEB, DB, TCP, ports(40000, 5432)))

    record = attributed(attributor, "allow ingress shop/from-web", packet(WEB, DB, TCP, ports(40000, 5433)))

    assert record.policies == named("from-web")


def test_a_deny_names_the_policies_that_isolate_and_none_that_allow() -> None:
    attributor = Attributor(scene(FROM_WEB, ON_5432, CLOSED).views["a"])

    record = attributed(attributor, "deny ingress shop/closed_from-web_on-5432", packet(OUTSIDE, DB, UDP, ports(1, 53)))

    assert (record.disposition, record.policies) == ("deny", ())
    assert record.isolating_policies == named("closed", "from-web", "on-5432")
    assert (record.src, record.dest) == (RecordEndpoint(instance=OUTSIDE), shop("db"))


def test_egress_is_attributed_at_the_source() -> None:
    out, wide = (policy(f"shop/{name}", labelled(app="web"), egress=[{}], types=["Egress"]) for name in ("out", "wide"))
    attributor = Attributor(scene(out, wide, CLOSED).views["a"])

    record = attributed(attributor, "allow egress shop/out", packet(WEB, DB, TCP, ports(1, 443)))

    assert (record.connection.direction, record.policies) == ("egress", named("out", "wide"))
    assert (record.src, record.dest) == (shop("web"), shop("db"))


@pytest.mark.parametrize(
    ("payload", "protocol", "source_port", "destination_port"),
    [
        pytest.param(packet(OUTSIDE, DB, TCP, ports(1, 2)), "tcp", 1, 2, id="TCP"),
        pytest.param(packet(OUTSIDE, DB, SCTP, ports(3, 4)), "sctp", 3, 4, id="SCTP"),
        pytest.param(packet(OUTSIDE, DB, ICMP, b"\x08\x00"), "icmp", None, None, id="ICMP has no ports"),
        pytest.param(packet(WEB6, DB6, ICMPV6, b"\x80\x00"), "icmpv6", None, None, id="ICMPv6 has no ports"),
        pytest.param(packet(OUTSIDE, DB, GRE, b"\0" * 8), "unknown", None, None, id="another protocol"),
        pytest.param(packet(OUTSIDE, DB, TCP), "tcp", None, None, id="a copy that ends before the ports"),
        pytest.param(packet(WEB6, DB6, UDP, ports(5, 6)), "udp", 5, 6, id="UDP over IPv6"),
    ],
)
@pytest.mark.parametrize("verdict", ["allow", "deny"])
def test_protocols_and_ports(
    payload: bytes, protocol: str, source_port: int | None, destination_port: int | None, verdict: str
) -> None:
    everyone = policy("shop/everyone", labelled(app="db"), ingress=[{}])
    attributor = Attributor(scene(everyone).views["a"])

    record = attributed(attributor, f"{verdict} ingress shop/everyone", payload)

    connection = record.connection
    assert (connection.protocol, connection.src_port, connection.dest_port) == (protocol, source_port, destination_port)
    assert record.policies == (named("everyone") if verdict == "allow" else ())


def test_an_address_of_a_node_is_an_instance() -> None:
    attributor = Attributor(scene(CLOSED).views["a"])
    record = attributed(attributor, "deny ingress shop/closed", packet("192.168.0.2", DB, TCP, ports(1, 2)))
    assert record.src == RecordEndpoint(instance="192.168.0.2")


def test_a_record_has_the_time_of_the_packet_or_the_current_time() -> None:
    attributor = Attributor(scene(CLOSED).views["a"])
    payload = packet(OUTSIDE, DB, TCP, ports(1, 2))
    own = attributor.attribute(logged("deny ingress shop/closed", payload, 1_000_000_001), NOW)
    assert own is not None
    assert own.timestamp == "1970-01-01T00:00:01.000000001Z"
    first = attributor.attribute(logged("deny ingress shop/closed", payload, 0), NOW)
    assert first is not None
    assert first.timestamp == "1970-01-01T00:00:00.000000000Z"


@pytest.mark.parametrize(
    ("prefix", "counters"),
    [
        pytest.param("", AttributionCounters(foreign=1), id="no prefix"),
        pytest.param("another program's: ", AttributionCounters(foreign=1), id="of another program"),
        pytest.param("DROP by policy shop/from-web", AttributionCounters(foreign=1), id="of kube-router"),
        pytest.param("deny ingress", AttributionCounters(foreign=1), id="only the beginning of one of ours"),
        pytest.param("deny ingress shop/none", AttributionCounters(unknown=1), id="of a rule that is gone"),
        pytest.param("deny egress shop/from-web", AttributionCounters(unknown=1), id="of another direction"),
    ],
)
def test_an_unknown_prefix_is_counted_and_makes_no_record(prefix: str, counters: AttributionCounters) -> None:
    attributor = Attributor(scene(FROM_WEB).views["a"])
    assert attributor.attribute(logged(prefix, packet(WEB, DB, TCP, ports(1, 2))), NOW) is None
    assert attributor.counters == counters


@pytest.mark.parametrize("payload", [b"", b"\x45", b"\x60" * 39, b"\xff" * 60], ids=["none", "cut", "cut v6", "noise"])
def test_an_undecodable_packet_is_counted_and_makes_no_record(payload: bytes) -> None:
    attributor = Attributor(scene(FROM_WEB).views["a"])
    assert attributor.attribute(logged("deny ingress shop/from-web", payload), NOW) is None
    assert (attributor.counters.unknown, attributor.counters.undecodable) == (0, 1)


def committed(view: DesiredState) -> ObjectHistory:
    """Return a state's history, which begins with a commit now."""
    history = ObjectHistory(view, lambda: NOW)
    view.drain_changes()
    history.cover()
    history.committed()
    return history


def test_a_packet_of_the_rules_before_the_last_change_still_names_its_policy() -> None:
    view = scene(FROM_WEB, ON_5432).views["a"]
    history = committed(view)
    attributor = Attributor(view, history)
    payload = packet(WEB, DB, TCP, ports(1, 5432))
    attributed(attributor, "allow ingress shop/from-web", payload)

    history.remove(ObjectRef("NetworkPolicy", "shop", "from-web"))

    assert attributed(attributor, "allow ingress shop/from-web", payload).policies == named("from-web", "on-5432")
    denied = attributed(attributor, "deny ingress shop/from-web_on-5432", payload)
    assert denied.isolating_policies == named("from-web", "on-5432")


def test_a_prefix_that_no_rule_ever_had_is_unknown() -> None:
    attributor = Attributor(scene(FROM_WEB).views["a"])
    payload = packet(WEB, DB, TCP, ports(1, 5432))
    assert attributor.attribute(logged("allow ingress shop/on-5432", payload), NOW) is None
    assert attributor.counters.unknown == 1


def test_a_packet_of_a_pod_that_no_history_has_is_neither_attributed_nor_another_program_s() -> None:
    view = scene(FROM_WEB).views["a"]
    view.drain_changes()
    attributor = Attributor(view)
    view.remove(ObjectRef("Pod", "shop", "db"))
    assert attributor.attribute(logged("allow ingress shop/from-web", packet(WEB, DB, TCP, ports(1, 2))), NOW) is None
    assert attributor.counters == AttributionCounters(unknown=1)


def test_cached_policies_are_dropped_with_the_rules() -> None:
    view = scene(FROM_WEB, ON_5432).views["a"]
    attributor = Attributor(view)
    payload = packet(WEB, DB, TCP, ports(1, 5432))
    assert attributed(attributor, "allow ingress shop/from-web", payload).policies == named("from-web", "on-5432")
    view.remove(ObjectRef("NetworkPolicy", "shop", "on-5432"))
    assert attributed(attributor, "allow ingress shop/from-web", payload).policies == named("from-web")


def test_prefixes_shortened_by_a_digest_resolve_to_all_policies() -> None:
    long = [f"{letter * 200}.{number}" for number, letter in enumerate("abc")]
    view = scene(*(policy(f"shop/{name}", labelled(app="db"), ingress=[{}]) for name in long)).views["a"]
    refs = tuple(ObjectRef("NetworkPolicy", "shop", name) for name in long)
    deny = names.log_prefix("deny", "ingress", refs)
    allow = names.log_prefix("allow", "ingress", refs[1:2])
    assert max(len(deny), len(allow)) <= 127
    attributor = Attributor(view)
    payload = packet(OUTSIDE, DB, TCP, ports(1, 2))
    assert attributed(attributor, deny, payload).isolating_policies == named(*long)
    assert attributed(attributor, allow, payload).policies == named(*long)


def test_every_prefix_that_the_ruleset_logs_is_attributed() -> None:
    view = scene(FROM_WEB, ON_5432, CLOSED, LOGGING).views["a"]
    prefixes = written(view.ruleset())
    assert prefixes == {
        "allow ingress shop/from-web",
        "allow ingress shop/on-5432",
        "deny ingress shop/closed_from-web_on-5432",
        "deny ingress shop/closed_from-web_on-5432 reply",
        "deny egress shop/closed",
        "deny egress shop/closed reply",
    }
    attributor = Attributor(view)
    for prefix in sorted(prefixes):
        from_db = ("egress" in prefix) != prefix.endswith(" reply")
        ends = (DB, WEB) if from_db else (WEB, DB)
        record = attributed(attributor, prefix, packet(*ends, TCP, ports(1, 2)))
        assert [record.disposition, record.connection.direction] == prefix.split()[:2]


def written(ruleset: Ruleset) -> set[str]:
    return {rule.log.prefix for chain in ruleset.chains.values() for rule in chain.rules if rule.log is not None}


IN_SHOP = PodPeer(Selector(), namespace="shop")
FIRST = TierPolicy(
    kind="AdminNetworkPolicy",
    name="first",
    tier="admin",
    priority=1,
    subject=IN_SHOP,
    ingress=(
        TierRule("allow", (IN_SHOP,), (PolicyPort("tcp", 1, 1),)),
        TierRule("deny", (IN_SHOP,), (PolicyPort("tcp", 2, 2),)),
        TierRule("pass", (IN_SHOP,), (PolicyPort("tcp", 5432, 5432),)),
    ),
)
SECOND = TierPolicy(
    kind="ClusterNetworkPolicy",
    name="second",
    tier="admin",
    priority=2,
    subject=IN_SHOP,
    ingress=(TierRule("allow", (IN_SHOP,), (PolicyPort("tcp", 1, 2),)),),
    egress=(TierRule("deny", (IN_SHOP,), (PolicyPort("sctp"),)),),
)
BASE = TierPolicy(
    kind="BaselineAdminNetworkPolicy",
    name="default",
    tier="baseline",
    subject=IN_SHOP,
    ingress=(TierRule("allow", (IN_SHOP,), (PolicyPort("udp", 53, 53),)), TierRule("deny", (IN_SHOP,))),
)
FIRST_NAME, SECOND_NAME, BASE_NAME = (PolicyName(policy.name, "", policy.kind) for policy in (FIRST, SECOND, BASE))


def under_tiers(*documents: Document) -> DesiredState:
    view = scene(LOGGING, *documents).views["a"]
    for item in (FIRST, SECOND, BASE):
        view.put(item)
    view.drain_changes()
    return view


@pytest.mark.parametrize(
    ("documents", "prefix", "payload", "policies"),
    [
        pytest.param(
            (FROM_WEB, ON_5432),
            "allow ingress anp.first",
            packet(WEB, DB, TCP, ports(1, 1)),
            (FIRST_NAME,),
            id="of an admin tier's allow the policy that decided, and no other that would allow too",
        ),
        pytest.param(
            (FROM_WEB, ON_5432),
            "allow ingress shop/from-web",
            packet(WEB, DB, TCP, ports(1, 5432)),
            named("from-web", "on-5432"),
            id="of what the admin tier passed every NetworkPolicy that allows",
        ),
        pytest.param(
            (),
            "allow ingress banp.default",
            packet(WEB, DB, UDP, ports(1, 53)),
            (BASE_NAME,),
            id="of the baseline tier's allow its policy",
        ),
    ],
)
def test_an_allow_under_tiers_names(
    documents: tuple[Document, ...], prefix: str, payload: bytes, policies: tuple[PolicyName, ...]
) -> None:
    view = under_tiers(*documents)
    assert prefix in written(view.ruleset())
    record = attributed(Attributor(view), prefix, payload)
    assert (record.disposition, record.policies, record.isolating_policies) == ("allow", policies, ())


@pytest.mark.parametrize(
    ("documents", "prefix", "payload", "policies"),
    [
        pytest.param(
            (FROM_WEB, ON_5432),
            "deny ingress anp.first",
            packet(WEB, DB, TCP, ports(1, 2)),
            (FIRST_NAME,),
            id="of an admin tier's deny the policy that decided, and none that isolates",
        ),
        pytest.param(
            (),
            "deny egress cnp.second",
            packet(WEB, DB, SCTP, ports(1, 2)),
            (SECOND_NAME,),
            id="at the source as at the destination",
        ),
        pytest.param(
            (FROM_WEB, ON_5432),
            "deny ingress shop/from-web_on-5432",
            packet(OUTSIDE, DB, TCP, ports(1, 2)),
            named("from-web", "on-5432"),
            id="of what no tier decided the NetworkPolicies that isolate",
        ),
        pytest.param(
            (),
            "deny ingress banp.default",
            packet(WEB, DB, TCP, ports(1, 9)),
            (BASE_NAME,),
            id="of the baseline tier's deny its policy",
        ),
    ],
)
def test_a_deny_under_tiers_names(
    documents: tuple[Document, ...], prefix: str, payload: bytes, policies: tuple[PolicyName, ...]
) -> None:
    view = under_tiers(*documents)
    assert prefix in written(view.ruleset())
    record = attributed(Attributor(view), prefix, payload)
    assert (record.disposition, record.policies, record.isolating_policies) == ("deny", (), policies)


def test_what_a_tier_decided_before_the_last_change_still_names_its_policy_alone() -> None:
    view = under_tiers(FROM_WEB, ON_5432)
    history = committed(view)
    attributor = Attributor(view, history)
    payload = packet(WEB, DB, TCP, ports(1, 5432))
    history.remove(FIRST.ref)
    assert attributed(attributor, "allow ingress anp.first", payload).policies == (FIRST_NAME,)
    assert attributed(attributor, "deny ingress anp.first", payload).isolating_policies == (FIRST_NAME,)


def test_a_tier_s_record_is_written_with_the_kind_and_without_a_namespace() -> None:
    record = attributed(Attributor(under_tiers()), "deny ingress anp.first", packet(WEB, DB, TCP, ports(1, 2)))
    assert b'"isolating_policies":[{"name":"first","namespace":"","kind":"AdminNetworkPolicy"}]' in encode(record)


def test_a_record_has_the_evaluated_flow() -> None:
    attributor = Attributor(scene(CLOSED).views["a"])
    record = attributed(attributor, "deny ingress shop/closed", packet(OUTSIDE, DB, TCP, ports(1, 2)))
    assert flow_of(record) == Flow(OUTSIDE, DB, "tcp", 2)


def test_a_logged_connection_of_a_pod_to_itself_came_through_a_service() -> None:
    view = scene(CLOSED).views["a"]
    record = attributed(Attributor(view), "deny ingress shop/closed", packet(DB, DB, TCP, ports(1, 2)))
    flow = flow_of(record)
    assert flow == Flow(DB, DB, "tcp", 2, translated=True)
    assert not evaluate(view.cluster, view.index.policies.values(), flow).allowed


def test_a_record_names_the_pod_of_this_node_where_another_nodes_holds_the_address_as_well() -> None:
    stale = pod("shop/aaa", "b", 1)
    stale["status"]["podIPs"] = [{"ip": DB}]
    view = scene(FROM_WEB, stale).views["a"]
    record = attributed(Attributor(view), "deny ingress shop/from-web", packet(OUTSIDE, DB, UDP, ports(1, 53)))
    assert record.dest == shop("db")


def test_for_two_pods_with_one_address_a_record_names_the_policies_of_the_pod_that_decided() -> None:
    other = policy("ops/other", ingress=[{}])
    twin = pod("ops/twin", "a", 1)
    twin["status"]["podIPs"] = [{"ip": DB}]
    attributor = Attributor(scene(FROM_WEB, ON_5432, other, twin).views["a"])
    payload = packet(WEB, DB, TCP, ports(1, 5432))
    assert attributed(attributor, "allow ingress shop/from-web", payload).policies == named("from-web", "on-5432")
    found = attributed(attributor, "allow ingress ops/other", payload)
    assert found.policies == (PolicyName("other", "ops", "NetworkPolicy"),)


DIRECTIONS = {
    "a reply is its connection's": ("deny ingress shop/closed reply", (DB, WEB), ports(5432, 40000)),
    "what else is denied is as it goes": ("deny ingress shop/closed", (WEB, DB), ports(40000, 5432)),
}


@pytest.mark.parametrize(("prefix", "ends", "numbers"), DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_record_goes_from_client_to_server(prefix: str, ends: tuple[str, str], numbers: bytes) -> None:
    record = attributed(Attributor(scene(CLOSED).views["a"]), prefix, packet(*ends, TCP, numbers))

    assert record.connection == RecordConnection(
        src_ip=WEB, dest_ip=DB, src_port=40000, dest_port=5432, protocol="tcp", direction="ingress"
    )
    assert (record.src, record.dest, record.isolating_policies) == (shop("web"), shop("db"), named("closed"))


def test_a_reply_to_a_ping_has_no_ports_to_swap() -> None:
    payload = packet(DB, WEB, ICMP, b"\0\0")
    record = attributed(Attributor(scene(CLOSED).views["a"]), "deny ingress shop/closed reply", payload)
    assert (record.connection.src_ip, record.connection.dest_ip, record.connection.src_port) == (WEB, DB, None)


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_of_several_pods_with_an_address_the_one_that_the_policy_selects_is_named(direction: str) -> None:
    others = [pod(name, "a", 20) for name in ("early/pod", "shop/another", "zone/pod")]
    attributor = Attributor(scene(*others, CLOSED).views["a"])
    ends = (OUTSIDE, DB) if direction == "ingress" else (DB, OUTSIDE)

    record = attributed(attributor, f"deny {direction} shop/closed", packet(*ends, TCP, ports(40000, 80)))

    assert (record.dest if direction == "ingress" else record.src) == shop("db")


OUT = policy("shop/out", labelled(app="web"), egress=[{}], types=["Egress"])
EXCEPT_WEB = policy(
    "shop/closed",
    {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]},
    types=["Ingress", "Egress"],
)
ALONE = pod("shop/alone", "a", 50, app="alone")
FAR = pod("shop/far", "b", 30, app="db")
FAR_ADDRESS = FAR["status"]["podIPs"][0]["ip"]
HOST = pod("shop/host", "a", 40, app="db")
HOST["spec"]["hostNetwork"] = True
HOST_ADDRESS = HOST["status"]["podIPs"][0]["ip"]
UNREACHABLE = b"\x03\x01" + b"\0" * 6 + packet(WEB, DB, TCP, ports(40000, 80))
INPUT, FORWARD, OUTPUT = 1, 2, 3
OURS = {
    "an allow at the destination": ("allow ingress shop/from-web", WEB, DB, FORWARD),
    "a deny at the destination": ("deny ingress shop/closed_from-web", WEB, DB, FORWARD),
    "what this node sends to its Pod": ("deny ingress shop/closed_from-web", OUTSIDE, DB, OUTPUT),
    "a denied reply, which the destination sent": ("deny ingress shop/closed_from-web reply", DB, WEB, FORWARD),
    "an allow at the source": ("allow egress shop/out", WEB, OUTSIDE, FORWARD),
    "a deny at the source": ("deny egress shop/closed", DB, OUTSIDE, FORWARD),
    "a denied reply to the source": ("deny egress shop/closed reply", OUTSIDE, DB, FORWARD),
    "what a Pod sends to its node": ("deny egress shop/closed", DB, "192.168.0.1", INPUT),
    "what the node answers to its Pod": ("deny egress shop/closed reply", "192.168.0.1", DB, OUTPUT),
}
OTHERS = {
    "of no Pod": ("allow ingress shop/from-web", WEB, OUTSIDE, FORWARD, OTHER_POD),
    "to a Pod of another node": ("allow ingress shop/from-web", WEB, FAR_ADDRESS, FORWARD, OTHER_POD),
    "to the node's own address": ("allow ingress shop/from-web", WEB, "192.168.0.1", FORWARD, OTHER_POD),
    "to a Pod in the host network": ("allow ingress shop/from-web", WEB, HOST_ADDRESS, FORWARD, OTHER_POD),
    "to a Pod that other policies select": ("allow ingress shop/from-web", DB, WEB, FORWARD, OTHER_POD),
    "in the other direction": ("deny egress shop/closed", WEB, DB, FORWARD, OTHER_POD),
    "not a reply, as if it were one": ("deny ingress shop/closed_from-web reply", WEB, DB, FORWARD, OTHER_POD),
    "of a policy set that another Pod has": ("deny ingress shop/closed", OUTSIDE, DB, FORWARD, OTHER_POD),
    "before it is routed": ("allow ingress shop/from-web", WEB, DB, 0, OTHER_HOOK),
    "on its way out": ("allow egress shop/out", WEB, OUTSIDE, 4, OTHER_HOOK),
    "to the node itself": ("allow ingress shop/from-web", WEB, DB, INPUT, OTHER_HOOK),
}


def of_two_nodes() -> Attributor:
    view = scene(FROM_WEB, EXCEPT_WEB, OUT, ALONE, FAR, HOST).views["a"]
    return Attributor(view, committed(view))


def in_hook(prefix: str, payload: bytes, hook: int) -> LoggedPacket:
    return msgspec.structs.replace(logged(prefix, payload, NOW + 1), hook=hook)


@pytest.mark.parametrize(("prefix", "source", "destination", "hook"), OURS.values(), ids=OURS)
def test_a_packet_that_a_rule_of_ours_can_have_logged_is_attributed(
    prefix: str, source: str, destination: str, hook: int
) -> None:
    attributor = of_two_nodes()
    assert attributor.attribute(in_hook(prefix, packet(source, destination, TCP, ports(1, 2)), hook), NOW) is not None


@pytest.mark.parametrize(("prefix", "source", "destination", "hook", "reason"), OTHERS.values(), ids=OTHERS)
def test_a_packet_that_no_rule_of_ours_can_have_logged_is_another_program_s_whatever_its_prefix(
    prefix: str, source: str, destination: str, hook: int, reason: str
) -> None:
    attributor = of_two_nodes()
    packet_of_others = in_hook(prefix, packet(source, destination, TCP, ports(1, 2)), hook)
    for number in (1, 2):
        assert attributor.attribute(packet_of_others, NOW) is None
        assert attributor.counters == AttributionCounters(foreign=number)
        assert attributor.foreign_by == {reason: number}


@pytest.mark.parametrize("prefix", ["deny egress shop/closed", "deny egress shop/closed reply"])
def test_an_icmp_error_is_its_sender_s_whichever_way_the_connection_is_that_it_is_about(prefix: str) -> None:
    error = packet(DB, OUTSIDE, ICMP, UNREACHABLE)
    record = attributed(Attributor(scene(CLOSED).views["a"]), prefix, error)
    assert (record.connection.src_ip, record.connection.dest_ip, record.src) == (DB, OUTSIDE, shop("db"))


LONG = ("from-the-team-that-has-the-longest-name-of-all", "from-the-team-that-has-the-longest-name-of-allies")
LONG_POLICIES = [policy(f"shop/{name}", labelled(app="db"), types=["Ingress"]) for name in LONG]


@pytest.mark.parametrize("is_reply", [False, True], ids=["", "reply"])
def test_a_prefix_that_iptables_has_cut_names_the_policies_of_the_whole_one(*, is_reply: bool) -> None:
    view = scene(*LONG_POLICIES).views["a"]
    written = log_prefix(names.log_prefix("deny", "ingress", by_name("shop", *LONG)) + " reply" * is_reply)
    ends = (DB, OUTSIDE) if is_reply else (OUTSIDE, DB)

    record = Attributor(view, places=IPTABLES).attribute(logged(written, packet(*ends, TCP, ports(1, 2))), NOW)

    assert record is not None
    assert record.isolating_policies == named(*LONG)
    assert (record.connection.src_ip, record.connection.dest_ip) == (OUTSIDE, DB)
    assert len(written.encode()) == LOG_PREFIX_BYTES


def test_cut_prefixes_of_policies_with_equal_beginnings_are_told_apart() -> None:
    attributor = Attributor(scene(*LONG_POLICIES).views["a"], places=IPTABLES)
    written = {log_prefix(names.log_prefix("deny", "ingress", by_name("shop", *each))) for each in (LONG, LONG[:1])}
    assert len(written) == 2
    found = [attributor.rule_of(prefix) for prefix in written]
    assert [rule is not None for rule in found].count(True) == 1  # no rule has the prefix of one policy alone


def test_with_nftables_no_rule_of_ours_has_a_cut_prefix() -> None:
    attributor = Attributor(scene(*LONG_POLICIES).views["a"])
    written = log_prefix(names.log_prefix("deny", "ingress", by_name("shop", *LONG)))
    assert attributor.attribute(logged(written, packet(OUTSIDE, DB, TCP, ports(1, 2))), NOW) is None


@pytest.mark.parametrize(
    ("prefix", "source", "destination", "hook", "reason"),
    [
        ("deny ingress shop/closed_from-web", OUTSIDE, DB, 4, ""),
        ("deny egress shop/closed", DB, "192.168.0.1", INPUT, ""),
        ("deny egress shop/closed reply", "192.168.0.1", DB, 4, ""),
        ("deny ingress shop/closed_from-web", OUTSIDE, DB, OUTPUT, OTHER_HOOK),
        ("allow ingress shop/from-web", WEB, DB, INPUT, OTHER_HOOK),
    ],
    ids=[
        "what this node sends to its Pod is judged behind DNAT, in postrouting",
        "what a Pod sends to its node",
        "what the node answers to its Pod",
        "none of them logs in output",
        "nor an allow to a Pod in input",
    ],
)
def test_with_iptables_rules_of_ours_log_in_other_hooks(
    prefix: str, source: str, destination: str, hook: int, reason: str
) -> None:
    view = scene(FROM_WEB, EXCEPT_WEB, OUT, ALONE, FAR, HOST).views["a"]
    attributor = Attributor(view, committed(view), IPTABLES)
    record = attributor.attribute(in_hook(prefix, packet(source, destination, TCP, ports(1, 2)), hook), NOW)
    assert (record is not None, dict(attributor.foreign_by)) == (not reason, {reason: 1} if reason else {})
