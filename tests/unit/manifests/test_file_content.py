"""Decoding of manifest files: objects, and issues; no text raises an exception."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nfagent.errors import ValidationIssue
from nfagent.manifests.file_content import FileContent, read_documents
from nfagent.model.admin_policy import TierPolicy
from nfagent.model.objects import Node, ObjectRef, Pod

NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n"
POD = "apiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: web}\n"
OLD_POD = POD.replace("v1", "v1beta1")
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db}
spec:
  podSelector: {}
  ingress: [{ports: [{port: 80, endPort: 1}]}]
"""


def read(text: str, name: str = "f.yaml") -> FileContent:
    found = read_documents(name, text)
    assert isinstance(found, FileContent), found
    return found


def refused(text: str, name: str = "f.yaml") -> str:
    found = read_documents(name, text)
    assert isinstance(found, ValidationIssue), found
    return str(found)


def lines(content: FileContent) -> dict[str, int]:
    return {str(ref): line for ref, (_, line) in content.items.items()}


def said(content: FileContent) -> list[str]:
    return [str(problem) for problem in content.problems]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(f"{NODE}---\n{POD}", {"Node a": 1, "Pod shop/web": 5}, id="several documents"),
        pytest.param(f"# cluster\n---\n{NODE}---\n---\n", {"Node a": 3}, id="comments and empty documents"),
        pytest.param(NODE.replace("\n", "\r\n"), {"Node a": 1}, id="Windows line ends"),
        pytest.param(f"\ufeff{NODE}", {"Node a": 1}, id="a byte order mark"),
        pytest.param(
            '{"apiVersion": "v1",\n "kind": "Node", "metadata": {"name": "a"}}\n\n'
            '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"}}',
            {"Node a": 1, "Node b": 4},
            id="JSON, one object after the other",
        ),
        pytest.param("{apiVersion: v1, kind: Node, metadata: {name: a}}", {"Node a": 1}, id="YAML in braces"),
        pytest.param(
            '{\n\t"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}\n}', {"Node a": 1}, id="JSON with tabs"
        ),
        pytest.param(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": "a", "annotations": {"note": "\N{GRINNING FACE}"}},
                }
            ),
            {"Node a": 1},
            id="a surrogate pair",
        ),
        pytest.param(
            "\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: a}}\n"
            "- {apiVersion: v1, kind: Pod, metadata: {name: web}}\n",
            {"Node a": 2, "Pod default/web": 2},
            id="a List of several kinds",
        ),
        pytest.param(
            "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: web}}]", {"Pod default/web": 1}, id="a typed list"
        ),
        pytest.param("apiVersion: v1\nkind: PodList\nitems: null", {}, id="an empty list, as the API server writes it"),
        pytest.param("", {}, id="nothing"),
    ],
)
def test_every_document_is_decoded_with_its_line(text: str, found: dict[str, int]) -> None:
    content = read(text)
    assert lines(content) == found
    assert (content.problems, content.ignored) == ((), frozenset())


def test_a_label_that_looks_like_a_date_is_a_string_as_in_kubernetes() -> None:
    node = read(f"{NODE}---\n{NODE.replace('{name: a}', '{name: b, labels: {since: 2001-01-31, to: 2001-99-99}}')}")
    item, _ = node.items[ObjectRef("Node", "", "b")]
    assert isinstance(item, Node)
    assert dict(item.labels) == {"since": "2001-01-31", "to": "2001-99-99"}


def test_ignored_kinds_are_listed_once() -> None:
    deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"
    content = read(f"{deployment}---\n{deployment}---\n{NODE}")
    assert content.ignored == {"apps/v1 Deployment"}
    assert lines(content) == {"Node a": 9}


ADMIN_POLICY = """\
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: guard}
spec:
  priority: 5
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
"""
BASELINE = """\
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default, namespace: shop}
spec: {subject: {namespaces: {}}}
"""
CLUSTER_POLICY = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec: {tier: Baseline, priority: 5, subject: {namespaces: {}}}
"""


def test_tier_policies_are_cluster_scoped() -> None:
    content = read(f"{ADMIN_POLICY}---\n{BASELINE}---\n{CLUSTER_POLICY}")
    assert lines(content) == {
        "AdminNetworkPolicy guard": 1,
        "BaselineAdminNetworkPolicy default": 9,
        "ClusterNetworkPolicy guard": 14,
    }
    assert (content.problems, content.ignored) == ((), frozenset())
    assert all(isinstance(item, TierPolicy) for item, _ in content.items.values())


def test_every_faulty_rule_is_an_issue() -> None:
    bad = ADMIN_POLICY.replace("[{action: Deny", "[{action: Log}, {action: Deny").replace("from: [{", "from: [{}, {")
    content = read(bad)
    start = "f.yaml:1: AdminNetworkPolicy guard: spec.ingress"
    assert said(content) == [
        f"{start}[0].action 'Log': is not an action here; write Allow, Deny or Pass",
        f"{start}[1].from[0]: is empty; write namespaces or pods",
    ]
    assert lines(content) == {"AdminNetworkPolicy guard": 1}


def test_a_tier_policy_without_a_valid_name_is_rejected_not_ignored() -> None:
    content = read(CLUSTER_POLICY.replace("guard", "Guard"))
    assert content.unnamed, "no object has that name, so it may be about any"
    assert (content.items, content.ignored) == ({}, frozenset())
    (problem,) = said(content)
    assert problem.startswith("f.yaml:1: ClusterNetworkPolicy Guard: metadata.name 'Guard': is not a valid name")


@pytest.mark.parametrize(
    ("text", "version", "wanted"),
    [
        pytest.param(POLICY, "networking.k8s.io/v1beta1", "networking.k8s.io/v1", id="a NetworkPolicy before its v1"),
        pytest.param(
            CLUSTER_POLICY,
            "policy.networking.k8s.io/v1alpha1",
            "policy.networking.k8s.io/v1alpha2",
            id="a ClusterNetworkPolicy under the version of the older kinds",
        ),
        pytest.param(
            ADMIN_POLICY,
            "policy.networking.k8s.io/v1beta1",
            "policy.networking.k8s.io/v1alpha1",
            id="a policy of a newer API",
        ),
        pytest.param(POD, "v2", "v1", id="a kind of the core group"),
    ],
)
def test_a_known_kind_under_another_version_is_an_issue(text: str, version: str, wanted: str) -> None:
    first, _, rest = text.partition("\n")
    content = read(f"apiVersion: {version}\n{rest}")
    ((ref, _),) = read(text).items.items()
    reason = f"is not read for this kind; write it as {wanted} has it"
    assert said(content) == [f"f.yaml:1: {ref}: apiVersion '{version}': {reason}"]
    assert (content.items, content.ignored) == ({}, frozenset())
    assert content.rejected == {ref}, "its last good version holds"
    assert first == f"apiVersion: {wanted}"


@pytest.mark.parametrize(
    ("kind", "field", "reason"),
    [
        (
            "networking.k8s.io/v1 NetworkPolcy",
            "kind 'NetworkPolcy'",
            (
                "is not a kind of API group networking.k8s.io; did you mean NetworkPolicy "
                "(apiVersion networking.k8s.io/v1)?"
            ),
        ),
        (
            "networking.k8s.io/v1 networkpolicies",
            "kind 'networkpolicies'",
            (
                "is not a kind of API group networking.k8s.io; did you mean NetworkPolicy "
                "(apiVersion networking.k8s.io/v1)?"
            ),
        ),
        (
            "extensions/v1beta1 NetworkPolicy",
            "apiVersion 'extensions/v1beta1'",
            "has no kind NetworkPolicy that is read; write networking.k8s.io/v1",
        ),
        (
            "policy/v1 NetworkPolicy",
            "apiVersion 'policy/v1'",
            "has no kind NetworkPolicy that is read; write networking.k8s.io/v1",
        ),
        (
            "networking.k8s.oi/v1 NetworkPolicy",
            "apiVersion 'networking.k8s.oi/v1'",
            "has no kind NetworkPolicy that is read; write networking.k8s.io/v1",
        ),
        (
            "v1 NetworkPolicy",
            "kind 'NetworkPolicy'",
            "is not a kind of the core API group; did you mean apiVersion networking.k8s.io/v1?",
        ),
        (
            "networking.k8s.io NetworkPolicy",
            "kind 'NetworkPolicy'",
            "is not a kind of the core API group; did you mean apiVersion networking.k8s.io/v1?",
        ),
        (
            "networking.k8s.io/v1 Ingres",
            "kind 'Ingres'",
            "is not a kind of API group networking.k8s.io; did you mean Ingress?",
        ),
        (
            "policy.networking.k8s.io/v1alpha1 AdminNetworkpolicy",
            "kind 'AdminNetworkpolicy'",
            (
                "is not a kind of API group policy.networking.k8s.io; did you mean AdminNetworkPolicy (apiVersion "
                "policy.networking.k8s.io/v1alpha1)?"
            ),
        ),
        (
            "policy.networking.k8s.io/v1alpha2 Ingress",
            "kind 'Ingress'",
            (
                "is not a known kind of API group policy.networking.k8s.io; nfagent reads "
                "AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy"
            ),
        ),
        (
            "networking.gke.io/v1 EgressNatPolicy",
            "kind 'EgressNatPolicy'",
            (
                "is not a kind of API group networking.gke.io; did you mean EgressNATPolicy (apiVersion "
                "networking.gke.io/v1)?"
            ),
        ),
        ("v1 Lst", "kind 'Lst'", "is not a kind of the core API group; did you mean List?"),
        (
            "networking.kubernetes.io/v1 NetworkPolicy",
            "apiVersion 'networking.kubernetes.io/v1'",
            "has no kind NetworkPolicy that is read; write networking.k8s.io/v1",
        ),
        (
            "k8s.io/v1 NetworkPolicy",
            "apiVersion 'k8s.io/v1'",
            "has no kind NetworkPolicy that is read; write networking.k8s.io/v1",
        ),
        (
            "extensions/v1beta1 networkpolicies",
            "kind 'networkpolicies'",
            "is not a known kind; did you mean NetworkPolicy (apiVersion networking.k8s.io/v1)?",
        ),
        (
            "netwroking.k8s.io/v1 NetworkPolcy",
            "kind 'NetworkPolcy'",
            "is not a known kind; did you mean NetworkPolicy (apiVersion networking.k8s.io/v1)?",
        ),
        (
            "netwroking.gke.io/v1 EgressNatPolicy",
            "kind 'EgressNatPolicy'",
            "is not a known kind; did you mean EgressNATPolicy (apiVersion networking.gke.io/v1)?",
        ),
        (
            "v1 Configmap",
            "kind 'Configmap'",
            "is not a kind of the core API group; did you mean ConfigMap (apiVersion v1)?",
        ),
    ],
)
def test_a_kind_that_its_api_group_does_not_have_is_an_issue_with_a_suggestion(
    kind: str, field: str, reason: str
) -> None:
    version, _, name = kind.partition(" ")
    content = read(f"apiVersion: {version}\nkind: {name}\nmetadata: {{namespace: shop, name: db}}\n")
    assert said(content) == [f"f.yaml:1: {name} shop/db: {field}: {reason}"]
    assert (content.items, content.ignored) == ({}, frozenset())


@pytest.mark.parametrize(
    "kind",
    [
        "crd.antrea.io/v1beta1 ClusterNetworkPolicy",
        "crd.antrea.io/v1alpha2 ClusterNetworkPolicy",
        "projectcalico.org/v3 NetworkPolicy",
        "networking.k8s.io/v1 Ingress",
        "networking.k8s.io/v1 IngressClass",
        "networking.k8s.io/v1beta1 Ingress",
        "extensions/v1beta1 Ingress",
        "v1 Secret",
        "v1 PersistentVolume",
        "v1 Endpoints",
        "v1 ServiceAccount",
        "networking.gke.io/v1 ManagedCertificate",
        "networking.gke.io/v1beta1 FrontendConfig",
        "crd.projectcalico.org/v1 NetworkPolicy",
        "cilium.io/v2 CiliumNetworkPolicy",
        "networking.k8s.aws/v1alpha1 ClusterNetworkPolicy",
        "networking.istio.io/v1 Gateway",
        "apps/v1 Deployment",
        "example.com/v1 NetworkPolcy",
        "policy/v1 PodDisruptionBudget",
        "apiregistration.k8s.io/v1 APIService",
        "storage.k8s.io/v1 CSINode",
        "metrics.k8s.io/v1beta1 PodMetrics",
        "policy/v1beta1 PodSecurityPolicy",
        "example.com/v1 Pod",
    ],
)
def test_kinds_of_other_groups_are_ignored_under_any_name(kind: str) -> None:
    version, _, name = kind.partition(" ")
    content = read(f"apiVersion: {version}\nkind: {name}\nmetadata: {{name: guard}}\n")
    assert content == FileContent({}, ignored=frozenset({kind}))


def test_other_config_maps_are_ignored() -> None:
    content = read("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata: {config: '['}")
    assert content == FileContent({})


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        pytest.param("Items: [{apiVersion: v1, kind: Node, metadata: {name: a}}]", "is missing", id="misspelt"),
        pytest.param("items: {apiVersion: v1, kind: Node, metadata: {name: a}}", "is not a list", id="a mapping"),
        pytest.param("items: all", "is not a list", id="a word"),
        pytest.param("metadata: {name: all}", "is missing", id="none, with a name"),
    ],
)
def test_a_list_whose_items_can_not_be_read_is_an_issue_about_unknown_objects(items: str, reason: str) -> None:
    content = read(f"apiVersion: v1\nkind: List\n{items}\n")
    (problem,) = said(content)
    assert problem.startswith("f.yaml:1: List: items")
    assert reason in problem
    assert (content.unnamed, content.ignored) == (True, frozenset())


@pytest.mark.parametrize("key", ["nameSpace", "Namespace", "namespce"])
def test_a_misspelt_namespace_is_not_the_default_one(key: str) -> None:
    content = read(f"apiVersion: v1\nkind: Pod\nmetadata: {{name: web, {key}: shop}}\n")
    assert said(content) == [f"f.yaml:1: Pod: metadata.{key} 'shop': is not a field here; write namespace"]
    assert (content.items, content.unnamed) == ({}, True)


def test_other_metadata_fields_are_no_misspelt_namespace() -> None:
    content = read("apiVersion: v1\nkind: Node\nmetadata: {name: a, generateName: a-, managedFields: [], uid: x}\n")
    assert (lines(content), said(content)) == ({"Node a": 1}, [])


NO_OBJECT = "f.yaml:1: is not a Kubernetes object; write apiVersion and kind"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("hello", NO_OBJECT, id="plain words"),
        pytest.param("kind: Pod\nmetadata: {name: web}", NO_OBJECT, id="no apiVersion"),
        pytest.param("apiVersion: v1\nkind: 5", NO_OBJECT, id="a kind that is a number"),
        pytest.param("apiVersion: [v1]\nkind: Pod", NO_OBJECT, id="an apiVersion that is a list"),
        pytest.param("[{apiVersion: v1, kind: Pod}]", NO_OBJECT, id="a sequence instead of a List"),
        pytest.param(
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: PodList, items: []}]",
            "f.yaml:1: PodList: is a list inside a list, which is not read; put its items into the outer one",
            id="a list inside a list",
        ),
        pytest.param(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: 5}",
            "f.yaml:1: Pod: metadata.name '5': is not a string; put it in quotes",
            id="a name that is a number",
        ),
        pytest.param(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: [shop]}",
            "f.yaml:1: Pod: metadata.namespace: is not a string; put it in quotes",
            id="a namespace that is a list",
        ),
        pytest.param(
            f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {'9' * 300}}}",
            "f.yaml:1: Pod: metadata.name: is not a string; put it in quotes",
            id="a name that is a number too long to be written",
        ),
        pytest.param(
            f"\n{POD}status: {{podIP: 10.0.0.300}}",
            "f.yaml:2: Pod shop/web: status.podIP '10.0.0.300': is not an IP address; write one like 10.0.0.1 or "
            "2001:db8::1",
            id="a field that breaks the API's validation",
        ),
        pytest.param(
            "apiVersion: v1\nkind: List\nitmes: []",
            "f.yaml:1: List: items: is missing; write the objects there, each behind `- `",
            id="a list without items",
        ),
        pytest.param(
            f"{POD}sttaus: {{podIP: 10.0.0.1}}",
            "f.yaml:1: Pod shop/web: sttaus: is not a field here; write only apiVersion, kind, metadata, spec, status, "
            "data, binaryData and immutable",
            id="an unknown field",
        ),
        pytest.param(
            f"{POD}---\n{POD}",
            "f.yaml:5: Pod shop/web: is in this file twice, at lines 1 and 5; the first is used, delete one",
            id="the same object twice",
        ),
        pytest.param(
            POLICY,
            "f.yaml:1: NetworkPolicy shop/db: spec.ingress[0].ports[0].endPort '1': is below port 80; write 80 or more",
            id="a policy that fails closed",
        ),
    ],
)
def test_a_faulty_object_is_an_issue_with_its_place(text: str, problem: str) -> None:
    assert said(read(text)) == [problem]


def test_a_faulty_object_does_not_affect_others_of_its_file() -> None:
    content = read(f"{NODE}---\nnonsense\n---\n{OLD_POD}---\n{POLICY}")
    assert lines(content) == {"Node a": 1, "NetworkPolicy shop/db": 11}
    assert content.rejected == {ObjectRef("Pod", "shop", "web")}
    assert len(content.problems) == 3


IN_PART = {
    "Namespace": "{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {a: 1}}}",
    "Node": "{apiVersion: v1, kind: Node, metadata: {name: x}, status: {addresses: [{type: ExternalIP, address: ''}]}}",
    "Pod": "{apiVersion: v1, kind: Pod, metadata: {namespace: a, name: x}, status: {podIPs: [{ip: y}]}}",
    "Service": "{apiVersion: v1, kind: Service, metadata: {namespace: a, name: x}, spec: {clusterIP: y}}",
    "ServiceCIDR": "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: x}, spec: {cidrs: [y]}}",
    "ConfigMap": "{apiVersion: v1, kind: ConfigMap, metadata: {namespace: kube-system, name: ip-masq-agent},"
    " data: {config: 'cidrLimit: y'}}",
    "NetworkLogging": "{apiVersion: networking.gke.io/v1alpha1, kind: NetworkLogging, metadata: {name: default},"
    " spec: {cluster: {deny: {log: 1}}}}",
}


@pytest.mark.parametrize("text", IN_PART.values(), ids=IN_PART)
def test_a_partly_readable_object_is_returned_with_an_issue(text: str) -> None:
    content = read(f"\n{text}\n")
    ((ref, (item, _)),) = content.items.items()
    (problem,) = content.problems
    assert (problem.place, problem.object, bool(problem.field)) == ("f.yaml:2", str(ref), True)
    assert (msgspec.structs.replace(problem, place=""),) == item.problems
    assert content.rejected == frozenset()


def test_of_a_valid_and_an_invalid_version_of_an_object_the_valid_one_is_used() -> None:
    content = read(f"{OLD_POD}---\n{POD}")
    assert (lines(content), content.rejected) == ({"Pod shop/web": 5}, frozenset())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            f"{NODE}a: [", "f.yaml:5: is not valid YAML: while parsing a flow node did not find", id="cut short"
        ),
        pytest.param(f"{NODE}\tx: 1", "f.yaml:4: is not valid YAML: ", id="a tab"),
        pytest.param("\na: !!bool x", "f.yaml:2: is not valid YAML: 'x' is not a boolean", id="an invalid boolean"),
        pytest.param("a: !!int ''", "f.yaml:1: is not valid YAML: '' is not a whole number", id="an empty number"),
        pytest.param("a: .NaN", "f.yaml:1: is not valid YAML: '.NaN' is not a JSON number", id="not a number"),
        pytest.param(
            "a: !!float x", "f.yaml:1: is not valid YAML: 'x' is not a number; put it in quotes", id="an invalid float"
        ),
        pytest.param(
            "? [a]\n: b", "f.yaml:1: is not valid YAML: a list or a mapping can't be a key", id="a list as key"
        ),
        pytest.param("~: b", "f.yaml:1: is not valid YAML: '~' can't be a key; put it in quotes", id="null as key"),
        pytest.param("\na: *b", "f.yaml:2: is not valid YAML: alias *b has no anchor &b", id="an alias without anchor"),
        pytest.param(
            "x: &a [*a]", "f.yaml:1: is not valid YAML: the value of anchor &a contains itself", id="a circle"
        ),
        pytest.param("a:\n  <<: [1]", "f.yaml:2: is not valid YAML: << merges mappings", id="a merge of a number"),
        pytest.param("a: 1\nb: 2\na: 3", "f.yaml:3: is not valid YAML: 'a' is there twice", id="a duplicate key"),
        pytest.param(
            "é: \n\na: \x01", "f.yaml:3: is not valid YAML: character #x01 can't be in it", id="a control character"
        ),
        pytest.param("\na: \ud800", "f.yaml:2: is not valid YAML: a character is half of", id="a lone surrogate"),
        # Releases of libyaml differ in whether the library or nfagent's own limit stops first, and in the message.
        pytest.param("[" * 50_000, "f.yaml:1: is not valid YAML: ", id="brackets"),
        pytest.param("- " * 50_000, "f.yaml:1: is not valid YAML: is nested deeper than 100 levels", id="dashes"),
    ],
)
def test_invalid_yaml_is_an_issue_with_its_line(text: str, problem: str) -> None:
    assert refused(text).startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param('{\n"kind": 1,,}', "f.json:2: is not valid JSON: Expecting property name", id="two commas"),
        pytest.param('{"a": 1, "a": 2}', "f.json: is not valid JSON: 'a' is there twice", id="a duplicate key"),
        pytest.param('{"a": "\\ud800"}', "f.json:1: is not valid JSON: a character is half of", id="a lone surrogate"),
        pytest.param('{"a": "\ud800"}', "f.json:1: is not valid JSON: a character is half of", id="unescaped"),
        pytest.param('{"a": ' * 5000, "f.json:1: is not valid YAML: is nested deeper than 100 levels", id="braces"),
    ],
)
def test_invalid_json_is_an_issue_with_its_line(text: str, problem: str) -> None:
    assert refused(text, "f.json").startswith(problem)


def test_merged_keys_are_overridden_and_not_duplicates() -> None:
    content = read(f"base: &base {{kind: Pod, a: 1}}\n---\n{NODE}---\nx: &m {{a: 1}}\ny: {{<<: *m, a: 2}}")
    assert "Node a" in lines(content)
    nested = "x: &x {a: 1}\ny: {y: &y {<<: *x, a: 2}}\nz: {<<: *y, a: 3}\n"
    assert lines(read(NODE + nested)) == {"Node a": 1}


@pytest.mark.parametrize("written", ["[{}]", "{{a: {}, b: {}}}", "{{<<: [{}]}}"], ids=["lists", "mappings", "merges"])
def test_aliases_that_expand_to_billions_of_values_are_rejected_with_their_line(written: str) -> None:
    nine = [
        written.format(*[", ".join([f"*x{number}"] * 9) if "[" in written else f"*x{number}"] * 2)
        for number in range(29)
    ]
    text = "x0: &x0 {a: x}\n" + "".join(f"x{number}: &x{number} {value}\n" for number, value in enumerate(nine, 1))
    problem = refused(f"{NODE}---\n{text}")
    assert re.fullmatch(r"f\.yaml:\d+: is not valid YAML: its aliases stand for too many values; .*", problem)


def test_aliases_of_ordinary_files_are_read() -> None:
    pods = "".join(
        f"---\n{POD.replace('web', f'web-{number}')}spec: &s {{a: 1}}\nx: [*s, *s]\n" for number in range(2000)
    )
    assert len(read(pods).items) == 2000


MANIFEST_WORDS = st.sampled_from(
    [
        *(
            "apiVersion",
            "kind",
            "metadata",
            "name",
            "namespace",
            "labels",
            "spec",
            "items",
            "v1",
            "Pod",
            "List",
            "PodList",
        ),
        *("NetworkPolicy", "ConfigMap", "kube-system", "ip-masq-agent", "data", "config", "networking.k8s.io/v1"),
        *(
            ": ",
            ":\n",
            "- ",
            ", ",
            "\n",
            "\n  ",
            "\n    ",
            "{",
            "}",
            "[",
            "]",
            '"',
            "'",
            "|\n",
            ">",
            "? ",
            "---\n",
            "...\n",
        ),
        *(
            "&a ",
            "*a",
            "<<",
            "=",
            "!!int ",
            "!!bool ",
            "!!timestamp ",
            "!!binary ",
            "!!set ",
            "!!omap ",
            "!!str ",
            "!x ",
        ),
        *(
            "0x",
            "0b",
            "1_0",
            "1:30",
            "2001-99-99",
            ".inf",
            "~",
            "null",
            "yes",
            "\t",
            "\0",
            "\x85",
            "\ud800",
            "\\ud800",
            "%",
        ),
    ]
)
TEXTS = st.one_of(
    st.text(st.characters(codec=None), max_size=60),
    st.lists(MANIFEST_WORDS, max_size=40).map("".join),
    st.lists(MANIFEST_WORDS, max_size=20).map(lambda words: f"{POD}spec: {''.join(words)}"),
)


@settings(max_examples=200)
@example("a: !!timestamp x")
@example("&a {apiVersion: v1, kind: List, items: [*a]}")
@example("&a [*a]")
@given(TEXTS)
def test_any_text_gives_content_or_an_issue_that_json_can_encode(text: str) -> None:
    for name in ("f.yaml", "f.json"):
        found = read_documents(name, text)
        assert isinstance(found, FileContent | ValidationIssue)
        problems = [found] if isinstance(found, ValidationIssue) else [*found.problems]
        assert all(problem.place.startswith(name) and problem.reason for problem in problems)
        msgspec.json.encode([problems, sorted(found.ignored) if isinstance(found, FileContent) else []])


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["v1", "Pod", "List"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["apiVersion", "kind", "metadata", "name", "items", "spec", "x"]), inner)
    ),
    max_leaves=12,
)


@given(JSON, st.booleans())
def test_an_object_with_any_other_json_content_is_read(document: Any, escape: bool) -> None:  # noqa: ANN401, FBT001 - drawn
    around = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "annotations": {"x": document}}}
    content = read(json.dumps(around, ensure_ascii=escape), "f.json")
    item, _ = content.items[ObjectRef("Pod", "default", "web")]
    assert isinstance(item, Pod)
