"""Services: decoding, look-up by address and node port, and the Pods behind them."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.decode.services import decode_service
from nfagent.model.objects import ContainerPort, Labels, Node, ObjectRef, Pod
from nfagent.model.services import Service, ServicePort
from nfagent.state.cluster import NO_CHANGE, ClusterState
from nfagent.state.services import ServiceIndex

Document = dict[str, Any]

WEB: Labels = (("app", "web"),)


def document(status: Document | None = None, **spec: Any) -> Document:  # noqa: ANN401 - a document's fields
    ports = [{"name": "http", "port": 80}]
    metadata = {"namespace": "shop", "name": "web"}
    return {"kind": "Service", "metadata": metadata, "spec": {"ports": ports, **spec}, "status": status or {}}


def service(name: str = "web", *ports: ServicePort, **fields: Any) -> Service:  # noqa: ANN401 - a Service's fields
    return Service(namespace="shop", name=name, ports=ports or (ServicePort(80, 8080, name="http"),), **fields)


def test_a_full_service_is_decoded() -> None:
    found = decode_service(
        document(
            {"loadBalancer": {"ingress": [{"ip": "203.0.113.2"}, {"hostname": "lb.example"}]}},
            type="LoadBalancer",
            clusterIP="10.96.0.10",
            clusterIPs=["10.96.0.10", "2001:DB8::10"],
            externalIPs=["203.0.113.1"],
            selector={"app": "web"},
            ports=[
                {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080},
                {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP"},
            ],
            externalTrafficPolicy="Local",
            internalTrafficPolicy="Local",
        )
    )
    assert found == Service(
        namespace="shop",
        name="web",
        cluster_addresses=("10.96.0.10", "2001:db8::10"),
        external_addresses=("203.0.113.1", "203.0.113.2"),
        ports=(ServicePort(80, "http", "tcp", "http", 30080), ServicePort(53, 5353, "udp", "dns")),
        selector=WEB,
        external="Local",
        internal="Local",
    )
    assert found.addresses == ("10.96.0.10", "2001:db8::10", "203.0.113.1", "203.0.113.2")
    assert found.ref == ObjectRef("Service", "shop", "web")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, service("web", ServicePort(80, 80, name="http")), id="a file's Service has no address yet"),
        pytest.param(
            {"clusterIP": "None"},
            service("web", ServicePort(80, 80, name="http"), headless=True),
            id="a headless one never has",
        ),
        pytest.param(
            {"clusterIPs": ["None"]},
            service("web", ServicePort(80, 80, name="http"), headless=True),
            id="the list alone may say so",
        ),
        pytest.param(
            {"clusterIP": "10.96.0.1"},
            service("web", ServicePort(80, 80, name="http"), cluster_addresses=("10.96.0.1",)),
            id="the older field alone",
        ),
        pytest.param(
            {"type": "ExternalName", "externalName": "db.example", "selector": {"app": "web"}},
            service("web", ServicePort(80, 80, name="http"), external_name="db.example"),
            id="an alias has no Pods, even with a selector",
        ),
        pytest.param(
            {"selector": {}},
            service("web", ServicePort(80, 80, name="http")),
            id="an empty selector is none",
        ),
        pytest.param({"ports": None}, Service(namespace="shop", name="web"), id="a headless one may have no ports"),
        pytest.param(
            {"ports": [{"port": 80, "targetPort": 0, "nodePort": 0}]},
            service("web", ServicePort(80, 80)),
            id="a zero is what is missing",
        ),
        pytest.param(
            {"ports": [{"port": 80, "targetPort": ""}]},
            service("web", ServicePort(80, 80)),
            id="and so is an empty name",
        ),
    ],
)
def test_what_a_service_leaves_out(spec: Document, expected: Service) -> None:
    assert decode_service(document(**spec)) == expected


@pytest.mark.parametrize(
    ("mode", "addresses"), [("VIP", ("203.0.113.2",)), ("Proxy", ())], ids=["in place", "replaced"]
)
def test_a_balancer_that_replaces_its_address_is_an_address_outside(mode: str, addresses: tuple[str, ...]) -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.2", "ipMode": mode}]}}
    assert decode_service(document(status)).addresses == addresses


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        pytest.param({"type": "Nodeport"}, "spec.type", "is not known here; write ClusterIP, ", id="a type"),
        pytest.param({"clusterIP": "10.96.0"}, "spec.clusterIP", "is not an IP address", id="an address"),
        pytest.param({"externalIPs": [7]}, "spec.externalIPs[0]", "is not a string", id="no string"),
        pytest.param({"ports": [{}]}, "spec.ports[0].port", "is not a whole number", id="no port"),
        pytest.param({"ports": [{"port": 0}]}, "spec.ports[0].port", "is not a port number", id="port 0"),
        pytest.param(
            {"ports": [{"port": 80, "targetPort": "Http"}]}, "spec.ports[0].targetPort", "is not a port name", id="name"
        ),
        pytest.param(
            {"ports": [{"port": 80, "targetPort": [1]}]}, "spec.ports[0].targetPort", "is not a whole", id="a list"
        ),
        pytest.param(
            {"ports": [{"port": 80, "nodePort": False}]}, "spec.ports[0].nodePort", "is not a whole", id="a boolean"
        ),
        pytest.param(
            {"ports": [{"port": 80, "protocol": "HTTP"}]}, "spec.ports[0].protocol", "is not a protocol", id="protocol"
        ),
        pytest.param({"selector": {"app": 1}}, "spec.selector.app", "is not a string", id="a label"),
        pytest.param(
            {"externalTrafficPolicy": "local"}, "spec.externalTrafficPolicy", "write Cluster or Local", id="a policy"
        ),
    ],
)
def test_errors_name_field_and_reason(spec: Document, field: str, reason: str) -> None:
    (problem,) = decode_service(document(**spec)).problems
    assert (problem.object, problem.field) == ("Service shop/web", field)
    assert reason in problem.reason


def test_a_port_on_a_pod_is_its_number_or_the_pods_own_port_of_that_name_and_protocol() -> None:
    pod = Pod("shop", "web", ports=(ContainerPort("http", 8080, "tcp"), ContainerPort("dns", 5353, "udp")))
    assert ServicePort(80, 9999).on(pod) == 9999
    assert ServicePort(80, "http").on(pod) == 8080
    assert ServicePort(53, "dns", "udp").on(pod) == 5353
    assert ServicePort(53, "dns", "tcp").on(pod) is None
    assert [str(ServicePort(80, 1, name="http")), str(ServicePort(53, 1, "udp"))] == ["http (80/tcp)", "53/udp"]


def test_services_are_found_by_address_and_node_port() -> None:
    index = ServiceIndex()
    http, dns = ServicePort(80, 8080, name="http", node_port=30080), ServicePort(53, 53, "udp")
    web = service("web", http, dns, cluster_addresses=("10.96.0.10",), external_addresses=("203.0.113.1",))
    tls = service("tls", ServicePort(443, 443), external_addresses=("203.0.113.1",))
    for item in (web, tls):
        index.put(item)
    assert index.by_address == {"10.96.0.10": (web,), "203.0.113.1": (tls, web)}
    assert index.find_by_node_port("tcp", 30080) == (web, http)
    assert index.find_by_node_port("udp", 30080) is None
    assert index.find_by_node_port("udp", 0) is None


def test_a_service_that_changes_or_goes_leaves_nothing_behind() -> None:
    index = ServiceIndex()
    before = service("web", ServicePort(80, 80, node_port=30080), cluster_addresses=("10.96.0.10", "2001:db8::10"))
    after = service("web", ServicePort(80, 80, node_port=30081), cluster_addresses=("10.96.0.11",))
    index.put(before)
    index.put(after)
    assert (set(index.by_address), set(index.by_node_port)) == ({"10.96.0.11"}, {("tcp", 30081)})
    index.remove(after.ref)
    index.remove(after.ref)
    assert (index.services, index.by_address, index.by_node_port) == ({}, {}, {})


def test_a_service_makes_no_delta() -> None:
    state = ClusterState("a")
    web = service(cluster_addresses=("10.96.0.10",), selector=WEB)
    assert state.put(web) == NO_CHANGE
    assert state.services == {web.ref: web}
    assert state.rebuilt().services == state.services
    assert state.remove(web.ref) == NO_CHANGE
    assert state.services == {}


def test_a_service_is_served_by_the_running_pods_of_its_namespace_with_an_address() -> None:
    def pod(
        name: str, *, space: str = "shop", phase: str = "Running", addresses: tuple[str, ...] = ("10.0.0.1",)
    ) -> Pod:
        return Pod(space, name, (("app", "web"), ("v", name)), "a", addresses, phase=phase)

    state = ClusterState("a")
    host = Pod("shop", "host", WEB, "a", ("192.168.0.1",), host_network=True)
    others = [
        pod("elsewhere", space="ops"),
        pod("ended", phase="Succeeded"),
        pod("early", phase="Pending"),
        pod("bare", addresses=()),
        Pod("shop", "other", (("app", "db"),), "a", ("10.0.0.9",)),
    ]
    state.put(Node("a", addresses=("192.168.0.1",)))
    for item in (pod("two"), host, pod("one"), *others):
        state.put(item)
    assert [found.name for found in state.serving_pods(service(selector=WEB))] == ["host", "one", "two"]
    assert [found.name for found in state.serving_pods(service(selector=(*WEB, ("v", "two"))))] == ["two"]
    assert state.serving_pods(service(selector=None)) == []
