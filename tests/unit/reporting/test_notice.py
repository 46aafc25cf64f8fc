"""API paths of objects, and printable messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.objects import ObjectRef
from nfagent.reporting.notice import MAX_MESSAGE_BYTES, api_version, object_path, readable


@pytest.mark.parametrize(
    ("about", "version", "path"),
    [
        (
            ObjectRef("NetworkPolicy", "shop", "db"),
            "networking.k8s.io/v1",
            "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/db",
        ),
        (ObjectRef("Service", "shop", "db"), "v1", "/api/v1/namespaces/shop/services/db"),
        (
            ObjectRef("ConfigMap", "kube-system", "ip-masq-agent"),
            "v1",
            "/api/v1/namespaces/kube-system/configmaps/ip-masq-agent",
        ),
        (
            ObjectRef("EgressNATPolicy", "", "default"),
            "networking.gke.io/v1",
            "/apis/networking.gke.io/v1/egressnatpolicies/default",
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, ObjectRef) else "",
)
def test_an_object_has_the_path_under_which_the_api_server_serves_it(about: ObjectRef, version: str, path: str) -> None:
    assert (api_version(about), object_path(about)) == (version, path)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        pytest.param("a\n  b\tc ", "a b c", id="lines become one"),
        pytest.param("\x1b[31mred\x07", "?[31mred?", id="control characters are replaced"),
        pytest.param("\ud800", "?", id="half of a surrogate pair is replaced"),
        pytest.param("x" * 1024, "x" * 1024, id="a message within the limit is unchanged"),
        pytest.param("x" * 1025, "x" * 1021 + "…", id="a longer one ends in an ellipsis"),
        pytest.param("é" * 513, "é" * 510 + "…", id="the limit is in bytes, the cut between characters"),
    ],
)
def test_a_message_is_one_readable_line(message: str, shown: str) -> None:
    assert readable(message) == shown


@given(st.text(max_size=2000))
def test_any_message_fits_and_shortening_is_idempotent(message: str) -> None:
    shown = readable(message)
    assert len(shown.encode()) <= MAX_MESSAGE_BYTES
    assert readable(shown) == shown
