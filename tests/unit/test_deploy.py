"""The files of `deploy/`: each is in a kustomization, parses, has the required names, and passes nfagent's decoders."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfagent.decode.registry import CLUSTER_SCOPED, DECODERS
from nfagent.manifests.file_content import FileContent, read_documents

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUSTOMIZATIONS = sorted(path.parent for path in DEPLOY.rglob("kustomization.yaml"))
EXAMPLES = sorted((DEPLOY / "examples").iterdir())

Document = dict[str, Any]


def documents(path: Path) -> Iterator[Document]:
    """Return the documents of a file, or of all files that a kustomization includes."""
    if path.is_dir():
        (kustomization,) = documents(path / "kustomization.yaml")
        for name in kustomization["resources"]:
            yield from documents(path / name)
    else:
        yield from yaml.safe_load_all(path.read_text())


def definitions() -> list[Document]:
    return list(documents(DEPLOY / "crds"))


def test_every_file_is_part_of_a_kustomization() -> None:
    reached = {folder / name for folder in KUSTOMIZATIONS for name in _resources(folder)}
    here = set(DEPLOY.rglob("*.yaml")) - {folder / "kustomization.yaml" for folder in KUSTOMIZATIONS}
    configuration = set((DEPLOY / "monitoring").iterdir())  # of Prometheus, which isn't applied to a cluster
    chart = set((DEPLOY / "helm").rglob("*"))  # test_helm_chart.py
    assert here - set(EXAMPLES) - configuration - chart == {path.resolve() for path in reached if path.is_file()}


def _resources(folder: Path) -> list[str]:
    (kustomization,) = documents(folder / "kustomization.yaml")
    found: list[str] = kustomization["resources"]
    return found


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_kubectl_renders_it(folder: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl isn't in PATH")
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    named = [(found["kind"], found["metadata"]["name"]) for found in yaml.safe_load_all(done.stdout)]
    # A generated name ends in a hash.
    (kustomization,) = documents(folder / "kustomization.yaml")
    generated = [found["name"] for found in kustomization.get("configMapGenerator", ())]
    plain = [(kind, name.rpartition("-")[0] if kind == "ConfigMap" else name) for kind, name in named]
    written = [(found["kind"], found["metadata"]["name"]) for found in documents(folder)]
    assert sorted(plain) == sorted([*written, *(("ConfigMap", name) for name in generated)])


def test_before_1_31_no_validation_rule_uses_a_function_that_the_server_does_not_know() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl isn't in PATH")
    rendered = [
        subprocess.run(["kubectl", "kustomize", str(DEPLOY / name)], capture_output=True, text=True, check=True).stdout
        for name in ("crds", "crds-before-1.31")
    ]
    assert ["isCIDR" in text and "isIP" in text for text in rendered] == [True, False]
    assert not any(word in rendered[1] for word in ("isCIDR", "cidr(", "isIP", "ip("))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid(path: Path) -> None:
    found = read_documents(path.name, path.read_text())
    assert isinstance(found, FileContent)
    assert (found.problems, found.ignored) == ((), frozenset())
    assert len(found.items) == len(list(documents(path)))


def test_every_kind_of_nfagent_has_an_example() -> None:
    shown = {document["kind"] for path in EXAMPLES for document in documents(path)}
    assert shown >= {definition["spec"]["names"]["kind"] for definition in definitions()}


@pytest.mark.parametrize("definition", definitions(), ids=lambda found: found["spec"]["names"]["kind"])
def test_a_definition_agrees_with_the_decoder(definition: Document) -> None:
    spec = definition["spec"]
    (version,) = spec["versions"]
    kind = spec["names"]["kind"]
    assert (f"{spec['group']}/{version['name']}", kind) in DECODERS
    assert (spec["scope"] == "Cluster") == (kind in CLUSTER_SCOPED)
    assert definition["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"


def _undescribed(schema: Document, path: str) -> Iterator[str]:
    for name, inner in schema.get("properties", {}).items():
        if name not in {"apiVersion", "kind", "metadata", "status"} and inner["type"] in {"object", "array", "boolean"}:
            if "description" not in inner and name != "spec":
                yield f"{path}.{name}"
            yield from _undescribed(inner, f"{path}.{name}")
    if "items" in schema:
        yield from _undescribed(schema["items"], f"{path}[]")


@pytest.mark.parametrize("definition", definitions(), ids=lambda found: found["spec"]["names"]["kind"])
def test_kubectl_explain_has_a_description_of_every_field(definition: Document) -> None:
    (version,) = definition["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    assert list(_undescribed(schema, "")) == []
    assert "description" in schema


def test_the_rbac_rules_allow_writing_events_conditions_the_default_egress_policy_and_one_lease_only() -> None:
    roles = [found for found in documents(DEPLOY / "rbac.yaml") if found["kind"] in {"Role", "ClusterRole"}]
    written = {
        (found["metadata"].get("namespace", ""), resource, verb)
        for found in roles
        for rule in found["rules"]
        for resource in rule["resources"]
        for verb in set(rule["verbs"]) - {"get", "list", "watch"}
    }
    assert written == {
        ("", "events", "create"),
        ("", "events", "patch"),
        ("", "egressnatpolicies", "create"),
        ("", "egressnatpolicies/status", "patch"),
        ("", "networkgatewaygroups/status", "patch"),
        ("nfagent", "leases", "create"),
        ("nfagent", "leases", "update"),
    }


def test_nodes_have_the_rights_of_the_service_account() -> None:
    ours = [found for found in documents(DEPLOY / "rbac.yaml") if found["kind"].endswith("Binding")]
    nodes = list(documents(DEPLOY / "node-credentials"))
    roles = [
        sorted((found["kind"], found["metadata"].get("namespace", ""), found["roleRef"]["name"]) for found in bindings)
        for bindings in (ours, nodes)
    ]
    assert roles[0] == roles[1]
    assert {subject["name"] for found in nodes for subject in found["subjects"]} == {"system:nodes"}
