"""The CRDs of `deploy/crds` on kube-apiserver: it rejects what nfagent rejects, and lists are readable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfagent.decode.registry import DECODERS
from nfagent.errors import ObjectError
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import Document, LabApiClient

pytestmark = pytest.mark.apiserver

DEPLOY = Path(__file__).parents[2] / "deploy"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
GATEWAY = {"name": "gw", "namespace": "kube-system"}


def documents(folder: str) -> Iterator[Document]:
    for path in sorted((DEPLOY / folder).glob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from yaml.safe_load_all(path.read_text())


@pytest.fixture(scope="module")
def served(control_plane: ControlPlane) -> Iterator[LabApiClient]:
    """Return the administrator's client of a server with nfagent's CRDs, which are removed after this module."""
    with control_plane.client() as client:
        before = client.inventory()
        client.put_all(documents("crds"))
        yield client
        client.remove(client.inventory() - before)


def egress(name: str = "default", **spec: Any) -> Document:  # noqa: ANN401 - a document's own fields
    spec = {"action": "NoSNAT", "destinations": [], **spec}
    return {"apiVersion": "networking.gke.io/v1", "kind": "EgressNATPolicy", "metadata": {"name": name}, "spec": spec}


def towards(*destinations: object) -> Document:
    return egress(destinations=list(destinations))


def selecting(**selector: Any) -> Document:  # noqa: ANN401 - a document's own fields
    return egress(sources=[{"podSelector": selector}])


def group(*addresses: object) -> Document:
    return {
        "apiVersion": "networking.gke.io/v1",
        "kind": "NetworkGatewayGroup",
        "metadata": {"name": "gw", "namespace": "kube-system"},
        "spec": {"floatingIPs": list(addresses)},
    }


def logging(name: str = "default", **cluster: Any) -> Document:  # noqa: ANN401 - a document's own fields
    return {
        "apiVersion": "networking.gke.io/v1alpha1",
        "kind": "NetworkLogging",
        "metadata": {"name": name},
        "spec": {"cluster": cluster},
    }


def without(document: Document, field: str) -> Document:
    return {**document, "spec": {key: value for key, value in document["spec"].items() if key != field}}


def expression(operator: str, *values: str) -> Document:
    return selecting(matchExpressions=[{"key": "app", "operator": operator, "values": list(values)}])


def is_read(document: Document) -> bool:
    """Return whether nfagent decodes it without an issue."""
    try:
        item = DECODERS[document["apiVersion"], document["kind"]](document)
    except ObjectError:
        return False
    return item is not None and not item.problems


def refusal(client: LabApiClient, document: Document) -> str:
    """Return the server's error for an object as `kubectl apply` sends it, '' without one; a dry run."""
    path = client.resource(document).path(document["metadata"].get("namespace", ""))
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    reply = client.ask("POST", path, document, query=query)
    return "" if reply.ok else str(json.loads(reply.text)["message"])


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(towards(), id="no destination"),
        pytest.param(towards({"cidr": "10.0.0.0/8"}, {"cidr": "2001:DB8::/32"}), id="CIDRs of both families"),
        pytest.param(towards({"cidr": "0.0.0.0/0"}, {"cidr": "::/0"}), id="everything"),
        pytest.param(towards({"cidr": "203.0.113.7/32"}, {"cidr": "2001:db8::1/128"}), id="single addresses"),
        pytest.param(towards({}), id="an entry that selects nothing"),
        pytest.param(towards(*[{"cidr": f"10.{n >> 8}.{n & 255}.0/24"} for n in range(1024)]), id="1024 destinations"),
        pytest.param(egress(action="SNAT"), id="SNAT by the node"),
        pytest.param(egress(action="SNAT", gatewayRef=GATEWAY), id="SNAT by a gateway"),
        pytest.param(selecting(matchLabels={"app": "web", "example.com/tier": ""}), id="labels"),
        pytest.param(expression("NotIn", "a", ""), id="an expression with values"),
        pytest.param(expression("Exists"), id="an expression without values"),
        pytest.param(egress(sources=[{"podSelector": {}}, {"namespaceSelector": {}}]), id="selectors that take all"),
        pytest.param(group("192.0.2.10", "2001:DB8::A"), id="addresses of both families"),
        pytest.param(group(*[f"192.0.2.{n}" for n in range(64)]), id="64 addresses"),
        pytest.param(logging(), id="logging without switches"),
        pytest.param(without(logging(), "cluster"), id="logging without anything"),
        pytest.param(logging(allow={"log": True, "delegate": True}, deny={"log": True}), id="logging with delegation"),
        pytest.param(logging(deny={"log": False, "delegate": False}), id="logging switched off"),
    ],
)
def test_the_server_and_we_take(served: LabApiClient, document: Document) -> None:
    assert (refusal(served, document), is_read(document)) == ("", True)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        pytest.param(towards("10.0.0.0/8"), "spec.destinations[0]", id="strings for destinations"),
        pytest.param(towards(None), "spec.destinations[0]", id="null for a destination"),
        pytest.param(towards({"cidr": "10.1.0.0/8"}), "has host bits set", id="[25] host bits of IPv4"),
        pytest.param(towards({"cidr": "2001:db8::1/32"}), "has host bits set", id="[25] host bits of IPv6"),
        pytest.param(towards({"cidr": "10.0.0.1"}), "spec.destinations[0].cidr", id="an address for a CIDR"),
        pytest.param(towards({"cidr": "10.0.0.0/33"}), "spec.destinations[0].cidr", id="a prefix that is too long"),
        pytest.param(towards({"cidr": "10.0.0.0/255.0.0.0"}), "spec.destinations[0].cidr", id="a netmask"),
        pytest.param(towards({"cidr": "::ffff:10.0.0.0/104"}), "is not a CIDR", id="[26] an IPv4-mapped CIDR"),
        pytest.param(towards({"cidr": ""}), "spec.destinations[0].cidr", id="an empty CIDR"),
        pytest.param(towards({"cidr": "10.0.0.0/8", "ports": []}), "ports", id="a field beside a CIDR"),
        pytest.param(towards(*[{"cidr": "10.0.0.0/8"}] * 1025), "spec.destinations", id="1025 destinations"),
        pytest.param(without(egress(), "destinations"), "spec.destinations", id="no list of destinations"),
        pytest.param(without(egress(), "action"), "spec.action", id="no action"),
        pytest.param(egress(action="nosnat"), "spec.action", id="an action in another case"),
        pytest.param(egress(exempt=True), "spec.exempt", id="a field that isn't known"),
        pytest.param(egress(gatewayRef=GATEWAY), "gatewayRef has no meaning", id="a gateway without SNAT"),
        pytest.param(
            egress(action="SNAT", gatewayRef={"name": "gw"}), "gatewayRef.namespace", id="a gateway without namespace"
        ),
        pytest.param(
            egress(action="SNAT", gatewayRef={**GATEWAY, "name": "A"}), "gatewayRef.name", id="a gateway's bad name"
        ),
        pytest.param(egress(sources=[]), "spec.sources", id="an empty list of sources"),
        pytest.param(egress(sources=[{}]), "spec.sources[0]", id="a source without selectors"),
        pytest.param(selecting(matchLabels={"a b": "c"}), "has a key that is no label key", id="a key that is none"),
        pytest.param(selecting(matchLabels={"app": "-"}), "matchLabels", id="a label value that is none"),
        pytest.param(expression("In"), "values has at least one entry", id="In without values"),
        pytest.param(expression("Exists", "a"), "values has at least one entry", id="Exists with values"),
        pytest.param(expression("Like", "a"), "operator", id="an operator that isn't known"),
        pytest.param(group(), "spec.floatingIPs", id="no address"),
        pytest.param(group("192.0.2.0/24"), "spec.floatingIPs", id="a CIDR for an address"),
        pytest.param(group("fe80::1%eth0"), "spec.floatingIPs", id="an address with a zone"),
        pytest.param(group("2001:db8::1", "2001:db8::1"), "spec.floatingIPs", id="an address twice"),
        *(
            pytest.param(group(address), "no node can have", id=f"{address}, which no node can have for others")
            for address in ("127.0.0.1", "::1", "::", "224.0.0.1", "255.255.255.255", "169.254.1.1", "fe80::1")
        ),
        pytest.param(group("::1", "0::1"), "has an address twice", id="an address in two spellings"),
        pytest.param(group(*[f"192.0.2.{n}" for n in range(65)]), "spec.floatingIPs", id="65 addresses"),
        pytest.param(logging("mine"), "name it default", id="logging under another name"),
        pytest.param(logging(deny={"delegate": True}), "delegate needs", id="delegation of denies without their log"),
        pytest.param(
            logging(allow={"log": False, "delegate": True}), "delegate needs", id="delegation of allows, not logged"
        ),
        pytest.param(logging(allow={"log": "yes"}), "spec.cluster.allow.log", id="a switch in quotes"),
    ],
)
def test_the_server_and_we_refuse(served: LabApiClient, document: Document, field: str) -> None:
    assert field in refusal(served, document)
    assert not is_read(document)


def test_what_the_server_does_not_know_of_an_entry_is_dropped_and_the_rest_selects_nothing(
    served: LabApiClient,
) -> None:
    kept = served.create(towards({"fqdn": "example.com"}))
    assert kept["spec"]["destinations"] == [{}]
    served.delete(kept)
    assert is_read(kept)


def table(client: LabApiClient, document: Document) -> list[dict[str, Any]]:
    """Return the rows that `kubectl get -o wide` shows of a document's kind, by column."""
    path = client.resource(document).path(document["metadata"].get("namespace", ""))
    found = client.ask("GET", path, accept=TABLE).document(path)
    names = [column["name"] for column in found["columnDefinitions"]]
    return [dict(zip(names, row["cells"], strict=True)) for row in found["rows"]]


def conditions(document: Document, **held: str) -> Document:
    written = [
        {"type": kind, "status": status, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind, status in held.items()
    ]
    return {**document, "status": {"conditions": written}}


def test_the_examples_are_taken_and_listed_in_columns(served: LabApiClient) -> None:
    examples = list(documents("examples"))
    for document in examples:
        assert refusal(served, document) == ""
        served.put(document)
    by_kind = {document["kind"]: document for document in examples}
    policies = {
        document["metadata"]["name"]: document for document in examples if document["kind"] == "EgressNATPolicy"
    }
    served.patch_status(conditions(policies["payments"], Accepted="True", Programmed="False"))

    rows = {row.pop("Name"): row for row in table(served, policies["default"])}
    assert all(row.pop("Age") for row in rows.values())
    assert rows["payments"] == {
        "Action": "SNAT",
        "Gateway": "payments",
        "Accepted": "True",
        "Programmed": "False",
        "Destinations": '[{"cidr":"198.51.100.0/24"}]',
    }
    assert (rows["default"]["Action"], rows["default"]["Accepted"]) == ("NoSNAT", None)
    (gateways,) = table(served, by_kind["NetworkGatewayGroup"])
    assert gateways["Floating IPs"] == '["192.0.2.10","192.0.2.11"]'
    (switches,) = table(served, by_kind["NetworkLogging"])
    assert {name: switches[name] for name in ("Allow", "Deny", "Allow delegated", "Deny delegated")} == {
        "Allow": False,
        "Deny": True,
        "Allow delegated": False,
        "Deny delegated": False,
    }
    for document in examples:
        served.delete(document)


def test_short_names_are_served(served: LabApiClient) -> None:
    found = [
        served.ask("GET", f"/apis/networking.gke.io/{version}").document("kinds") for version in ("v1", "v1alpha1")
    ]
    short = {name for kinds in found for resource in kinds["resources"] for name in resource.get("shortNames", ())}
    assert short == {"enp", "ngg", "nl"}
