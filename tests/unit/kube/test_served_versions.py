"""The optional kinds that a server serves, by both forms of discovery."""

from __future__ import annotations

import json

import pytest

from nfagent.kube.served_versions import OPTIONAL, decode_group, decode_resources, resource_availability
from nfagent.model.gvk import RESOURCES

LOGGING = next(each for each in OPTIONAL if each.kind == "NetworkLogging")
GROUP = "networking.gke.io"


@pytest.mark.parametrize(
    ("served", "words"),
    [
        pytest.param(
            {(f"{GROUP}/v1alpha1", "networkloggings")},
            "NetworkLogging v1alpha1",
            id="in the version that nfagent reads",
        ),
        pytest.param(
            {(f"{GROUP}/v1alpha1", "networkloggings"), (f"{GROUP}/v1", "networkloggings")},
            "NetworkLogging v1alpha1",
            id="in a newer version too",
        ),
        pytest.param(
            {(f"{GROUP}/v2", "networkloggings"), (f"{GROUP}/v1", "networkloggings")},
            "NetworkLogging served as v1 and v2, but read as v1alpha1",
            id="in other versions only",
        ),
        pytest.param(
            {("other.io/v1alpha1", "networkloggings"), (f"{GROUP}/v1alpha1", "others")},
            "NetworkLogging not served, but read as v1alpha1",
            id="in no version: the same plural in another group",
        ),
    ],
)
def test_a_kind_is_served(served: set[tuple[str, str]], words: str) -> None:
    assert [str(each) for each in resource_availability(frozenset(served), [LOGGING])] == [words]


def test_every_optional_kind_has_an_availability() -> None:
    assert [each.resource for each in resource_availability(frozenset())] == [
        each for each in RESOURCES if each.optional
    ]
    assert all(each.absent for each in resource_availability(frozenset()))


def test_where_discovery_is_not_aggregated_a_group_names_versions_and_a_version_its_kinds() -> None:
    group = {"kind": "APIGroup", "versions": [{"groupVersion": f"{GROUP}/v1", "version": "v1"}]}
    listed = {"kind": "APIResourceList", "resources": [{"name": "a", "kind": "A"}, {"name": "a/status", "kind": "A"}]}
    assert decode_group(json.dumps(group).encode()) == ("v1",)
    assert decode_resources(json.dumps(listed).encode()) == ("a", "a/status")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"versions": null, "resources": null}', b"<html>", b"[", b"\xff"])
def test_an_invalid_document_has_no_versions(body: bytes) -> None:
    assert decode_group(body) == decode_resources(body) == ()
