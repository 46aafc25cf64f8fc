"""The required permissions are those that deploy/rbac.yaml grants and that the code uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nfagent.kube.rbac import LEASE_NAME, LEASES_NAMESPACE, REQUIREMENTS, TESTED_MINOR, Permission
from nfagent.model.gvk import RESOURCES, SERVICES
from nfagent.reporting import lease
from nfagent.reporting.conditions import KINDS

ROOT = Path(__file__).parents[3]
NEEDED = [permission for need in REQUIREMENTS for permission in need.permissions]


def granted() -> Iterator[Permission]:
    documents = yaml.safe_load_all((ROOT / "deploy" / "rbac.yaml").read_text("utf-8"))
    for role in (found for found in documents if found["kind"] in {"ClusterRole", "Role"}):
        for rule in role["rules"]:
            yield from _of_rule(rule, role["metadata"].get("namespace", ""))


def _of_rule(rule: dict[str, Any], namespace: str) -> Iterator[Permission]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                for name in rule.get("resourceNames", [""]):
                    yield Permission(group, resource, verb, namespace, name)


def test_the_shipped_roles_grant_what_is_needed_and_nothing_else() -> None:
    assert sorted(granted()) == sorted(NEEDED)


def test_nothing_is_needed_twice() -> None:
    assert len(NEEDED) == len(set(NEEDED))


def test_exactly_the_watched_resources_are_vital() -> None:
    vital = {(need.group, need.resource, need.namespace, need.name) for need in REQUIREMENTS if need.vital}
    assert vital == {
        (
            each.group,
            each.plural,
            each.namespace,
            each.field_selector.removeprefix("metadata.name=") if each.field_selector else "",
        )
        for each in RESOURCES
    }
    assert all(need.verbs == ("list", "watch") for need in REQUIREMENTS if need.vital)


def test_services_are_listed_and_not_watched() -> None:
    assert [need.verbs for need in REQUIREMENTS if need.resource == SERVICES.plural] == [("list",)]


def test_the_lease_is_the_one_of_the_leader_election() -> None:
    assert (LEASES_NAMESPACE, LEASE_NAME) == (lease.NAMESPACE, lease.NAME)
    leases = {(need.group, need.resource, need.namespace) for need in REQUIREMENTS if need.resource == "leases"}
    assert {f"/apis/{group}/v1/namespaces/{namespace}/{plural}" for group, plural, namespace in leases} == {
        lease.COLLECTION
    }


def test_status_is_written_of_the_kinds_that_have_conditions() -> None:
    plurals = {f"{each.plural}/status" for each in RESOURCES if each.kind in KINDS}
    assert {need.resource for need in REQUIREMENTS if "/" in need.resource} == plurals


def test_the_newest_version_that_is_named_as_tested_is_the_one_that_tests_run() -> None:
    modules = (ROOT / "tests" / "apiserver" / "server" / "go.mod").read_text("utf-8")
    assert re.findall(r"^\s*k8s\.io/kubernetes v1\.(\d+)\.", modules, re.MULTILINE) == [str(TESTED_MINOR)]
